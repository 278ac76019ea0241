package appraise_test

import (
	"fmt"
	"testing"

	"cocoon/measurements/eventlog"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// sameButLabels reports whether two pieces of evidence differ in nothing but
// what nobody signs: types and data of events in the boot log.
func sameButLabels(t testing.TB, a, b *evidence.Evidence) bool {
	t.Helper()
	proven := func(ev *evidence.Evidence) (string, string) {
		l, err := eventlog.ParseTPM(ev.CPU.EventLog)
		if err != nil {
			t.Fatal(err)
		}
		var events string
		for _, e := range l.Events {
			if e.Type != eventlog.NoAction {
				events += fmt.Sprintf("%d %x\n", e.Register, e.Digests)
			}
		}
		c := *ev
		c.CPU.EventLog = nil
		rest, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return events, string(rest)
	}
	ea, ra := proven(a)
	eb, rb := proven(b)
	return ea == eb && ra == rb
}

// TestNoFlippedByteIsAccepted flips every byte of a piece of evidence: what is
// still accepted must say the same in all that is proven.
func TestNoFlippedByteIsAccepted(t *testing.T) {
	w := tpmtest.NewWorld(t)
	o := options(t, w)
	raw, err := w.Evidence(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good, err := evidence.Parse(raw)
	if err != nil || !resulttest.Complete(t, appraise.Appraise(good, o)).Accepted {
		t.Fatalf("good evidence is refused: %v", err)
	}
	parsed, accepted := 0, 0
	for i := range raw {
		raw[i] ^= 1
		ev, err := evidence.Parse(raw)
		raw[i] ^= 1
		if err != nil {
			continue
		}
		parsed++
		if !resulttest.Complete(t, appraise.Appraise(ev, o)).Accepted {
			continue
		}
		accepted++
		if !sameButLabels(t, good, ev) {
			t.Errorf("byte %d (near %q): accepted with another content", i, raw[max(0, i-20):min(len(raw), i+20)])
		}
	}
	t.Logf("%d bytes: %d still parse, %d of those say the same and are accepted", len(raw), parsed, accepted)
	if parsed < 100 {
		t.Errorf("only %d changed documents reached the appraisal", parsed)
	}
}

func FuzzEvidence(f *testing.F) {
	w := tpmtest.NewWorld(f)
	o := options(f, w)
	good := w.Evidence(f)
	raw, err := good.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, in []byte) {
		ev, err := evidence.Parse(in)
		if err != nil {
			return
		}
		r := resulttest.Complete(t, appraise.Appraise(ev, o))
		if !r.Accepted {
			if r.Err() == nil {
				t.Fatal("refused without a fault")
			}
			return
		}
		if !sameButLabels(t, good, ev) {
			t.Fatal("accepted evidence of another content")
		}
	})
}
