package policy_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	fnote "github.com/transparency-dev/formats/note"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/snp"
	"cocoon/verifier/tpmtest"
)

func TestPoliciesAreRefused(t *testing.T) {
	leaf := tpmtest.NewWorld(t)
	logKey, err := log.NewKey("log.example/cocoon", make([]byte, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	witnessKey, sameWitness := cosigner(t, "first.example/w"), cosigner(t, "second.example/w")
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
		"no verdict life":                func(p *policy.Policy) { p.Freshness.VerdictSeconds = 0 },
		"a verdict of more than an hour": func(p *policy.Policy) { p.Freshness.VerdictSeconds = 3601 },
		"a log without a key":            func(p *policy.Policy) { p.Manifests.Log = &policy.Log{} },
		"a log twice":                    func(p *policy.Policy) { p.Manifests.Log = &policy.Log{Keys: []log.Key{logKey, logKey}} },
		"a log of no name":               func(p *policy.Policy) { p.Manifests.Log = &policy.Log{Keys: []log.Key{{Public: logKey.Public}}} },
		"a witness that is none": func(p *policy.Policy) {
			p.Manifests.Log = &policy.Log{Keys: []log.Key{logKey}, Witnesses: []string{logKey.String()}, Threshold: 1}
		},
		"witnesses of whom none is wanted": func(p *policy.Policy) {
			p.Manifests.Log = &policy.Log{Keys: []log.Key{logKey}, Witnesses: []string{witnessKey}}
		},
		"more witnesses than there are": func(p *policy.Policy) {
			p.Manifests.Log = &policy.Log{Keys: []log.Key{logKey}, Witnesses: []string{witnessKey}, Threshold: 2}
		},
		"one witness under two names": func(p *policy.Policy) {
			p.Manifests.Log = &policy.Log{Keys: []log.Key{logKey}, Witnesses: []string{witnessKey, sameWitness}, Threshold: 2}
		},
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

// cosigner returns the verifier key of a witness under a name.
func cosigner(t *testing.T, name string) string {
	t.Helper()
	k, err := log.NewKey(name, make([]byte, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	v, err := fnote.VKeyToCosignatureV1(k.String())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestAPolicyNamesLogs reads a policy with a log and two witnesses, and writes it
// again: the keys are in it as logs and witnesses show them.
func TestAPolicyNamesLogs(t *testing.T) {
	p := tpmtest.NewWorld(t).Policy
	k, err := log.NewKey("log.example/cocoon", make([]byte, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	p.Manifests.Log = &policy.Log{Keys: []log.Key{k}, Witnesses: []string{cosigner(t, "first.example/w")}, Threshold: 1}
	doc, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := policy.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	if got := back.Manifests.Log; got.Keys[0].String() != k.String() || !bytes.Contains(doc, []byte(k.String())) {
		t.Errorf("keys %v in %s", got.Keys, doc)
	}
	if again, err := back.Marshal(); err != nil || !bytes.Equal(again, doc) {
		t.Errorf("written again: %s, %v", again, err)
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
