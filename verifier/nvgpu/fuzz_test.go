package nvgpu_test

import (
	"testing"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgputest"
)

// FuzzVerify gives Verify a report and a leaf that nobody vouches for.
// Nothing but the evidence itself is accepted.
func FuzzVerify(f *testing.F) {
	p, err := nvgputest.New("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	o := &nvgpu.Options{Roots: p.Roots(), RIMRoots: p.RIMRoots(), Now: nvgputest.Now, NoRIM: true, Cache: nvgpu.NewCache(nvgpu.CacheOptions{})}
	good := map[string]bool{}
	var chain [][]byte
	for _, d := range []nvgputest.Device{nvgputest.GPU(0), nvgputest.BlackwellGPU(0), nvgputest.Switch(0)} {
		it, err := p.Make(&d, o.Nonce)
		if err != nil {
			f.Fatal(err)
		}
		if bad := nvgpu.Verify([]nvgpu.Item{it}, o).Failed(); len(bad) > 0 {
			f.Fatal(bad)
		}
		good[string(it.Report)+string(it.Chain[0])] = true
		f.Add(it.Report, it.Chain[0])
		chain = it.Chain
		f.Add(it.Report, []byte{})
	}
	f.Fuzz(func(t *testing.T, report, leaf []byte) {
		if good[string(report)+string(leaf)] {
			return
		}
		it := nvgpu.Item{Report: report, Chain: append([][]byte{leaf}, chain[1:]...)}
		if m := nvgpu.Verify([]nvgpu.Item{it}, o); len(m.Failed()) == 0 {
			t.Fatalf("accepted: %+v", m.Devices[0].Checks)
		}
	})
}
