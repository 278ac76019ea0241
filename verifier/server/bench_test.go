package server_test

import (
	"bytes"
	"cocoon/measurements/manifest"
	"crypto/ed25519"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/journal"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/policy"
	"cocoon/verifier/server"
	"cocoon/verifier/snp"
	"cocoon/verifier/testfleet"
)

// fleetServer returns a service that accepts the fleet, with its verdicts in a
// journal on disk.
func fleetServer(t testing.TB, f *testfleet.Fleet) *server.Server {
	t.Helper()
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	p := f.Policy(policy.ClassTest, policy.ClassTDX, policy.ClassSNP)
	ms, err := appraise.OpenManifests(p, []manifest.Published{{Envelope: env}})
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	log, err := journal.Open(journal.Options{Dir: filepath.Join(t.TempDir(), "journal"), Origin: "verifier.example/verdicts", Key: key, Promises: true, Publish: &journal.Publish{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	s, err := server.New(server.Options{Trust: server.Trust{Policy: p, Manifests: ms, Signer: key,
		CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots(), Cache: dcap.NewCache(dcap.CacheOptions{})},
			SNP: snp.Options{Roots: f.SNPPKI().Roots(), Cache: snp.NewCache(snp.CacheOptions{})}}),
		GPUs: gpus.New(gpus.Options{Roots: f.GPUPKI().Roots(), RIMRoots: f.GPUPKI().RIMRoots(), Cache: nvgpu.NewCache(nvgpu.CacheOptions{})})},
		Journal: server.NewDurable(log, time.Now), PerSecond: 1e9, Burst: 1e9, Queue: 1 << 16, Delay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func call(t testing.TB, s *server.Server, procedure string, in, out proto.Message) {
	t.Helper()
	b, err := proto.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = post(s, procedure, b); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
}

func post(s *server.Server, procedure string, body []byte) ([]byte, error) {
	r := httptest.NewRequest(http.MethodPost, procedure, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/proto")
	r.Header.Set("Connect-Protocol-Version", "1")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err == nil && w.Code != http.StatusOK {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// cpuTime is what this process has used.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkVerdict is a whole verdict, from the request's bytes to the
// response's with the journal's sync, without the network.
func BenchmarkVerdict(b *testing.B) {
	f, err := testfleet.New("bench")
	if err != nil {
		b.Fatal(err)
	}
	for _, kind := range testfleet.Kinds() {
		b.Run(kind, func(b *testing.B) {
			s := fleetServer(b, f)
			m, err := f.Machine(kind, time.Now())
			if err != nil {
				b.Fatal(err)
			}
			bodies := make([][]byte, b.N)
			for i := range bodies {
				var c verifierv1.ChallengeResponse
				call(b, s, verifierv1connect.VerifierServiceChallengeProcedure, &verifierv1.ChallengeRequest{}, &c)
				d, err := digest.Parse256(c.Challenge)
				if err != nil {
					b.Fatal(err)
				}
				doc, err := m.Evidence(d)
				if err != nil {
					b.Fatal(err)
				}
				if bodies[i], err = proto.Marshal(&verifierv1.AppraiseRequest{Evidence: doc}); err != nil {
					b.Fatal(err)
				}
			}
			var next atomic.Int64
			used := cpuTime(b)
			b.SetParallelism(16)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					out, err := post(s, verifierv1connect.VerifierServiceAppraiseProcedure, bodies[next.Add(1)-1])
					if err != nil || len(out) < 2 || out[0] != 8 || out[1] != 1 {
						b.Errorf("no verdict: %v", err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verdicts/s")
			b.ReportMetric(float64((cpuTime(b)-used).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}
