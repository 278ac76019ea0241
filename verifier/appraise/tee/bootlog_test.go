package tee_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tdxtest"
)

// TestAKnownLogIsHeldAgainstEachQuote has one appraiser read the same log again
// and again: what it says is known, whether it is this boot's is not.
func TestAKnownLogIsHeldAgainstEachQuote(t *testing.T) {
	w := newWorld(t)
	w.published(t)
	cpus := tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: w.pki.Roots()}, Collateral: func([]byte, time.Time) (*collateral.Set, error) {
		return collateral.Open(w.raw, w.pki.Roots())
	}})
	manifests := w.Manifests(t)
	appraised := func(ev *evidence.Evidence) *result.Result {
		return resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: manifests, Now: tdxtest.Now, CPUs: cpus}))
	}
	good := w.evidence(t)
	first := appraised(good)
	if !first.Accepted {
		t.Fatalf("refused: %v", first.Err())
	}
	for range 3 {
		if again := appraised(good); !again.Accepted || !slices.Equal(again.Checks(), first.Checks()) {
			t.Errorf("again: accepted %v, %v", again.Accepted, again.Checks())
		}
	}
	log := bytes.Clone(good.CPU.EventLog)
	w.log[3].Of = "another kernel"
	other := w.evidence(t)
	if bytes.Equal(other.CPU.EventLog, log) {
		t.Fatal("another kernel gives the same log")
	}
	if r := appraised(other); r.Accepted || !slices.Contains(failed(r), "rtmr.1") || slices.Contains(failed(r), "tdx.event_log.replay") {
		t.Errorf("another kernel: accepted %v, %v", r.Accepted, failed(r))
	}
	other.CPU.EventLog = log
	if r := appraised(other); r.Accepted || !slices.Contains(failed(r), "tdx.event_log.replay") {
		t.Errorf("another boot's log: accepted %v, %v", r.Accepted, failed(r))
	}
	good.CPU.EventLog = bytes.Clone(log)
	good.CPU.EventLog[len(log)-1] ^= 1
	if r := appraised(good); r.Accepted {
		t.Error("a log with another last byte is accepted")
	}
}
