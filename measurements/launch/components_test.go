package launch

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/jcs"
	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/ovmftest"
	"cocoon/measurements/snp"
)

func components(t testing.TB) (*Image, *Firmware) {
	t.Helper()
	f, err := ReadFirmware("OVMF.fd", ovmftest.Firmware(t, ovmftest.Options{Version: "2026.08"}))
	if err != nil {
		t.Fatal(err)
	}
	sum := func(s string) boot.Digests { return *boot.Of([]byte(s)) }
	return &Image{Cmdline: "console=ttyS0", KernelFile: digest.Sum256([]byte("file")), Kernel: sum("kernel"), Initrd: sum("initrd")}, f
}

var shapes = []snp.Shape{{VMM: snp.QEMU, VCPUs: 1, VCPUType: "EPYC-v4", Features: snp.DefaultFeatures}, {VMM: snp.EC2, VCPUs: 4, Features: snp.DefaultFeatures}}

// TestComponentsOutliveTheirFiles writes components and expected values as
// JSON, as a manifest does, reads them strictly and computes the values anew.
func TestComponentsOutliveTheirFiles(t *testing.T) {
	im, f := components(t)
	want, err := Expect(im, f, Host{Memory: 2 << 30}, shapes)
	if err != nil {
		t.Fatal(err)
	}
	type document struct {
		Image    *Image    `json:"image"`
		Firmware *Firmware `json:"firmware"`
		Expected *Expected `json:"expected"`
	}
	b, err := json.Marshal(document{im, f, want})
	if err != nil {
		t.Fatal(err)
	}
	var back document
	if err := jcs.Decode(b, len(b), &back); err != nil {
		t.Fatal(err)
	}
	got, err := Expect(back.Image, back.Firmware, Host{Memory: 2 << 30}, shapes)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("values computed anew (-want +got):\n%s%v", diff, err)
	}
	if diff := cmp.Diff(want, back.Expected); diff != "" {
		t.Errorf("values read back (-want +got):\n%s", diff)
	}
	if len(want.SNP) != 2 || want.TDX == nil || len(want.TPM.SHA256) != 13 {
		t.Errorf("values are missing: %+v", want)
	}
}

// TestEveryComponentReachesItsRegisters changes one component at a time and
// says which registers must change with it.
func TestEveryComponentReachesItsRegisters(t *testing.T) {
	im, f := components(t)
	base, err := Expect(im, f, Host{}, shapes)
	if err != nil {
		t.Fatal(err)
	}
	other := *boot.Of([]byte("other"))
	for name, c := range map[string]struct {
		change func(*Image, *Firmware)
		pcrs   []int
		rtmr   [3]bool // RTMR1, RTMR2 and the launch digests
	}{
		"kernel":        {func(im *Image, _ *Firmware) { im.Kernel = other }, []int{4}, [3]bool{true, false, false}},
		"kernel's file": {func(im *Image, _ *Firmware) { im.KernelFile = other.SHA256 }, nil, [3]bool{false, false, true}},
		"initrd":        {func(im *Image, _ *Firmware) { im.Initrd = other }, []int{9}, [3]bool{false, true, true}},
		"command line":  {func(im *Image, _ *Firmware) { im.Cmdline += " x" }, []int{9}, [3]bool{false, true, true}},
		"version":       {func(_ *Image, f *Firmware) { f.TPM = &FirmwareTPM{"2027.01", f.TPM.Volumes, false} }, []int{0}, [3]bool{}},
		"volumes":       {func(_ *Image, f *Firmware) { f.TPM = &FirmwareTPM{f.TPM.Version, []boot.Digests{other}, false} }, []int{0}, [3]bool{}},
		"keys":          {func(_ *Image, f *Firmware) { f.TPM = &FirmwareTPM{f.TPM.Version, f.TPM.Volumes, true} }, []int{7}, [3]bool{}},
		"SNP pages":     {func(_ *Image, f *Firmware) { s := *f.SNP; s.Digest[0] ^= 1; f.SNP = &s }, nil, [3]bool{false, false, true}},
	} {
		im2, f2 := *im, *f
		c.change(&im2, &f2)
		got, err := Expect(&im2, &f2, Host{}, shapes)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var changed []int
		for _, n := range bootPCRs {
			if base.TPM.SHA256[n] != got.TPM.SHA256[n] || base.TPM.SHA384[n] != got.TPM.SHA384[n] {
				changed = append(changed, n)
			}
		}
		if diff := cmp.Diff(c.pcrs, changed); diff != "" {
			t.Errorf("%s changes other PCRs (-want +got):\n%s", name, diff)
		}
		if r := [3]bool{base.TDX.RTMR1 != got.TDX.RTMR1, base.TDX.RTMR2 != got.TDX.RTMR2, base.SNP[0] != got.SNP[0] && base.SNP[1] != got.SNP[1]}; r != c.rtmr {
			t.Errorf("%s changes RTMR1, RTMR2, launch digests: %v, want %v", name, r, c.rtmr)
		}
	}
}

func TestComponentsThatAreNotCompleteAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Image, *Firmware){
		"no kernel":        func(im *Image, _ *Firmware) { im.Kernel = boot.Digests{} },
		"no kernel file":   func(im *Image, _ *Firmware) { im.KernelFile = digest.SHA256{} },
		"half an initrd":   func(im *Image, _ *Firmware) { im.Initrd.SHA384 = digest.SHA384{} },
		"no command line":  func(im *Image, _ *Firmware) { im.Cmdline = "" },
		"no firmware name": func(_ *Image, f *Firmware) { f.Name = "" },
		"an unknown rule":  func(_ *Image, f *Firmware) { f.Cmdline = "other" },
		"an unknown menu":  func(_ *Image, f *Firmware) { f.Menu = "other" },
		"no volume":        func(_ *Image, f *Firmware) { f.TPM = &FirmwareTPM{Version: "1"} },
		"no MRTD":          func(_ *Image, f *Firmware) { f.TDX = &FirmwareTDX{Configuration: f.TDX.Configuration, HOB: f.TDX.HOB} },
		"no TD HOB": func(_ *Image, f *Firmware) {
			f.TDX = &FirmwareTDX{MRTD: f.TDX.MRTD, Configuration: f.TDX.Configuration}
		},
		"an unknown section": func(_ *Image, f *Firmware) {
			s := *f.SNP
			s.Sections = append(s.Sections[:0:0], s.Sections...)
			s.Sections[0].Type = 9
			f.SNP = &s
		},
	} {
		im, f := components(t)
		change(im, f)
		if e, err := Expect(im, f, Host{}, shapes); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
	im, f := components(t)
	s := *f.SNP
	s.HashGPA = 0
	f.SNP = &s
	if e, err := Expect(im, f, Host{}, shapes); err != nil || len(e.SNP) != 0 || e.SNPRefused == "" {
		t.Errorf("a firmware that does not measure the kernel: %+v, %v", e, err)
	}
}
