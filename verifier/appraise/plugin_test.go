package appraise_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// fixed answers every appraisal alike.
type fixed struct {
	cpu   appraise.CPUResult
	gpus  [][]result.Check
	roots []string
}

func (f fixed) TestRoots() []string { return f.roots }

func (f fixed) AppraiseCPU(*evidence.Evidence, *manifest.Verified, *policy.Policy, time.Time) appraise.CPUResult {
	return f.cpu
}

func (f fixed) AppraiseGPUs(*evidence.Evidence, *manifest.Verified, *policy.Policy, time.Time) appraise.GPUResult {
	return appraise.GPUResult{GPUs: f.gpus}
}

// TestAppraisersOfOtherTypesPlugIn gives TDX evidence with GPUs to appraisers
// of the caller's.
func TestAppraisersOfOtherTypesPlugIn(t *testing.T) {
	pass := []result.Check{{ID: "tdx.quote.signature", Status: result.Pass}}
	fail := []result.Check{{ID: "tdx.quote.signature", Status: result.Fail, Expected: "e", Actual: "a", Reason: "r", Remedy: "d"}}
	skip := []result.Check{{ID: "gpu.cert", Status: result.Skip}}
	tdx := func(cpu, image []result.Check) appraise.CPUResult {
		return appraise.CPUResult{TrustClass: policy.ClassTDX, CPU: cpu, Image: image, NotAfter: tpmtest.Now.Add(time.Minute)}
	}
	for name, c := range map[string]struct {
		f        fixed
		accepted bool
		want     []string
	}{
		"all good":              {fixed{tdx(pass, pass), [][]result.Check{pass}, nil}, true, nil},
		"a bad quote":           {fixed{tdx(fail, pass), [][]result.Check{pass}, nil}, false, []string{"tdx.quote.signature"}},
		"a bad GPU":             {fixed{tdx(pass, pass), [][]result.Check{fail}, nil}, false, []string{"tdx.quote.signature"}},
		"no checks of the CPU":  {fixed{tdx(nil, pass), [][]result.Check{pass}, nil}, false, []string{"evidence.cpu.unchecked"}},
		"no checks of image":    {fixed{tdx(pass, nil), [][]result.Check{pass}, nil}, false, []string{"evidence.cpu.unchecked"}},
		"no checks of the GPU":  {fixed{tdx(pass, pass), [][]result.Check{nil}, nil}, false, []string{"gpu.unchecked"}},
		"no word of the GPU":    {fixed{tdx(pass, pass), nil, nil}, false, []string{"gpu.count"}},
		"a GPU check left out":  {fixed{tdx(pass, pass), [][]result.Check{skip}, nil}, false, nil},
		"a class that is not":   {fixed{appraise.CPUResult{TrustClass: "snp", CPU: pass, Image: pass}, [][]result.Check{pass}, nil}, false, []string{"policy.trust_class"}},
		"the development class": {fixed{appraise.CPUResult{TrustClass: "vtpm", CPU: pass, Image: pass}, [][]result.Check{pass}, nil}, false, []string{"policy.trust_class"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := tpmtest.NewWorld(t)
			w.Policy.Environment, w.Policy.TrustClasses = policy.Production, []string{policy.ClassTDX, policy.ClassVTPM}
			w.Config.GPUs = evidence.ConfigGPUs{Count: 1, Mode: "on"}
			w.Manifest.Config.GPUModes = []string{"on"}
			ev := w.Evidence(t)
			ev.CPU.Type = evidence.TypeTDX
			ev.GPUs = []evidence.GPU{{Report: []byte("r"), Chain: [][]byte{}}}
			var err error
			if ev.Claims.GPUEvidenceSHA256, err = evidence.GPUHash(ev.GPUs); err != nil {
				t.Fatal(err)
			}
			o := options(t, w)
			o.CPUs, o.GPUs = map[string]appraise.CPU{evidence.TypeTDX: c.f}, c.f
			r := resulttest.Complete(t, appraise.Appraise(ev, o))
			if r.Accepted != c.accepted {
				t.Errorf("accepted %v, want %v", r.Accepted, c.accepted)
			}
			if diff := cmp.Diff(c.want, failedIDs(r)); diff != "" {
				t.Errorf("failed checks (-want +got):\n%s", diff)
			}
			if !c.accepted && r.Err() == nil {
				t.Error("refused without an error")
			}
			if c.accepted && (r.Development || r.Status() != result.Affirming || !r.NotAfter.Equal(tpmtest.Now.Add(time.Minute))) {
				t.Errorf("development %v, status %s, good until %s", r.Development, r.Status(), r.NotAfter)
			}
		})
	}
}
