package nvgpu_test

import (
	"testing"

	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgputest"
	policy "cocoon/verifier/policy/nvgpu"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// recorded is evidence of a machine's devices without its CPU, asked with a
// nonce of somebody's.
func (w *world) recorded(t *testing.T) *evidence.Foreign {
	t.Helper()
	nonce := digest.Sum256([]byte("somebody's"))
	items, err := w.p.Items(w.devices, nonce)
	if err != nil {
		t.Fatal(err)
	}
	own := w.Evidence(t)
	w.bring(t, own, items)
	f := &evidence.Foreign{Profile: evidence.ProfileForeign, GPUNonce: &nonce, Collateral: own.Collateral}
	for _, it := range items {
		f.GPUs = append(f.GPUs, evidence.GPU{Report: it.Report, Chain: it.Chain})
	}
	return f
}

// TestRecordedDevicesAreNeverAffirmed appraises devices of the test PKI as
// foreign.
func TestRecordedDevicesAreNeverAffirmed(t *testing.T) {
	for name, c := range map[string]struct {
		devices []nvgputest.Device
		change  func(*world, *evidence.Foreign)
		want    string // failed checks
	}{
		"a GPU":                    {devices: one()},
		"a board":                  {devices: nvgputest.Board()},
		"a GPU of a board":         {devices: nvgputest.Board()[:1]},
		"a nonce nobody knows":     {devices: one(), change: func(_ *world, f *evidence.Foreign) { f.GPUNonce = nil }},
		"another nonce":            {devices: one(), change: func(_ *world, f *evidence.Foreign) { f.GPUNonce = &digest.SHA256{1} }, want: "gpu.nonce"},
		"a board without a switch": {devices: nvgputest.Board()[:11], want: "gpu.topology"},
		"a changed report":         {devices: one(), change: func(_ *world, f *evidence.Foreign) { f.GPUs[0].Report[len(f.GPUs[0].Report)-1] ^= 1 }, want: "gpu.signature"},
		"no section in the policy": {devices: one(), change: func(w *world, _ *evidence.Foreign) { w.Policy.NVGPU = nil }, want: "gpu.policy.section"},
		"nothing brought along": {devices: one(), change: func(_ *world, f *evidence.Foreign) { f.Collateral = nil },
			want: "gpu.policy.measurements gpu.policy.ocsp gpu.rim.driver gpu.rim.vbios"},
		"another model than the policy wants": {devices: one(), change: func(w *world, _ *evidence.Foreign) { w.Policy.NVGPU = &policy.Policy{Models: []string{"B200"}} }, want: "gpu.policy.model"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.devices, len(c.devices), "on")
			f := w.recorded(t)
			if c.change != nil {
				c.change(w, f)
			}
			b, err := f.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if f, err = evidence.ParseForeign(b); err != nil {
				t.Fatal(err)
			}
			r := resulttest.Complete(t, appraise.AppraiseForeign(f, &appraise.Options{Policy: w.Policy, Now: tpmtest.Now, GPUs: gpus.New(w.o)}))
			if got := failed(r); got != c.want {
				t.Errorf("failed %q, want %q", got, c.want)
			}
			if r.Accepted || !r.Foreign || len(r.Submods) != len(c.devices) {
				t.Errorf("accepted %v, foreign %v, %d submodules of %d devices", r.Accepted, r.Foreign, len(r.Submods), len(c.devices))
			}
			for name, s := range r.Submods {
				if s.Status != result.Warning && s.Status != result.Contraindicated {
					t.Errorf("%s is %s", name, s.Status)
				}
			}
			if c.want == "" && (r.Measurements["gpu0.driver"] == "" || r.Measurements["gpu0.vbios"] == "" || !r.NotAfter.After(tpmtest.Now)) {
				t.Errorf("it shows %v until %s", r.Measurements, r.NotAfter)
			}
		})
	}
}

// TestRecordedDevicesNeedAnAppraiser gives none, and one that reads only what is
// bound to claims.
func TestRecordedDevicesNeedAnAppraiser(t *testing.T) {
	w := newWorld(t, one(), 1, "on")
	for name, g := range map[string]appraise.GPU{"none": nil, "one that reads no records": struct{ appraise.GPU }{gpus.New(w.o)}} {
		r := resulttest.Complete(t, appraise.AppraiseForeign(w.recorded(t), &appraise.Options{Policy: w.Policy, Now: tpmtest.Now, GPUs: g}))
		if failed(r) != "gpu.unsupported" || r.Accepted {
			t.Errorf("%s: failed %q", name, failed(r))
		}
	}
	r := resulttest.Complete(t, appraise.AppraiseForeign(w.recorded(t), &appraise.Options{Now: tpmtest.Now, GPUs: gpus.New(w.o)}))
	if failed(r) != "policy.missing" {
		t.Errorf("without a policy: failed %q", failed(r))
	}
}
