package manifest_test

import (
	"crypto/sha512"
	"slices"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
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

func fixtureTDX() *manifest.TDX {
	return &manifest.TDX{
		Components: manifest.TDXComponents{KernelAuthenticodeSHA384: sum384("kernel"), InitrdSHA384: sum384("initrd"), CmdlineSHA384: sum384("cmdline")},
		Firmwares: []manifest.TDXFirmware{{Name: "test", SHA256: digest.Sum256([]byte("tdvf")), MRTD: []digest.SHA384{sum384("mrtd")},
			RTMR0: fixed(event("cfv"), manifest.Event{Name: "acpi", Host: true}, event("separator")),
			RTMR1: fixed(event("kernel"), event("separator")), RTMR2: fixed(event("cmdline"), event("initrd"))}},
	}
}

func fixtureSNP(cmdline string) *manifest.SNP {
	return &manifest.SNP{
		Components: manifest.SNPComponents{KernelSHA256: digest.Sum256([]byte("kernel file")), InitrdSHA256: digest.Sum256([]byte("initrd")),
			CmdlineSHA256: digest.Sum256(append([]byte(cmdline), 0))},
		Firmwares: []manifest.SNPFirmware{{Name: "test", SHA256: digest.Sum256([]byte("ovmf")), Launch: sum384("launch"), MaxVCPUs: 64,
			VCPUs: []manifest.SNPVCPU{{Type: "EPYC-Milan", GuestFeatures: 1, BSP: sum384("bsp"), AP: sum384("ap")}}}},
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
		"the same":                           {[]manifest.Event{event("a"), event("b")}, d("a", "b"), true},
		"another order":                      {[]manifest.Event{event("a"), event("b")}, d("b", "a"), false},
		"one more":                           {[]manifest.Event{event("a")}, d("a", "a"), false},
		"one less":                           {[]manifest.Event{event("a"), event("b")}, d("a"), false},
		"a host with many tables":            {[]manifest.Event{event("a"), host, event("b")}, d("a", "x", "y", "z", "b"), true},
		"a host with none":                   {[]manifest.Event{event("a"), host, event("b")}, d("a", "b"), true},
		"a host that repeats the end":        {[]manifest.Event{event("a"), host, event("b")}, d("a", "b", "b", "b"), true},
		"a host that ends it":                {[]manifest.Event{event("a"), host}, d("a"), true},
		"two hosts around one":               {[]manifest.Event{host, event("b"), host, event("c")}, d("x", "b", "y", "b", "c"), true},
		"a firmware event in the host's way": {[]manifest.Event{event("a"), host, event("b")}, d("x", "a", "b"), false},
		"a host in place of the last":        {[]manifest.Event{event("a"), host, event("b")}, d("a", "x"), false},
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
	for _, n := range []int{1, 2, 63, 64} {
		m, ok := s.Match(f.Measurement(f.VCPUs[0], n))
		if !ok || m.Count != n || m.VCPU.Type != "EPYC-Milan" {
			t.Errorf("%d vCPUs: %+v, %v", n, m, ok)
		}
	}
	for name, d := range map[string]digest.SHA384{"no vCPU": f.Launch, "one too many": f.Measurement(f.VCPUs[0], 65), "zero": {}} {
		if m, ok := s.Match(d); ok {
			t.Errorf("%s: found %+v", name, m)
		}
	}
	swapped := f
	swapped.VCPUs = slices.Clone(f.VCPUs)
	swapped.VCPUs[0].BSP, swapped.VCPUs[0].AP = f.VCPUs[0].AP, f.VCPUs[0].BSP
	if f.Measurement(f.VCPUs[0], 2) == swapped.Measurement(swapped.VCPUs[0], 2) {
		t.Error("the first vCPU's page does not matter")
	}
}
