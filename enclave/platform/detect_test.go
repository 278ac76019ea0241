package platform

import (
	"slices"
	"testing"

	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// probe is a machine that a test states.
type probe struct {
	leaves map[uint32][4]uint32 // EAX to EDX
	paths  []string
}

func (p probe) CPUID(leaf, _ uint32) (eax, ebx, ecx, edx uint32) {
	l := p.leaves[leaf]
	return l[0], l[1], l[2], l[3]
}

func (p probe) Exists(path string) bool { return slices.Contains(p.paths, path) }

var (
	cpuTDX   = map[uint32][4]uint32{0: {0x21}, 0x21: {0, 0x65746e49, 0x20202020, 0x5844546c}, 0x80000000: {0x80000008}}
	cpuSNP   = map[uint32][4]uint32{0: {0x10}, 0x80000000: {0x80000021}, 0x8000001f: {0x1a}}
	cpuPlain = map[uint32][4]uint32{0: {0x20}, 0x80000000: {0x80000021}, 0x8000001f: {0x0a}}
	// Without the bound on leaves this would be read as a TD: real CPUs repeat
	// their highest leaf beyond it.
	cpuOld = map[uint32][4]uint32{0: {0x16}, 0x21: {0, 0x65746e49, 0x20202020, 0x5844546c}, 0x80000000: {0x80000008}, 0x8000001f: {0x1a}}
)

func TestThePlatformIsWhatCPUAndKernelSay(t *testing.T) {
	both := map[uint32][4]uint32{0: {0x21}, 0x21: cpuTDX[0x21], 0x80000000: {0x80000021}, 0x8000001f: {0x1a}}
	for name, c := range map[string]struct {
		p    probe
		want Kind
		code string
	}{
		"a TD":                            {probe{cpuTDX, []string{DeviceTDX}}, TDX, ""},
		"an SNP guest":                    {probe{cpuSNP, []string{DeviceSNP}}, SNP, ""},
		"a machine without a TEE":         {probe{cpuPlain, nil}, VTPM, ""},
		"an old CPU":                      {probe{cpuOld, nil}, VTPM, ""},
		"no CPUID at all":                 {probe{}, VTPM, ""},
		"a TD without its driver":         {probe{cpuTDX, nil}, "", CodeDriver},
		"an SNP guest without its driver": {probe{cpuSNP, nil}, "", CodeDriver},
		"a TD's device without a TD":      {probe{cpuPlain, []string{DeviceTDX}}, "", CodeUnclear},
		"an SNP device without SNP":       {probe{cpuPlain, []string{DeviceSNP}}, "", CodeUnclear},
		"a TD with an SNP device":         {probe{cpuTDX, []string{DeviceTDX, DeviceSNP}}, "", CodeUnclear},
		"a CPU that is both":              {probe{both, []string{DeviceTDX}}, "", CodeUnclear},
		"only the other's device":         {probe{cpuSNP, []string{DeviceTDX}}, "", CodeUnclear},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Detect(c.p)
			if got != c.want || (c.code == "") != (err == nil) || c.code != "" && !fault.Has(err, c.code) {
				t.Errorf("got %q, %v, want %q %s", got, err, c.want, c.code)
			}
		})
	}
}

func TestCPUIDRunsHere(t *testing.T) {
	if max, b, c, d := (Linux{}).CPUID(0, 0); max == 0 || b|c|d == 0 {
		t.Errorf("leaf 0 is %x %x %x %x", max, b, c, d)
	}
	if (Linux{}).Exists("/nowhere") || !(Linux{}).Exists("/") {
		t.Error("existence of paths is wrong")
	}
}

func TestAConfigThatNamesAnotherKindIsRefused(t *testing.T) {
	for _, k := range []Kind{TDX, SNP, VTPM} {
		for _, want := range []string{"", evidence.PlatformTDX, evidence.PlatformSNP, evidence.PlatformVTPM} {
			err := Wanted(&evidence.Config{Platform: want}, k)
			if ok := want == "" || want == string(k); ok != (err == nil) || !ok && !fault.Has(err, CodeKind) {
				t.Errorf("config %q on %s: %v", want, k, err)
			}
		}
	}
}
