package manifest_test

import (
	"crypto/sha512"
	"testing"
	"time"

	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdvf"
)

func sum384(s string) digest.SHA384 { return digest.Sum384([]byte(s)) }

func fixed(events ...manifest.Event) manifest.Register {
	r := manifest.Register{Events: events}
	if v, ok := r.Fixed(); ok {
		r.Value = &v
	}
	return r
}

func event(name string) manifest.Event { return manifest.Event{Name: name, Digest: sum384(name)} }

func fixtureTDX(cmdline string) *manifest.TDX {
	options, err := boot.LoadOptions(boot.CmdlineInitrdFirst, cmdline)
	if err != nil {
		panic(err)
	}
	return &manifest.TDX{
		Components: manifest.TDXComponents{KernelAuthenticodeSHA384: sum384("kernel"), InitrdSHA384: sum384("initrd")},
		Firmwares: []manifest.TDXFirmware{{Name: "test", SHA256: digest.Sum256([]byte("tdvf")), MRTD: []digest.SHA384{sum384("mrtd")},
			RTMR0: fixed(event("cfv"), manifest.Event{Name: "acpi", Host: true}, event("separator")),
			RTMR1: fixed(event("kernel"), event("separator")), RTMR2: fixed(manifest.Event{Name: "command-line", Digest: digest.Sum384(options)}, event("initrd"))}},
	}
}

func fixtureSNP(cmdline string) *manifest.SNP {
	return &manifest.SNP{
		Components: *snp.HashKernel([]byte("kernel file"), []byte("initrd"), cmdline),
		Firmwares: []manifest.SNPFirmware{{Name: "test", SHA256: digest.Sum256([]byte("ovmf")), MaxVCPUs: 64,
			Firmware: snp.Firmware{Digest: sum384("launch"), HashGPA: 0x810c00, ResetEIP: 0x80b004, Sections: []tdvf.SEVSection{
				{Type: tdvf.SEVMemory, GPA: 0x800000, Size: 0x9000}, {Type: tdvf.SEVKernelHashes, GPA: 0x810000, Size: 0x1000}}},
			Shapes: []manifest.SNPShape{{VMM: snp.QEMU, VCPUType: "EPYC-Milan", Features: snp.DefaultFeatures}}}},
	}
}

func grace() []manifest.Superseded {
	return []manifest.Superseded{{Manifest: digest.Sum256([]byte("old")), GraceUntil: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}}
}

func TestARegisterIsHeldAgainstItsEvents(t *testing.T) {
	d := func(names ...string) (out []digest.SHA384) {
		for _, n := range names {
			out = append(out, sum384(n))
		}
		return out
	}
	host := manifest.Event{Name: "host", Host: true}
	for name, c := range map[string]struct {
		events []manifest.Event
		log    []digest.SHA384
		want   bool
	}{
		"the same":                 {[]manifest.Event{event("a"), event("b")}, d("a", "b"), true},
		"another order":            {[]manifest.Event{event("a"), event("b")}, d("b", "a"), false},
		"one more":                 {[]manifest.Event{event("a")}, d("a", "a"), false},
		"one less":                 {[]manifest.Event{event("a"), event("b")}, d("a"), false},
		"any table of the host":    {[]manifest.Event{event("a"), host, event("b")}, d("a", "x", "b"), true},
		"two tables for one":       {[]manifest.Event{event("a"), host, event("b")}, d("a", "x", "y", "b"), false},
		"no table":                 {[]manifest.Event{event("a"), host, event("b")}, d("a", "b"), false},
		"a table in another place": {[]manifest.Event{event("a"), host, event("b")}, d("x", "a", "b"), false},
	} {
		r := manifest.Register{Events: c.events}
		if got := r.Match(c.log); got != c.want {
			t.Errorf("%s: matches %v, want %v", name, got, c.want)
		}
	}
}

func TestAFixedRegisterIsTheChainOfItsEvents(t *testing.T) {
	r := fixed(event("a"), event("b"))
	a, b := sum384("a"), sum384("b")
	one := sha512.Sum384(append(make([]byte, 48), a[:]...))
	two := sha512.Sum384(append(one[:], b[:]...))
	if *r.Value != digest.SHA384(two) {
		t.Errorf("value is %s", r.Value)
	}
}

func TestALaunchDigestIsFoundForAnyNumberOfVCPUs(t *testing.T) {
	s := fixtureSNP("quiet")
	f := s.Firmwares[0]
	for n, want := range map[int]bool{1: true, 2: true, 64: true, 65: false} {
		d, err := snp.Measure(f.Firmware, &s.Components, snp.Shape{VMM: snp.QEMU, VCPUs: n, VCPUType: "EPYC-Milan", Features: snp.DefaultFeatures})
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := s.Match(d); ok != want || ok && m.Shape.VCPUs != n {
			t.Errorf("%d vCPUs: %+v, %v", n, m.Shape, ok)
		}
	}
	other, err := snp.Measure(f.Firmware, &s.Components, snp.Shape{VMM: snp.QEMU, VCPUs: 1, VCPUType: "EPYC-Turin", Features: snp.DefaultFeatures})
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := s.Match(other); ok {
		t.Errorf("a model that is not listed: %+v", m)
	}
}
