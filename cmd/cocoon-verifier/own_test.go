package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/enclave/platform"
	"cocoon/enclave/teetest"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/client"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/jwks"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/self"
	"cocoon/verifier/snp"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/wire"
)

// shown is a running service that shows evidence of a simulated machine.
type shown struct {
	*service
	url, dir string
	cfg      map[string]any
}

func showing(t *testing.T, machine *keystore) *shown {
	t.Helper()
	s := &shown{}
	s.dir = installFleet(t, newFleet(t), func(m map[string]any) { m["evidence"], s.cfg = "tee", m })
	var err error
	if s.service, err = newServiceOn(machine, time.Now, filepath.Join(s.dir, "config.yaml"), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

// own is what a client takes of it.
func (s *shown) own(t *testing.T) *self.Document {
	t.Helper()
	_, d, err := dial(t, s.url).Own(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// judge appraises a document under the fleet's roots.
func judge(t *testing.T, d *self.Document, collateral json.RawMessage) *result.Result {
	t.Helper()
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	cpus := tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots()}, SNP: snp.Options{Roots: f.SNPPKI().Roots()}})
	return appraise.AppraiseVerifier(d, collateral, &appraise.Options{Policy: f.Policy(policy.ClassTDX, policy.ClassSNP, policy.ClassTest), CPUs: cpus, Now: time.Now()})
}

// TestAServiceInATEEShowsEvidenceOverItsKeys has a service in an SNP guest and one
// in a TD collect evidence, and a client hold it against the published keys.
func TestAServiceInATEEShowsEvidenceOverItsKeys(t *testing.T) {
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	td, err := teetest.NewTD(f, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		machine    *keystore
		collateral json.RawMessage
	}{
		"snp": {on(platform.SNP, newGuest(t)), nil},
		"tdx": {on(platform.TDX, td), td.Collateral},
	} {
		t.Run(name, func(t *testing.T) {
			s := showing(t, c.machine)
			first := s.own(t)
			if r := judge(t, first, c.collateral); len(r.Failed()) > 0 || r.Accepted {
				t.Errorf("failed %s, accepted %v", failedIDs(r), r.Accepted)
			}
			keys, err := jwks.Parse(fetch(t, s.url+wire.PathJWKS))
			if err != nil || len(first.Claims.Keys) != 1 || first.Claims.Keys[0] != digest.Sum256(keys[0]) {
				t.Errorf("it is over %v, published is %x, %v", first.Claims.Keys, keys, err)
			}
			// It is over the log and the policy, too.
			if first.Claims.LogKey == "" || len(first.Claims.Policies) != 1 {
				t.Errorf("claims %+v", first.Claims)
			}
			// Whatever is changed in the claims is not what the TEE signed.
			forged := *first
			forged.Claims.Keys = []digest.SHA256{{1}}
			if r := judge(t, &forged, c.collateral); failedIDs(r) != name+".report_data" {
				t.Errorf("claims of another key: failed %s", failedIDs(r))
			}
			// Who is asked again has it, until there is another key.
			if again := s.own(t); again.Claims.At != first.Claims.At || !bytes.Equal(again.CPU.Quote, first.CPU.Quote) {
				t.Error("it was collected twice")
			}
			s.cfg["signing_key"] = "keys/next.key"
			writeConfig(t, s.dir, s.cfg)
			if err := s.reload(); err != nil {
				t.Fatal(err)
			}
			next := s.own(t)
			if next.Claims.Keys[0] == first.Claims.Keys[0] || len(judge(t, next, c.collateral).Failed()) > 0 {
				t.Errorf("after a reload it is over %v", next.Claims.Keys)
			}
		})
	}
	if td.Quotes() != 2 { // one for each key
		t.Errorf("the TD quoted %d times", td.Quotes())
	}
}

// TestEvidenceOverOtherKeysIsRefused shows a client evidence of another service,
// pins another key, and takes the evidence away.
func TestEvidenceOverOtherKeysIsRefused(t *testing.T) {
	a, b := showing(t, on(platform.SNP, newGuest(t))), showing(t, on(platform.SNP, newGuest(t)))
	_, theirs, err := dial(t, b.url).Own(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := dial(t, a.url).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Bound(info); !fault.Has(err, self.CodeBound) {
		t.Errorf("another service's evidence: %v", err)
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for code, keys := range map[string][]ed25519.PublicKey{"": {info.Keys[0].Public[:]}, self.CodeBound: {public}} {
		c, err := client.New(client.Options{BaseURL: a.url, Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Own(t.Context()); code == "" && err != nil || code != "" && !fault.Has(err, code) {
			t.Errorf("with a pinned key: %v, want %q", err, code)
		}
	}
	// A service without shows none, and says what else it has to say.
	srv := httptest.NewServer(started(t, install(t, nil)))
	defer srv.Close()
	if _, _, err := dial(t, srv.URL).Own(t.Context()); !fault.Has(err, self.CodeAbsent) {
		t.Errorf("without evidence: %v", err)
	}
}

// TestATEEThatFailsIsNoEvidence fails the firmware before the start and after it.
func TestATEEThatFailsIsNoEvidence(t *testing.T) {
	g := newGuest(t)
	g.Policy |= 1 << 19
	if r := judge(t, showing(t, on(platform.SNP, g)).own(t), nil); !strings.Contains(failedIDs(r), "debug") {
		t.Errorf("under debug: failed %s", failedIDs(r))
	}
	g = newGuest(t)
	s := showing(t, on(platform.SNP, g))
	g.Failing = errors.New("no answer")
	s.cfg["signing_key"] = "keys/next.key"
	writeConfig(t, s.dir, s.cfg)
	if err := s.reload(); err != nil {
		t.Fatal(err)
	}
	// Old evidence is over another key: there is none rather than that.
	if info, err := dial(t, s.url).Info(t.Context()); err != nil || info.Evidence != nil || len(info.Keys) != 1 {
		t.Errorf("%+v, %v", info, err)
	}
	dir := installFleet(t, newFleet(t), func(m map[string]any) { m["evidence"] = "tee" })
	for want, machine := range map[string]*keystore{"verifier.evidence": on(platform.SNP, g),
		codeTEE: {machine: func() (platform.Platform, error) {
			return nil, fault.New(fault.ExitNotReady, codeTEE, remedyTEE, "no TEE")
		}}} {
		if _, err := newServiceOn(machine, time.Now, filepath.Join(dir, "config.yaml"), slog.New(slog.DiscardHandler)); !fault.Has(err, want) {
			t.Errorf("starting: %v, want %s", err, want)
		}
	}
	// It was the TEE: with one that answers, the same service starts.
	g.Failing = nil
	good, err := newServiceOn(on(platform.SNP, g), time.Now, filepath.Join(dir, "config.yaml"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := good.Close(); err != nil {
		t.Error(err)
	}
}

// TestOwnEvidenceIsCollectedAnewInTime moves the clock.
func TestOwnEvidenceIsCollectedAnewInTime(t *testing.T) {
	g := newGuest(t)
	now := time.Now()
	e, err := on(platform.SNP, g).teeEvidence(func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	claims := self.Claims{Keys: []digest.SHA256{{1}}, Policies: []digest.SHA256{}}
	// at is of when what is shown is, and why there is no newer. A collection that
	// was begun has ended when it returns.
	at := func() (string, error) {
		t.Helper()
		b, err := e.Evidence(context.Background(), claims)
		e.mu.Lock()
		running := e.running
		e.mu.Unlock()
		if running != nil {
			<-running.done
		}
		if b == nil {
			return "", err
		}
		d, perr := self.Parse(b)
		if perr != nil {
			t.Fatal(perr)
		}
		return d.Claims.At, err
	}
	stamp := func() string { return now.UTC().Format(time.RFC3339) }
	for jump, want := range map[time.Duration][2]bool{ // whether it is new at once, and then
		ownAge - time.Second: {false, false}, ownAge: {false, true}, ownHeld: {true, true}, -time.Hour: {true, true},
	} {
		e.at, now = time.Time{}, time.Now()
		if first, err := at(); first != stamp() {
			t.Errorf("it is of %s, %v", first, err)
		}
		now = now.Add(jump)
		for i, again := range want {
			if got, err := at(); (got == stamp()) != again {
				t.Errorf("after %s, asked %d times, it is of %s, %v", jump, i+1, got, err)
			}
		}
	}
	// A failure leaves what was, for as long as that may be shown.
	held := stamp()
	if _, err := at(); err != nil {
		t.Fatal(err)
	}
	g.Failing = errors.New("no answer")
	now = now.Add(ownAge)
	for range 2 {
		if got, _ := at(); got != held {
			t.Errorf("after a failure it is of %q, was of %s", got, held)
		}
	}
	now = now.Add(24 * time.Hour)
	if got, err := at(); got != "" || err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("a day later it is of %q, %v", got, err)
	}
	g.Failing = nil
	if got, err := at(); got != "" || err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("a failure was forgotten at once: %q, %v", got, err)
	}
	now = now.Add(ownRetry)
	if _, err := at(); err == nil {
		t.Error("somebody waited while it was tried again")
	}
	if got, err := at(); got != stamp() || err != nil {
		t.Errorf("then it is of %q, %v", got, err)
	}
}

// hangingTEE is a TEE whose host answers when it is let.
type hangingTEE struct {
	platform.TEE
	asked  atomic.Int32
	answer chan struct{}
}

func (s *hangingTEE) Over(ctx context.Context, data [64]byte) (*evidence.CPU, error) {
	s.asked.Add(1)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.answer:
		return s.TEE.Over(ctx, data)
	}
}

// TestAHostThatHangsHoldsNobodyUp has many ask for evidence that the host does not
// give: it is asked once, who waits may go, and what there was is shown meanwhile.
func TestAHostThatHangsHoldsNobodyUp(t *testing.T) {
	var at atomic.Pointer[time.Time]
	jump := func(to time.Time) { at.Store(&to) }
	jump(time.Now())
	e, err := on(platform.SNP, newGuest(t)).teeEvidence(func() time.Time { return *at.Load() })
	if err != nil {
		t.Fatal(err)
	}
	s := &hangingTEE{TEE: e.machine, answer: make(chan struct{})}
	e.machine = s
	claims := self.Claims{Keys: []digest.SHA256{{1}}, Policies: []digest.SHA256{}}
	type answer struct {
		b   []byte
		err error
	}
	ask := func(ctx context.Context, n int) chan answer {
		out := make(chan answer, n)
		for range n {
			go func() {
				b, err := e.Evidence(ctx, claims)
				out <- answer{b, err}
			}()
		}
		return out
	}
	get := func(c chan answer) answer {
		t.Helper()
		select {
		case a := <-c:
			return a
		case <-time.After(time.Minute):
			t.Fatal("they wait for the host")
			return answer{}
		}
	}
	const many = 50
	patient := ask(t.Context(), many)
	ctx, cancel := context.WithCancel(t.Context())
	gone := ask(ctx, many)
	cancel()
	for range many {
		if a := get(gone); !errors.Is(a.err, context.Canceled) {
			t.Errorf("who went had %v", a.err)
		}
	}
	close(s.answer)
	var first []byte
	for range many {
		a := get(patient)
		if first == nil {
			first = a.b
		}
		if a.err != nil || !bytes.Equal(a.b, first) {
			t.Errorf("who waited had %d bytes, %v", len(a.b), a.err)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the host was asked %d times", n)
	}
	// It hangs again when it is time for another.
	s.answer = make(chan struct{})
	jump(at.Load().Add(ownAge))
	again := ask(t.Context(), many)
	for range many {
		if a := get(again); a.err != nil || !bytes.Equal(a.b, first) {
			t.Errorf("meanwhile there were %d bytes, %v", len(a.b), a.err)
		}
	}
	// Close waits for no host.
	closed := make(chan answer, 1)
	go func() { closed <- answer{err: e.Close()} }()
	if a := get(closed); a.err != nil {
		t.Error(a.err)
	}
	if n := s.asked.Load(); n != 2 {
		t.Errorf("the host was asked %d times", n)
	}
}

// TestEvidenceOfAnotherTimeIsRefused dials with clocks that are off.
func TestEvidenceOfAnotherTimeIsRefused(t *testing.T) {
	s := showing(t, on(platform.SNP, newGuest(t)))
	for off, code := range map[time.Duration]string{0: "", self.MaxAge + time.Hour: self.CodeExpired, -time.Hour: self.CodeFuture} {
		c, err := client.New(client.Options{BaseURL: s.url, Clock: func() time.Time { return time.Now().Add(off) }})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Own(t.Context()); code == "" && err != nil || code != "" && !fault.Has(err, code) {
			t.Errorf("with a clock that is off by %s: %v, want %q", off, err, code)
		}
	}
}

// TestAVerifierOfAnotherClassFails has a policy that takes no test authorities.
func TestAVerifierOfAnotherClassFails(t *testing.T) {
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	d := showing(t, on(platform.SNP, newGuest(t))).own(t)
	cpus := tee.CPUs(tee.Options{SNP: snp.Options{Roots: f.SNPPKI().Roots()}})
	r := appraise.AppraiseVerifier(d, nil, &appraise.Options{Policy: f.Policy(policy.ClassSNP, policy.ClassVTPM), CPUs: cpus, Now: time.Now()})
	if ids := failedIDs(r); !strings.Contains(ids, "policy.trust_class") {
		t.Errorf("failed %s", ids)
	}
}
