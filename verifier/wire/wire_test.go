package wire_test

import (
	"crypto/ed25519"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/verifier/appraise"
	"cocoon/verifier/result"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

func message(t testing.TB) *verifierv1.Result {
	t.Helper()
	w := tpmtest.NewWorld(t)
	return wire.Result(appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now}))
}

// TestAResultComesThroughWhole sends an appraisal's result and reads it: every
// check, in order, with all that it says.
func TestAResultComesThroughWhole(t *testing.T) {
	w := tpmtest.NewWorld(t)
	for name, spoil := range map[string]bool{"accepted": false, "refused": true} {
		ev := w.Evidence(t)
		w.GiveStages(t, ev)
		if spoil {
			ev.Claims.ReceiptKey[0] ^= 1
		}
		want := appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})
		b, err := proto.Marshal(wire.Result(want))
		if err != nil {
			t.Fatal(err)
		}
		var m verifierv1.Result
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		got, err := wire.ReadResult(&m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" || got.Accepted == spoil {
			t.Errorf("%s: accepted %v (-want +got):\n%s", name, got.Accepted, diff)
		}
	}
}

// answer returns an appraisal's result, and the answer that a service gives.
func answer(t testing.TB) (*result.Result, *verifierv1.AppraiseResponse) {
	t.Helper()
	w := tpmtest.NewWorld(t)
	r := appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})
	v, err := result.Sign(r, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), "test")
	if err != nil {
		t.Fatal(err)
	}
	return r, &verifierv1.AppraiseResponse{Accepted: true, Ear: v.Token, Checks: v.Checks, Result: wire.Accepted(r)}
}

// TestAnAcceptedResultIsReadFromItsVerdict: every check with all that it says,
// though it is sent once and without what it follows.
func TestAnAcceptedResultIsReadFromItsVerdict(t *testing.T) {
	want, m := answer(t)
	if len(m.Result.Submods) != 0 {
		t.Error("checks are sent twice")
	}
	got, err := wire.ReadAnswer(m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAnswersThatContradictThemselvesAreRefused(t *testing.T) {
	other := func() *verifierv1.AppraiseResponse { _, m := answer(t); return m }()
	for name, change := range map[string]func(*verifierv1.AppraiseResponse){
		"no result":               func(m *verifierv1.AppraiseResponse) { m.Result = nil },
		"a refused result":        func(m *verifierv1.AppraiseResponse) { m.Result.Accepted = false },
		"no verdict":              func(m *verifierv1.AppraiseResponse) { m.Ear = "" },
		"a verdict and a refusal": func(m *verifierv1.AppraiseResponse) { m.Accepted, m.Result.Accepted = false, false },
		"foreign":                 func(m *verifierv1.AppraiseResponse) { m.Result.Foreign = true },
		"no token":                func(m *verifierv1.AppraiseResponse) { m.Ear = "a.b.c" },
		"other evidence":          func(m *verifierv1.AppraiseResponse) { m.Ear = other.Ear },
		"other checks":            func(m *verifierv1.AppraiseResponse) { m.Checks[len(m.Checks)/2] ^= 1 },
		"no checks":               func(m *verifierv1.AppraiseResponse) { m.Checks = nil },
		"another policy":          func(m *verifierv1.AppraiseResponse) { m.Result.PolicySha256 = m.Result.EvidenceSha256 },
		"another manifest":        func(m *verifierv1.AppraiseResponse) { m.Result.Manifest.Version++ },
		"no manifest":             func(m *verifierv1.AppraiseResponse) { m.Result.Manifest = nil },
		"another class":           func(m *verifierv1.AppraiseResponse) { m.Result.TrustClass = "tdx" },
		"another time":            func(m *verifierv1.AppraiseResponse) { m.Result.Time.Seconds++ },
		"another end":             func(m *verifierv1.AppraiseResponse) { m.Result.NotAfter = nil },
	} {
		_, m := answer(t)
		change(m)
		if r, err := wire.ReadAnswer(m); err == nil {
			t.Errorf("%s: was read as %+v", name, r)
		}
	}
}

func TestResultsOfAnotherFormAreRefused(t *testing.T) {
	if _, err := wire.ReadResult(nil); err == nil {
		t.Error("no result was read")
	}
	for name, change := range map[string]func(*verifierv1.Result){
		"evidence's hash": func(m *verifierv1.Result) { m.EvidenceSha256 = "00" },
		"policy's hash":   func(m *verifierv1.Result) { m.PolicySha256 = "xyz" },
		"receipt key":     func(m *verifierv1.Result) { m.Claims.ReceiptKey = m.Claims.ReceiptKey + "00" },
		"manifest":        func(m *verifierv1.Result) { m.Manifest.Sha256 = "A" },
	} {
		m := message(t)
		change(m)
		if _, err := wire.ReadResult(m); err == nil {
			t.Errorf("%s: was read", name)
		}
	}
}

// FuzzReadResult reads what a service may answer.
func FuzzReadResult(f *testing.F) {
	b, err := proto.Marshal(message(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m verifierv1.Result
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		r, err := wire.ReadResult(&m)
		if err != nil {
			return
		}
		if again, err := wire.ReadResult(wire.Result(r)); err != nil || again.Accepted != r.Accepted {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}
