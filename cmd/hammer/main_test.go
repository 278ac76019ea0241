package main

import (
	"bytes"
	"cocoon/measurements/manifest"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
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

// start runs a verifier that accepts the example fleet, in this process.
func start(t testing.TB, change func(*server.Options)) string {
	t.Helper()
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
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
	log, err := journal.Open(journal.Options{Dir: filepath.Join(t.TempDir(), "journal"), Origin: "hammer.test/verdicts", Key: key, Promises: true, Publish: &journal.Publish{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	o := server.Options{Trust: server.Trust{Policy: p, Manifests: ms, Signer: key,
		CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots(), Cache: dcap.NewCache(dcap.CacheOptions{})},
			SNP: snp.Options{Roots: f.SNPPKI().Roots(), Cache: snp.NewCache(snp.CacheOptions{})}}),
		GPUs: gpus.New(gpus.Options{Roots: f.GPUPKI().Roots(), RIMRoots: f.GPUPKI().RIMRoots(), Cache: nvgpu.NewCache(nvgpu.CacheOptions{})})},
		Journal: server.NewDurable(log, time.Now), PerSecond: 1e6, Burst: 1e6, Wait: time.Minute, Concurrent: 4}
	if change != nil {
		change(&o)
	}
	h, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func hammered(t testing.TB, args ...string) map[string]any {
	t.Helper()
	var out, progress bytes.Buffer
	if err := run(context.Background(), append(args, "-json"), &out, &progress); err != nil {
		t.Fatalf("%v\n%s%s", err, progress.String(), out.String())
	}
	var rep map[string]any
	if err := json.Unmarshal(out.Bytes(), &rep); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v:\n%s", args, out.String())
	return rep
}

func TestEveryKindOfMachineGetsVerdicts(t *testing.T) {
	url := start(t, nil)
	for _, kind := range testfleet.Kinds() {
		rep := hammered(t, "-verifier", url, "-duration", "300ms", "-type", kind, "-concurrency", "4")
		for _, key := range []string{"rate_per_s", "p50_ms", "p99_ms", "rss_bytes", "verdicts", "hammer_cpu_s"} {
			if v, ok := rep[key].(float64); !ok || v <= 0 {
				t.Errorf("%s: %s is %v", kind, key, rep[key])
			}
		}
		if rep["shed"] != 0.0 || rep["errors"] != 0.0 {
			t.Errorf("%s: shed %v, errors %v", kind, rep["shed"], rep["errors"])
		}
	}
}

// TestOverloadIsTurnedAway asks for far more than there is room for: some of it
// is turned away, nothing else goes wrong, and verdicts are given afterwards.
func TestOverloadIsTurnedAway(t *testing.T) {
	url := start(t, func(o *server.Options) { o.Concurrent, o.Queue = 1, 4 })
	rep := hammered(t, "-verifier", url, "-duration", "2s", "-load", "10", "-concurrency", "4")
	if rep["shed"].(float64) == 0 || rep["verdicts"].(float64) == 0 || rep["errors"] != 0.0 || rep["recovery_ms"].(float64) <= 0 {
		t.Errorf("%v", rep)
	}
	const bound = 256 << 20 // the hammer is in the same process
	if grown := rep["rss_bytes"].(float64) - rep["rss_bytes_before"].(float64); grown > bound {
		t.Errorf("memory grew by %.0f bytes", grown)
	}
}

// TestEveryArrivalOfARateIsAccountedFor holds however slow the machine is: what was
// due was answered or missed.
func TestEveryArrivalOfARateIsAccountedFor(t *testing.T) {
	url := start(t, nil)
	for _, c := range []struct {
		rate, duration string
		seconds, want  float64
	}{{"2000", "500ms", 0.5, 1000}, {"3", "1s", 1, 3}} {
		rep := hammered(t, "-verifier", url, "-rate", c.rate, "-duration", c.duration)
		sum := 0.0
		for _, key := range []string{"verdicts", "shed", "errors", "missed"} {
			sum += rep[key].(float64)
		}
		if sum != c.want || rep["errors"] != 0.0 || rep["seconds"].(float64) < c.seconds {
			t.Errorf("%s/s for %s: %.0f of %.0f arrivals are accounted for", c.rate, c.duration, sum, c.want)
		}
	}
}

func TestWhatIsWrittenConfiguresAVerifier(t *testing.T) {
	dir := t.TempDir()
	if err := run(t.Context(), []string{"-write-files", dir}, os.Stdout, os.Stderr); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{testfleet.FileManifest, testfleet.FilePolicy, testfleet.FileIntel, testfleet.FileAMD, testfleet.FileNVIDIA, testfleet.FileRIM} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAFilledJournalIsWhole fills one twice: it grows, and passes fsck.
func TestAFilledJournalIsWhole(t *testing.T) {
	dir := t.TempDir()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	path, journalDir := filepath.Join(dir, "key"), filepath.Join(dir, "journal")
	if err := keyfile.Write(path, key); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"-fill", journalDir + "," + path + ",hammer.test/verdicts", "-entries", "1000"}, &out, &out); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if n := strings.Count(out.String(), "entries "); n != 10 {
			t.Errorf("%d lines:\n%s", n, out.String())
		}
	}
	if rep, err := journal.Fsck(journalDir); err != nil || rep.Size != 2000 {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestWhatCannotBeHammeredIsNamed(t *testing.T) {
	url := start(t, nil)
	for name, c := range map[string]struct {
		args []string
		want string
		exit int
	}{
		"no verifier":         {nil, "usage", fault.ExitInternal},
		"an address with TLS": {[]string{"-verifier", "https://127.0.0.1:1"}, "usage", fault.ExitInternal},
		"an unknown machine":  {[]string{"-verifier", url, "-type", "sparc"}, "usage", fault.ExitInternal},
		"half a journal":      {[]string{"-fill", "dir,key"}, "usage", fault.ExitInternal},
		"no journal's key":    {[]string{"-fill", t.TempDir() + ",no-such-file,origin"}, "verifier.journal", fault.ExitInternal},
		"two rates":           {[]string{"-verifier", url, "-rate", "1", "-load", "1"}, "usage", fault.ExitInternal},
		"nobody there":        {[]string{"-verifier", "http://127.0.0.1:1"}, "verifier.unreachable", fault.ExitNetwork},
		"machines that the verifier does not know": {[]string{"-verifier", url, "-seed", "another"}, "hammer.refused", fault.ExitInternal},
	} {
		t.Run(name, func(t *testing.T) {
			var out, progress bytes.Buffer
			err := run(t.Context(), c.args, &out, &progress)
			if !fault.Has(err, c.want) || fault.ExitCode(err) != c.exit {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-verifier", url, "-duration", "100ms"}, &out, &bytes.Buffer{}); err != nil || !strings.Contains(out.String(), "verdicts/s of tdx") {
		t.Errorf("%v: %s", err, out.String())
	}
}
