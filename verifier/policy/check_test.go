package policy_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/verifier/policy"
	"cocoon/verifier/policy/dcap"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/tpmtest"
)

func TestCheckNamesEveryFault(t *testing.T) {
	p := tpmtest.NewWorld(t).Policy
	p.Name, p.Format, p.Manifests.Threshold = "", 7, 3
	p.DCAP = &dcap.Policy{TDX: &dcap.TDX{Platform: dcap.Platform{MinEvaluation: -1, CollateralGraceSeconds: -1}}}
	p.Rules = []rules.Rule{{ID: "a", Expression: "1", Reason: "x"}, {ID: "B", Expression: "true", Reason: "x"}}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	got, faults := policy.Check(b)
	if got == nil {
		t.Fatal("a document that parses gives no policy")
	}
	var msgs []string
	for _, f := range faults {
		if f.Code != policy.CodeInvalid {
			t.Errorf("code %s", f.Code)
		}
		msgs = append(msgs, f.Msg)
	}
	want := []string{
		"format 7, want 1", "name must have 1 to 128 bytes", "manifests: threshold 3 of 1 keys",
		"dcap: tdx.collateral_grace_seconds: -1 is not between 0 and 63072000", "dcap: tdx.min_evaluation: -1 is negative",
		`rules: rule 0 ("a"): its expression is of type int, want bool`, `rules: rule 1 ("B"): id must be 1 to 64 lower-case letters, digits, dots and underscores`,
	}
	if d := cmp.Diff(want, msgs); d != "" {
		t.Error(d)
	}
	if p, faults := policy.Check([]byte(`{"format":1,"formats":1}`)); p != nil || len(faults) != 1 || faults[0].Code != policy.CodeParse {
		t.Errorf("an unknown key: %v", faults)
	}
	good, err := json.Marshal(tpmtest.NewWorld(t).Policy)
	if err != nil {
		t.Fatal(err)
	}
	if _, faults := policy.Check(good); len(faults) != 0 {
		t.Errorf("a valid policy: %v", faults)
	}
}
