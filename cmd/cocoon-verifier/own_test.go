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
	at := func() string {
		t.Helper()
		b, err := e.Evidence(context.Background(), claims)
		if err != nil {
			return err.Error()
		}
		d, err := self.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		return d.Claims.At
	}
	for jump, again := range map[time.Duration]bool{ownAge - time.Second: false, ownAge: true, -time.Hour: true} {
		e.at, now = time.Time{}, time.Now()
		first := at()
		now = now.Add(jump)
		if got := at(); (got != first) != again {
			t.Errorf("after %s it is of %s, was of %s", jump, got, first)
		}
	}
	g.Failing = errors.New("no answer")
	now = now.Add(24 * time.Hour)
	if got := at(); !strings.Contains(got, "no answer") {
		t.Errorf("it is of %s", got)
	}
	g.Failing = nil
	if got := at(); !strings.Contains(got, "no answer") {
		t.Errorf("a failure was forgotten at once: %s", got)
	}
	now = now.Add(ownRetry)
	if got := at(); got != now.UTC().Format(time.RFC3339) {
		t.Errorf("then it is of %s", got)
	}
}
