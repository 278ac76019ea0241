package mrtd

import (
	"cocoon/measurements/tdvf"
	"os"
	"testing"
)

func TestX(t *testing.T) {
	for _, p := range []string{"/tmp/calc/debs/x/ovmf_2025.02-8+deb13u1/usr/share/ovmf/OVMF.fd", "/tmp/calc/debs/x/ovmf-inteltdx_2026.08+ds-2/usr/share/ovmf/OVMF.inteltdx.ms.fd", "/tmp/calc/debs/x/ovmf_2022.11-6+deb12u2/usr/share/ovmf/OVMF.fd", "/work/main/build/tools/usr/share/ovmf/OVMF.fd"} {
		b, _ := os.ReadFile(p)
		f, err := tdvf.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.TDX()
		t.Log(p, s, err)
		v, err := Measure(f)
		t.Log(v.SinglePass, v.TwoPass, err)
	}
}
