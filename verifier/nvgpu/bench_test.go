package nvgpu_test

import (
	"syscall"
	"testing"

	"cocoon/verifier/nvgpu"
)

// BenchmarkGPU is a full offline check of one real GPU: report, chain, driver
// and VBIOS measurements. RIMs and intermediates are cached; in "known device"
// the device's own certificates are, too, as they are when it attests again.
func BenchmarkGPU(b *testing.B) {
	it, nonce := sample(b, "google-hopper-550.90.07")
	o := &nvgpu.Options{Now: at("2025-09-01T00:00:00Z"), Nonce: nonce, GPUs: 1, RIMs: [][]byte{
		vector(b, "evidence/google-hopper-550.90.07/driver.swidtag"), vector(b, "evidence/google-hopper-550.90.07/vbios.swidtag")}}
	bench(b, []nvgpu.Item{it}, o)
}

// BenchmarkMachine is a check of the 8 GPUs and 4 switches of one real
// machine, wiring included.
func BenchmarkMachine(b *testing.B) {
	items, o := realBoard(b)
	bench(b, items, o)
}

func bench(b *testing.B, items []nvgpu.Item, o *nvgpu.Options) {
	for _, c := range []struct {
		name    string
		options nvgpu.CacheOptions
		cache   bool
	}{
		{"intermediates cached", nvgpu.CacheOptions{Chains: -1}, true},
		{"known device", nvgpu.CacheOptions{}, true},
		{"nothing cached", nvgpu.CacheOptions{}, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			o := *o
			if c.cache {
				o.Cache = nvgpu.NewCache(c.options)
				nvgpu.Verify(items, &o)
			}
			b.ReportAllocs()
			start := cpu(b)
			for b.Loop() {
				if m := nvgpu.Verify(items, &o); len(m.Failed()) > 0 {
					b.Fatal(m.Failed())
				}
			}
			b.ReportMetric((cpu(b)-start)/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpu returns the CPU time of this process in milliseconds: what is bounded
// is that, not the time on a machine that others use.
func cpu(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	ms := func(t syscall.Timeval) float64 { return float64(t.Sec)*1e3 + float64(t.Usec)/1e3 }
	return ms(u.Utime) + ms(u.Stime)
}
