package builtin_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/builtin"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

func site(t *testing.T) (*tpmtest.World, builtin.Site) {
	t.Helper()
	w := tpmtest.NewWorld(t)
	return w, builtin.Site{ManifestKeys: w.Policy.Manifests.Keys, AKRoots: w.Policy.TPM.AKRoots, EKRoots: w.Policy.TPM.EKRoots}
}

func TestBuiltInPoliciesAreWholeDocuments(t *testing.T) {
	_, s := site(t)
	for _, name := range builtin.Names() {
		p, err := builtin.New(name, s)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jcs.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		read, err := policy.Parse(doc)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(p, read); d != "" {
			t.Errorf("%s changes when it is written and read:\n%s", name, d)
		}
	}
	if _, err := builtin.New("any", s); err == nil {
		t.Error("a third policy exists")
	}
}

func TestProductionTakesHardwareAndDevelopmentDoesNot(t *testing.T) {
	w, s := site(t)
	production, err := builtin.New(policy.Production, s)
	if err != nil {
		t.Fatal(err)
	}
	if production.Accepts(policy.ClassVTPM) || !production.Accepts(policy.ClassTDX) || !production.Accepts(policy.ClassSNP) || production.Accepts(policy.ClassAzTDX) {
		t.Errorf("production accepts %v", production.TrustClasses)
	}
	if production.DCAP.TDX.AllowDebug || production.DCAP.SGX != nil || production.SNP.AllowDebug || production.NVGPU == nil || production.NVGPU.AllowUnmeasured {
		t.Error("production is lax")
	}
	development, err := builtin.New(policy.Development, s)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(development.TrustClasses, []string{policy.ClassVTPM}) {
		t.Errorf("development accepts %v", development.TrustClasses)
	}

	challenge := digest.Sum256([]byte("challenge"))
	for _, c := range []struct {
		name   string
		policy *policy.Policy
		want   bool
	}{{"development", development, true}, {"production", production, false}} {
		r := resulttest.Complete(t, appraise.Appraise(w.Evidence(t, challenge), &appraise.Options{Policy: c.policy, Manifests: w.Manifests(t), Now: tpmtest.Now, Challenges: []digest.SHA256{challenge}}))
		if r.Accepted != c.want {
			t.Errorf("%s: accepted is %v: %v", c.name, r.Accepted, r.Err())
		}
		if c.want {
			continue
		}
		var ids []string
		for _, f := range r.Failed() {
			ids = append(ids, f.ID)
		}
		for _, id := range []string{"policy.trust_class", "policy.rule.gpu.present"} {
			if !slices.Contains(ids, id) {
				t.Errorf("production refuses a software TPM without %s: %v", id, ids)
			}
		}
	}
}

func TestCPUOnlyLeavesTheGPURuleOut(t *testing.T) {
	_, s := site(t)
	s.CPUOnly = true
	p, err := builtin.New(policy.Production, s)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Rules) != 0 || p.NVGPU == nil {
		t.Errorf("rules %v, nvgpu %v", p.Rules, p.NVGPU)
	}
}

func TestWhatASiteLeavesOutIsNamed(t *testing.T) {
	p, err := builtin.New(policy.Development, builtin.Site{})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jcs.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	_, faults := policy.Check(doc)
	var got []string
	for _, f := range faults {
		got = append(got, f.Msg)
	}
	want := []string{"manifests: neither hashes nor keys nor a registry", "tpm: want 1 to 64 ak_roots and at most as many ek_roots"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
