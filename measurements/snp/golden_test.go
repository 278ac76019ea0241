package snp

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/vectors"
	"cocoon/measurements/digest"
	"cocoon/measurements/tdvf"
)

// goldenCase is one test of the reference implementation: the arguments of its
// calls, as source text, and the digest that it wants last.
type goldenCase struct {
	Test     string            `json:"test"`
	Calls    [][]string        `json:"calls"`
	Expected []string          `json:"expected"`
	Given    map[string]string `json:"given"`
}

func goldenCases(t testing.TB) (string, []goldenCase) {
	t.Helper()
	dir := filepath.Join(vectors.Dir(t), "launch")
	b, err := os.ReadFile(filepath.Join(dir, "sev-snp-measure-golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []goldenCase
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	return dir, cases
}

// arguments are the arguments of a call, read.
type arguments struct {
	mode     string
	shape    Shape
	firmware *tdvf.Firmware
	kernel   *Kernel
	seed     string
	svsm     *tdvf.Firmware
	varsSize uint32
}

func readArguments(t testing.TB, dir string, c *goldenCase) arguments {
	t.Helper()
	text := func(s string) string { return strings.Trim(s, "'") }
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("%s: %v", c.Test, err)
		}
		return n
	}
	load := func(s string) *tdvf.Firmware {
		b, err := os.ReadFile(filepath.Join(dir, filepath.Base(text(s))))
		if err != nil {
			t.Fatal(err)
		}
		f, err := tdvf.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	args := c.Calls[len(c.Calls)-1]
	a := arguments{mode: args[0], firmware: load(args[3]), shape: Shape{VMM: QEMU, VCPUs: number(args[1]), Features: uint64(number(args[7]))}}
	if _, model, ok := strings.Cut(args[2], "['"); ok {
		a.shape.VCPUType = strings.TrimSuffix(model, "']")
	}
	if args[4] != "None" {
		cmdline := ""
		if args[6] != "None" {
			cmdline = text(args[6])
		}
		a.kernel = HashKernel(nil, nil, cmdline) // the files of the cases are /dev/null
	}
	for i, arg := range args[8:] {
		name, value, named := strings.Cut(arg, "=")
		switch {
		case named && name == "vmm_type":
			a.shape.VMM = VMM(value[strings.LastIndex(value, ".")+1:])
		case named && name == "snp_ovmf_hash_str":
			if a.seed = c.Given[value]; a.seed == "" {
				a.seed = c.Expected[0] // of the call before
			}
		case !named && i == 3 && arg != "None":
			a.svsm = load(arg)
		case !named && i == 4:
			a.varsSize = uint32(number(arg))
		}
	}
	return a
}

func (a *arguments) measure() (string, error) {
	switch a.mode {
	case "SevMode.SEV_SNP":
		f, err := ReadFirmware(a.firmware)
		if err != nil {
			return "", err
		}
		if a.seed != "" {
			if err := f.Digest.UnmarshalText([]byte(a.seed)); err != nil {
				return "", err
			}
		}
		d, err := Measure(f, a.kernel, a.shape)
		return d.String(), err
	case "SevMode.SEV_SNP_SVSM":
		d, err := MeasureSVSM(a.firmware, a.svsm, a.varsSize, a.shape)
		return d.String(), err
	case "SevMode.SEV_ES":
		d, err := MeasureSEVES(a.firmware, a.kernel, a.shape)
		return d.String(), err
	case "SevMode.SEV":
		d, err := MeasureSEV(a.firmware, a.kernel)
		return d.String(), err
	}
	return "", fmt.Errorf("mode %q", a.mode)
}

// TestGoldenLaunchDigests computes every case of the reference implementation
// anew and prints the table.
func TestGoldenLaunchDigests(t *testing.T) {
	dir, cases := goldenCases(t)
	if len(cases) != 23 {
		t.Errorf("%d cases, want 23", len(cases))
	}
	for i := range cases {
		c := &cases[i]
		name := strings.TrimPrefix(c.Test, "test_guest.py:test_")
		a := readArguments(t, dir, c)
		got, err := a.measure()
		want := c.Expected[len(c.Expected)-1]
		if err != nil || got != want {
			t.Errorf("%s: %s, want %s: %v", name, got, want, err)
			continue
		}
		t.Logf("✓ %-46s %s", name, got)
		if len(c.Expected) == 2 { // the first call of these wants the firmware's own digest
			f, err := ReadFirmware(a.firmware)
			if err != nil || f.Digest.String() != c.Expected[0] {
				t.Errorf("%s: firmware digest is %s, want %s: %v", name, f.Digest, c.Expected[0], err)
			}
		}
	}
}

// TestEveryInputReachesTheLaunchDigest changes one input at a time.
func TestEveryInputReachesTheLaunchDigest(t *testing.T) {
	f := Firmware{
		Digest: digest.Sum384([]byte("firmware")), HashGPA: 0x80c00, ResetEIP: 0x80b004,
		Sections: []tdvf.SEVSection{{GPA: 0x800000, Size: 0x9000, Type: tdvf.SEVMemory}, {GPA: 0x80d000, Size: 0x1000, Type: tdvf.SEVSecrets},
			{GPA: 0x80e000, Size: 0x1000, Type: tdvf.SEVCPUID}, {GPA: 0x80000, Size: 0x1000, Type: tdvf.SEVKernelHashes}},
	}
	shape := Shape{VMM: QEMU, VCPUs: 2, VCPUType: "EPYC-v4", Features: DefaultFeatures}
	kernel := func() *Kernel { return HashKernel([]byte("kernel"), []byte("initrd"), "quiet") }
	seen := map[digest.SHA384]string{}
	measure := func(name string, f Firmware, k *Kernel, s Shape) {
		t.Helper()
		d, err := Measure(f, k, s)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if other, ok := seen[d]; ok {
			t.Errorf("%s gives the same digest as %s", name, other)
		}
		seen[d] = name
	}
	measure("the base", f, kernel(), shape)
	measure("no kernel", f, nil, shape)
	measure("another kernel", f, HashKernel([]byte("kernel2"), []byte("initrd"), "quiet"), shape)
	measure("another initrd", f, HashKernel([]byte("kernel"), []byte("initrd2"), "quiet"), shape)
	measure("another command line", f, HashKernel([]byte("kernel"), []byte("initrd"), "quiet "), shape)
	for name, s := range map[string]Shape{
		"three processors": {QEMU, 3, "EPYC-v4", DefaultFeatures}, "another model": {QEMU, 2, "EPYC-Milan", DefaultFeatures},
		"more features": {QEMU, 2, "EPYC-v4", FeatureSNP | FeatureDebugSwap}, "EC2": {EC2, 2, "", DefaultFeatures}, "GCE": {GCE, 2, "", DefaultFeatures},
	} {
		measure(name, f, kernel(), s)
	}
	g := f
	g.ResetEIP++
	measure("another reset address", g, kernel(), shape)
	g = f
	g.Digest[0] ^= 1
	measure("another firmware", g, kernel(), shape)
	g = f
	g.HashGPA += 16
	measure("hashes elsewhere", g, kernel(), shape)
	for i := range f.Sections {
		g = f
		g.Sections = append([]tdvf.SEVSection{}, f.Sections...)
		g.Sections[i].GPA += 0x100000
		measure(fmt.Sprintf("range %d elsewhere", i), g, kernel(), shape)
	}
}

func TestMachinesThatCannotBeMeasuredAreRefused(t *testing.T) {
	f := Firmware{Sections: []tdvf.SEVSection{{GPA: 0x800000, Size: 0x1000, Type: tdvf.SEVMemory}}}
	for name, s := range map[string]Shape{
		"no processor": {QEMU, 0, "EPYC", 1}, "too many": {QEMU, MaxVCPUs + 1, "EPYC", 1}, "an unknown model": {QEMU, 1, "EPYC-Naples", 1},
		"an unknown monitor": {"xen", 1, "EPYC", 1}, "a second processor without an address": {QEMU, 2, "EPYC", 1},
	} {
		if d, err := Measure(f, nil, s); err == nil {
			t.Errorf("%s gives %s", name, d)
		}
	}
	if d, err := Measure(f, HashKernel(nil, nil, ""), Shape{QEMU, 1, "EPYC", 1}); err == nil {
		t.Errorf("a kernel that the firmware does not measure gives %s", d)
	}
	f.Sections[0].Type = 9
	if d, err := Measure(f, nil, Shape{QEMU, 1, "EPYC", 1}); err == nil {
		t.Errorf("a range of unknown type gives %s", d)
	}
}

// TestARealGuestReportsWhatIsComputed takes the components that a dstack host
// states for its guest and holds the digest that follows from them against the
// guest's report.
func TestARealGuestReportsWhatIsComputed(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "launch", "sev-snp-attestation.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Attestation string `json:"attestation"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	raw, err := hex.DecodeString(doc.Attestation)
	if err != nil {
		t.Fatal(err)
	}
	// The file is the host's envelope; the report stands 4 bytes into it.
	report := raw[4:]
	want := digest.SHA384(report[0x90:])
	const cmdline = "console=ttyS0 init=/init panic=1 net.ifnames=0 biosdevname=0 mce=off oops=panic pci=noearly pci=nommconf " +
		"random.trust_cpu=y random.trust_bootloader=n tsc=reliable no-kvmclock " +
		"dstack.rootfs_hash=ca5adaef0ac3a36108035925763b48a5818f634e700fbaab561d419fd30d7121 dstack.rootfs_size=490713088"
	f := Firmware{
		HashGPA: 8457216, ResetEIP: 8433668,
		Sections: []tdvf.SEVSection{{GPA: 8388608, Size: 36864, Type: 1}, {GPA: 8429568, Size: 12288, Type: 1}, {GPA: 8441856, Size: 4096, Type: 2},
			{GPA: 8445952, Size: 4096, Type: 3}, {GPA: 8450048, Size: 4096, Type: 4}, {GPA: 8458240, Size: 61440, Type: 1}, {GPA: 8454144, Size: 4096, Type: 16}},
	}
	k := &Kernel{Cmdline: CmdlineDigest(cmdline)}
	for dst, s := range map[interface{ UnmarshalText([]byte) error }]string{
		&f.Digest: "ffb57e393469a497c0e3b07bd1c97d8611e555f464d14491837665893ac642b263a71f9507ff100a847897fe0c3f8c6f",
		&k.Kernel: "dd9ea274ce9a07090b22e8284b0c841b65c021c2d15ca57d0f16731089dd226c",
		&k.Initrd: "5f844c4a2ca5a3d0711b3db38293b21ba929bb8e0b3c5bc1a779a57f69221c19",
	} {
		if err := dst.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Measure(f, k, Shape{VMM: QEMU, VCPUs: 2, VCPUType: "EPYC-v4", Features: DefaultFeatures})
	if err != nil || got != want {
		t.Errorf("launch digest is %s, the report says %s: %v", got, want, err)
	}
}
