package nvgpu_test

import (
	"os"
	"slices"
	"testing"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/result"
)

// TestNoChangedByteIsAccepted flips one bit in each byte of a real report and
// in a part of the bytes of its chain, of the OCSP responses for it and of its
// RIM documents. With COCOON_TAMPER=full it takes every byte of all, which
// lasts minutes.
func TestNoChangedByteIsAccepted(t *testing.T) {
	const dir = "evidence/google-hopper-550.90.07/"
	it, nonce := sample(t, "google-hopper-550.90.07")
	o := &nvgpu.Options{Now: at("2025-08-21T12:00:00Z"), Nonce: nonce, GPUs: 1, Cache: nvgpu.NewCache(nvgpu.CacheOptions{})}
	for _, name := range []string{"driver.swidtag", "vbios.swidtag"} {
		o.RIMs = append(o.RIMs, vector(t, dir+name))
	}
	for _, name := range []string{"ocsp-gpu_certificate_l2.der", "ocsp-gpu_certificate_l3.der", "ocsp-gpu_certificate_l4.der"} {
		o.OCSP = append(o.OCSP, vector(t, dir+name))
	}
	if !accepted(t, it, o, "gpu.ocsp") {
		t.Fatal("what is not changed is refused")
	}
	if accepted(t, it, &nvgpu.Options{Now: o.Now, Nonce: nonce, GPUs: 1, RIMs: o.RIMs, Cache: o.Cache}, "gpu.ocsp") {
		t.Fatal("without OCSP responses revocation is good")
	}
	report, part, rims := 1, 2, 25
	if os.Getenv("COCOON_TAMPER") == "full" {
		part, rims = 1, 1
	} else if testing.Short() {
		report, part, rims = 17, 34, 425
	}
	// What is not changed need not be verified again and again.
	bare := *o
	bare.OCSP = nil
	flips := 0
	each := func(what string, b []byte, step int, try func([]byte) bool) {
		for i := 0; i < len(b); i += step {
			bad := slices.Clone(b)
			bad[i] ^= 1 << (i % 8)
			flips++
			if try(bad) {
				t.Errorf("%s: bit %d of byte %d is changed: accepted", what, i%8, i)
			}
		}
	}
	each("report", it.Report, report, func(b []byte) bool { return accepted(t, nvgpu.Item{Report: b, Chain: it.Chain}, &bare, "") })
	for k := range it.Chain {
		each("chain", it.Chain[k], part, func(b []byte) bool {
			chain := slices.Clone(it.Chain)
			chain[k] = b
			return accepted(t, nvgpu.Item{Report: it.Report, Chain: chain}, &bare, "")
		})
	}
	for k := range o.OCSP {
		each("OCSP response", o.OCSP[k], part, func(b []byte) bool {
			bad := *o
			bad.OCSP = slices.Clone(o.OCSP)
			bad.OCSP[k] = b
			return accepted(t, it, &bad, "gpu.ocsp")
		})
	}
	for k := range o.RIMs {
		each("RIM", o.RIMs[k], rims, func(b []byte) bool {
			bad := bare
			bad.RIMs = slices.Clone(o.RIMs)
			bad.RIMs[k] = b
			return accepted(t, it, &bad, "")
		})
	}
	for what, chain := range map[string][][]byte{"reversed": reversed(it.Chain), "without the leaf": it.Chain[1:], "empty": nil} {
		if accepted(t, nvgpu.Item{Report: it.Report, Chain: chain}, &bare, "") {
			t.Errorf("chain %s: accepted", what)
		}
	}
	for n := range it.Report {
		if n%17 == 0 && accepted(t, nvgpu.Item{Report: it.Report[:n], Chain: it.Chain}, &bare, "") {
			t.Errorf("report cut to %d bytes: accepted", n)
		}
	}
	t.Logf("%d changes, none accepted", flips)
}

// accepted reports whether nothing failed, and what had to pass passed: also
// names one check more, or none.
func accepted(t testing.TB, it nvgpu.Item, o *nvgpu.Options, also string) bool {
	m := verified(t, []nvgpu.Item{it}, o)
	for _, id := range []string{"gpu.chain", "gpu.signature", "gpu.nonce", "gpu.fwid", "gpu.rim.driver", "gpu.rim.vbios", "gpu.measurements", also} {
		if id != "" && m.Devices[0].Check(id).Status != result.Pass {
			return false
		}
	}
	return len(m.Failed()) == 0
}

func reversed(in [][]byte) [][]byte {
	out := slices.Clone(in)
	slices.Reverse(out)
	return out
}
