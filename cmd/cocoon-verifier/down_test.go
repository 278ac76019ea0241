package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/pcstest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu/rimtest"
	"cocoon/verifier/nvgputest"
	"cocoon/verifier/pck"
	"cocoon/verifier/result"
	"cocoon/verifier/snp/kdstest"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
	"cocoon/verifier/testfleet"
)

// sourced is a running service that asks test services of the makers, and
// machines that bring nothing of what those have.
type sourced struct {
	fleet  *testfleet.Fleet
	client *client.Client
	now    time.Time
}

// config is that of a service which asks the source, and waits for a second.
func (src *testSource) config(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(src.handler)
	t.Cleanup(srv.Close)
	return rooted(t, func(m map[string]any) {
		key := "url"
		if src.section == "gpu_cache" {
			key = "rim"
		}
		m[src.section] = map[string]any{key: srv.URL, "timeout_seconds": 20}
		delete(m, "journal") // tests start several services of it
	})
}

// impatient is the same config with a second of waiting for a source.
func impatient(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = strings.TrimSuffix(path, ".json") + "-impatient.json"
	if err := os.WriteFile(path, bytes.Replace(b, []byte(`"timeout_seconds":20`), []byte(`"timeout_seconds":1`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func startSourced(t *testing.T, path string) *sourced {
	t.Helper()
	return startSourcedAt(t, path, time.Now)
}

// startSourcedAt is startSourced by a clock. Machines are of the present.
func startSourcedAt(t *testing.T, path string, clock func() time.Time) *sourced {
	t.Helper()
	s, err := newServiceOn(&keystore{}, clock, path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	api := httptest.NewServer(s)
	t.Cleanup(api.Close)
	c, err := client.New(client.Options{BaseURL: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	return &sourced{f, c, time.Now()}
}

// appraise has a bare machine of a kind appraised. The verdict, where there is
// one, says the same as the result beside it.
func (s *sourced) appraise(t *testing.T, kind string) *result.Result {
	t.Helper()
	ctx := context.Background()
	m, err := s.fleet.Machine(kind, s.now)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := s.client.Challenge(ctx)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := m.Evidence(ch.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := evidence.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	ev.Collateral = nil
	if kind == testfleet.SNP {
		ev.CPU.CertChain = [][]byte{}
	}
	v, err := s.client.Verify(ctx, ev)
	if err != nil {
		r := client.Refusal(err)
		if r == nil {
			t.Fatal(err)
		}
		return r
	}
	e, err := result.ParseEAR(v.EAR)
	if err == nil {
		err = e.OpenChecks(v.Checks)
	}
	if err != nil {
		t.Fatal(err)
	}
	var signed []result.Check
	for _, sub := range e.Submods {
		signed = append(signed, sub.Checks()...)
	}
	for _, k := range v.Result.Checks() {
		if strings.HasSuffix(k.ID, ".collateral.source") && !slices.ContainsFunc(signed, func(c result.Check) bool { return c.ID == k.ID && c.Actual == k.Actual }) {
			t.Errorf("the verdict does not say %s %q", k.ID, k.Actual)
		}
	}
	return v.Result
}

// source returns what the result says of where collateral came from.
func source(r *result.Result) string {
	for _, k := range r.Checks() {
		if strings.HasSuffix(k.ID, ".collateral.source") {
			return k.Actual
		}
	}
	return ""
}

func failedIDs(r *result.Result) string {
	var ids []string
	for _, k := range r.Failed() {
		ids = append(ids, k.ID)
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), " ")
}

// measured finds a reference measurement in a RIM.
var measured = regexp.MustCompile(`[0-9a-f]{96}`)

// behaviour is how a source behaves, as far as its test server can.
type behaviour int

const (
	answers behaviour = iota
	down
	lying   // one byte of a signature, or of a hash, is another
	halving // half of each answer
	silent
)

// testSource is a test server of a maker's service, and what turns its behaviour.
type testSource struct {
	section, kind string
	handler       http.Handler
	behave        func(behaviour)
}

func sources(t *testing.T, never <-chan struct{}) []testSource {
	t.Helper()
	fleet, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }

	intel := pcstest.New()
	m, err := fleet.Machine(testfleet.TDX, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := m.Evidence(digest.SHA256{})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := evidence.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := collateral.ParseJSON(ev.Collateral)
	if err != nil {
		t.Fatal(err)
	}
	info := tdxtest.StatusTDX(tcb.UpToDate).Collateral.Info
	intel.Add(pcstest.Entry{TEE: "tdx", FMSPC: info.FMSPC, CA: pck.PlatformCA, Evaluation: info.Evaluation, Raw: raw})

	amd := kdstest.New(fleet.SNPPKI())
	chip := snptest.Default(3, report.Genoa, report.VCEK)
	amd.Add(&chip)
	list := snptest.DefaultCRL(report.Genoa)
	list.ThisUpdate, list.NextUpdate = time.Now().AddDate(0, 0, -1), time.Now().AddDate(0, 0, 29)
	amd.SetCRL(list)

	nvidia := rimtest.NewServer()
	gpu := nvgputest.GPU(1)
	if err := fleet.GPUPKI().Serve(nvidia, &gpu, time.Now().Add(-time.Minute).Truncate(time.Second)); err != nil {
		t.Fatal(err)
	}
	return []testSource{
		{"pcs", testfleet.TDX, intel, func(b behaviour) {
			f := map[behaviour]*pcstest.Fault{down: {Status: 503}, lying: &pcstest.WrongSignature, halving: {Body: half}, silent: {Hold: never}}[b]
			for _, p := range pcstest.Parts() {
				intel.Misbehave(p, f)
			}
		}},
		{"kds", testfleet.SNP, amd, func(b behaviour) {
			f := map[behaviour]*kdstest.Fault{down: {Status: 503}, lying: {Body: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }}, halving: {Body: half}, silent: {Hold: never}}[b]
			amd.Misbehave(kdstest.VCEK, f)
			amd.Misbehave(kdstest.CRL, f)
		}},
		{"gpu_cache", testfleet.GPU, nvidia, func(b behaviour) {
			switch b {
			case down:
				nvidia.Misbehave(503, nil, nil)
			case lying: // a document of its own making, with its own hash
				nvidia.Misbehave(0, func(a map[string]any) {
					doc := bytes.Clone(a["rim"].([]byte))
					doc[measured.FindIndex(doc)[0]] ^= 1 // from one hex digit to another
					sum := sha256.Sum256(doc)
					a["rim"], a["sha256"] = doc, hex.EncodeToString(sum[:])
				}, nil)
			case halving:
				nvidia.Misbehave(0, func(a map[string]any) { a["rim"] = half(a["rim"].([]byte)) }, nil)
			case silent:
				nvidia.Misbehave(0, nil, never)
			default:
				nvidia.Misbehave(0, nil, nil)
			}
		}},
	}
}

// TestSourcesThatFail asks for verdicts on machines that bring no collateral
// while each of the makers' services answers, is down, lies, answers by halves
// and keeps silent, before and after it answered: refused, or served from what
// is held, and the result says which.
func TestSourcesThatFail(t *testing.T) {
	never := make(chan struct{})
	list := sources(t, never)
	paths := map[string]string{}
	for _, src := range list {
		paths[src.section] = src.config(t)
	}
	t.Cleanup(func() { close(never) }) // before the servers end, which wait for their requests
	// What the failed checks have to name, and what nobody answers is refused by.
	names := map[string]string{"pcs": "dcap.collateral.", "kds": "snp.kds.", "gpu_cache": "gpu.rim."}
	for _, src := range list {
		path := paths[src.section]
		for name, c := range map[string]struct {
			warm bool
			then behaviour
		}{
			"it answers": {}, "it is down": {then: down}, "it lies": {then: lying}, "it answers by halves": {then: halving}, "it keeps silent": {then: silent},
			"it answered, and is down": {true, down}, "it answered, and lies": {true, lying}, "it answered, and keeps silent": {true, silent},
		} {
			t.Run(src.section+": "+name, func(t *testing.T) {
				src.behave(answers)
				path := path
				if c.then == silent && !c.warm {
					path = impatient(t, path) // who is never answered need not wait long
				}
				s := startSourced(t, path)
				if c.warm {
					if r := s.appraise(t, src.kind); !r.Accepted || !strings.Contains(source(r), "fetched") {
						t.Fatalf("while it answers: %q, failed %s", source(r), failedIDs(r))
					}
				}
				src.behave(c.then)
				r := s.appraise(t, src.kind)
				if want := c.warm || c.then == answers; r.Accepted != want {
					t.Fatalf("accepted %v, failed %s; %q", r.Accepted, failedIDs(r), source(r))
				}
				switch {
				case c.warm:
					if !strings.Contains(source(r), "held") || strings.Contains(source(r), "fetched") {
						t.Errorf("it says that collateral is %q", source(r))
					}
				case c.then == answers:
					if !strings.Contains(source(r), "fetched") {
						t.Errorf("it says that collateral is %q", source(r))
					}
				case !strings.Contains(failedIDs(r), names[src.section]):
					t.Errorf("failed %s", failedIDs(r))
				case src.section == "gpu_cache" && !strings.Contains(source(r), "not to be had: "):
					t.Errorf("it says that collateral is %q", source(r))
				}
			})
		}
	}
}
