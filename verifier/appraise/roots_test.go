package appraise_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// TestNothingUnderATestRootIsOfAHardwareClass tries every type of evidence
// under every set of roots and in both environments: where a root is not the
// maker's, every result says so, whichever root its own evidence leads to.
func TestNothingUnderATestRootIsOfAHardwareClass(t *testing.T) {
	all := []string{policy.RootAMD, policy.RootIntel, policy.RootNVIDIA, policy.RootNVIDIARIM}
	types := []string{evidence.TypeTDX, evidence.TypeSNP, evidence.TypeSGX, evidence.TypeAzTDX, evidence.TypeAzSNP, evidence.TypeTPM}
	pass := []result.Check{{ID: "tdx.quote.signature", Status: result.Pass}}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := tpmtest.NewWorld(t)
	w.Config.GPUs = evidence.ConfigGPUs{Count: 1, Mode: "on"}
	w.Manifest.Config.GPUModes = []string{"on"}
	ev := w.Evidence(t)
	ev.GPUs = []evidence.GPU{{Report: []byte{1}, Chain: [][]byte{{1}}}}
	if ev.Claims.GPUEvidenceSHA256, err = evidence.GPUHash(ev.GPUs); err != nil {
		t.Fatal(err)
	}
	w.Requote(t, ev)
	manifests := w.Manifests(t)
	accepted := 0
	for set := range 1 << len(all) {
		var roots []string
		for i, n := range all {
			if set&(1<<i) != 0 {
				roots = append(roots, n)
			}
		}
		for _, typ := range types {
			for _, env := range []string{policy.Production, policy.Development} {
				e, p := *ev, *w.Policy
				e.CPU.Type = typ
				p.Environment = env
				p.TrustClasses = []string{policy.ClassTDX, policy.ClassSNP, policy.ClassSGX, policy.ClassAzTDX, policy.ClassAzSNP, policy.ClassVTPM, policy.ClassTest}
				// The roots are the CPU appraisers' and the GPU appraiser's in parts.
				cpus := map[string]appraise.CPU{}
				for _, other := range types[:5] {
					cpus[other] = fixed{cpu: appraise.CPUResult{TrustClass: other, CPU: pass, Image: pass}, roots: roots[:len(roots)/2]}
				}
				o := &appraise.Options{Policy: &p, Manifests: manifests, Now: tpmtest.Now, CPUs: cpus, GPUs: fixed{gpus: [][]result.Check{pass}, roots: roots[len(roots)/2:]}}
				r := resulttest.Complete(t, appraise.Appraise(&e, o))
				name := strings.Join(roots, "+") + " " + typ + " " + env
				want := policy.ClassOf(typ)
				if len(roots) > 0 && want != policy.ClassVTPM {
					want = policy.ClassTest
				}
				if r.TrustClass != want || r.Development != policy.DevelopmentClass(want) || !cmp.Equal(r.TestRoots, roots) {
					t.Errorf("%s: class %s, development %v, test roots %v", name, r.TrustClass, r.Development, r.TestRoots)
				}
				said := false
				for _, c := range r.Checks() {
					said = said || c.ID == "policy.test_roots" && c.Actual == strings.Join(roots, ", ") && (c.Status == result.Pass) == (env == policy.Development)
				}
				if said != (len(roots) > 0) {
					t.Errorf("%s: the check policy.test_roots is missing or out of place", name)
				}
				if wantAccepted := env == policy.Development || len(roots) == 0 && typ != evidence.TypeTPM; r.Accepted != wantAccepted {
					t.Errorf("%s: accepted %v: %v", name, r.Accepted, r.Err())
				}
				if len(roots) > 0 && r.Accepted && r.Status() != result.Warning {
					t.Errorf("%s: status %s", name, r.Status())
				}
				token, err := result.SignEAR(r, key, "test")
				if (err == nil) != r.Accepted {
					t.Errorf("%s: signing: %v", name, err)
				}
				if err == nil {
					accepted++
					ear, err := result.ParseEAR(token)
					if err != nil || !cmp.Equal(ear.TestRoots, roots) || ear.TrustClass != want {
						t.Errorf("%s: the verdict says %+v, %v", name, ear, err)
					}
				}
				// A class that was written over is not signed.
				if r.Accepted && len(roots) > 0 {
					forged := *r
					forged.TrustClass, forged.Development = policy.ClassTDX, false
					if _, err := result.SignEAR(&forged, key, "test"); err == nil {
						t.Errorf("%s: a verdict of class tdx was signed", name)
					}
				}
				f := resulttest.Complete(t, appraise.AppraiseForeign(&evidence.Foreign{CPU: &e.CPU}, o))
				if forRoots := roots[:len(roots)/2]; len(forRoots) > 0 && f.TrustClass != want {
					t.Errorf("%s: foreign evidence is of class %s", name, f.TrustClass)
				}
			}
		}
	}
	if accepted == 0 {
		t.Error("nothing was accepted")
	}
}
