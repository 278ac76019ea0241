package nvgpu_test

import (
	"fmt"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgputest"
	policy "cocoon/verifier/policy/nvgpu"
	"cocoon/verifier/result"
)

// Evidence of one GPU is verified offline, then held against a policy. The
// roots are those of a test; without them they are NVIDIA's.
func ExampleVerify() {
	pki, err := nvgputest.New("example")
	if err != nil {
		panic(err)
	}
	gpu := nvgputest.GPU(0)
	challenge := [32]byte{1, 2, 3}
	evidence, err := pki.Make(&gpu, challenge)
	if err != nil {
		panic(err)
	}
	rims, err := pki.SignAll(nvgputest.RIMs(&gpu))
	if err != nil {
		panic(err)
	}

	p := &policy.Policy{Models: []string{"H100"}, OCSP: policy.OCSP{AllowMissing: true}}
	o := &nvgpu.Options{Roots: pki.Roots(), RIMRoots: pki.RIMRoots(), Now: nvgputest.Now, Nonce: challenge, GPUs: 1, RIMs: rims}
	p.Apply(o)
	machine := nvgpu.Verify([]nvgpu.Item{evidence}, o)
	device := machine.Devices[0]
	accepted := len(machine.Failed()) == 0
	for _, c := range p.Appraise(device, nil, false) {
		accepted = accepted && c.Status != result.Fail
	}
	fmt.Println(accepted, device.Model, device.Driver, device.Mode)
	fmt.Println(device.Check("gpu.measurements").Actual)
	// Output:
	// true H100 550.90.07 spt
	// 32 of 32 match; 35 is not compared: NVDEC0 is disabled
}
