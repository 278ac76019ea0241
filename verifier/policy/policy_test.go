package policy_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/snp"
	"cocoon/verifier/tpmtest"
)

func TestPoliciesAreRefused(t *testing.T) {
	leaf := tpmtest.NewWorld(t)
	for name, change := range map[string]func(*policy.Policy){
		"another format":                      func(p *policy.Policy) { p.Format = 2 },
		"no name":                             func(p *policy.Policy) { p.Name = "" },
		"no environment":                      func(p *policy.Policy) { p.Environment = "" },
		"no trust class":                      func(p *policy.Policy) { p.TrustClasses = nil },
		"an unknown trust class":              func(p *policy.Policy) { p.TrustClasses = []string{"any"} },
		"a trust class twice":                 func(p *policy.Policy) { p.TrustClasses = []string{"tdx", "tdx"} },
		"production that accepts development": func(p *policy.Policy) { p.Environment = policy.Production },
		"no manifests":                        func(p *policy.Policy) { p.Manifests.Keys, p.Manifests.Threshold = nil, 0 },
		"a threshold of none":                 func(p *policy.Policy) { p.Manifests.Threshold = 0 },
		"a threshold above the keys":          func(p *policy.Policy) { p.Manifests.Threshold = 2 },
		"a key twice":                         func(p *policy.Policy) { p.Manifests.Keys = append(p.Manifests.Keys, p.Manifests.Keys[0]) },
		"a zero hash":                         func(p *policy.Policy) { p.Manifests.Hashes = []digest.SHA256{{}} },
		"no tpm section":                      func(p *policy.Policy) { p.TPM = nil },
		"no AK roots":                         func(p *policy.Policy) { p.TPM.AKRoots = nil },
		"a root that does not parse":          func(p *policy.Policy) { p.TPM.AKRoots = [][]byte{{1}} },
		"a root that is no authority":         func(p *policy.Policy) { p.TPM.AKRoots = leaf.Chain(t)[:1] },
		"production with development TPMs": func(p *policy.Policy) {
			p.Environment, p.TrustClasses = policy.Production, []string{policy.ClassTDX}
			p.TPM.DevelopmentEKRoots = p.TPM.EKRoots
		},
		"no verdict life":                    func(p *policy.Policy) { p.Freshness.VerdictSeconds = 0 },
		"a verdict of more than an hour":     func(p *policy.Policy) { p.Freshness.VerdictSeconds = 3601 },
		"an snp section that makes no sense": func(p *policy.Policy) { p.SNP = &snp.Policy{VMPLs: []uint32{4}} },
	} {
		p := tpmtest.NewWorld(t).Policy
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		change(p)
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := policy.Parse(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestProductionNeverAcceptsDevelopment(t *testing.T) {
	p := tpmtest.NewWorld(t).Policy
	if !p.Accepts(policy.ClassVTPM) || p.Accepts(policy.ClassTDX) || p.Accepts("") {
		t.Error("a development policy accepts other classes than it names")
	}
	p.Environment = policy.Production
	if p.Accepts(policy.ClassVTPM) {
		t.Error("production accepts the development class")
	}
}

func TestPolicyIsStrictJSON(t *testing.T) {
	b, err := json.Marshal(tpmtest.NewWorld(t).Policy)
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"an unknown key": strings.Replace(string(b), `{"format"`, `{"formats":1,"format"`, 1),
		"a key twice":    strings.Replace(string(b), `{"format"`, `{"format":1,"format"`, 1),
		"trailing data":  string(b) + "1",
	} {
		if _, err := policy.Parse([]byte(in)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	b, err := json.Marshal(tpmtest.NewWorld(f).Policy)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":1,"dcap":{}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := policy.Parse(in)
		if err != nil {
			return
		}
		a, err := jcs.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := policy.Parse(a)
		if err != nil {
			t.Fatalf("accepted policy is refused when written again: %v", err)
		}
		if b, err := jcs.Marshal(q); err != nil || !bytes.Equal(a, b) {
			t.Fatalf("policy changes when it is written again: %v", err)
		}
	})
}
