package launch

import (
	"encoding/hex"
	"os"
	"testing"

	"cocoon/internal/toolstree"
	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/snp"
)

// watchedBoot returns the log of a real direct boot (measurements/eventlog/testdata).
func watchedBoot(t testing.TB) *eventlog.Log {
	t.Helper()
	b, err := os.ReadFile("../eventlog/testdata/direct-boot.eventlog.bin")
	if err != nil {
		t.Fatal(err)
	}
	l, err := eventlog.ParseTPM(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ovmfFile returns the tools tree's OVMF.fd, components and all.
func ovmfFile(t testing.TB) *Firmware {
	t.Helper()
	tools, err := toolstree.Find()
	if err != nil {
		t.Skipf("the tools tree is absent: %v", err)
	}
	b, err := os.ReadFile(tools.OVMF())
	if err != nil {
		t.Skipf("the tools tree has no firmware: %v", err)
	}
	f, err := ReadFirmware("OVMF.fd", b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestAWatchedBootIsPredicted predicts every event of a real direct boot, in
// both banks, from the firmware file and the components of the image; what is
// the host's is taken from the log.
func TestAWatchedBootIsPredicted(t *testing.T) {
	f, l := ovmfFile(t), watchedBoot(t)
	if f.SHA256.String() != "6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129" {
		t.Skipf("the tools tree's firmware is %s, the boot was with another", f.SHA256)
	}
	of := func(e *eventlog.Event) *boot.Digests {
		return &boot.Digests{SHA256: digest.SHA256(e.Digest(eventlog.SHA256)), SHA384: digest.SHA384(e.Digest(eventlog.SHA384))}
	}
	flags, h, im := 0, Host{}, &Image{Cmdline: "x", KernelFile: digest.Sum256(nil)}
	var options *boot.Digests
	for i := range l.Events {
		e := &l.Events[i]
		switch {
		case e.Type == eventlog.PlatformConfigFlags:
			if flags < 4 {
				*[]**boot.Digests{&h.ACPILoader, &h.ACPIRSDP, new(*boot.Digests), &h.ACPITables}[flags] = of(e)
			}
			flags++
		case e.Type == eventlog.EFIHandoffTables:
			h.SMBIOS = of(e)
		case e.Type == eventlog.EFIBootApplication:
			im.Kernel = *of(e)
		case e.Label() == "Linux initrd":
			im.Initrd = *of(e)
		case e.Label() == "LOADED_IMAGE::LoadOptions":
			options = of(e)
		}
	}
	events, err := Events(im, f, h)
	if err != nil {
		t.Fatal(err)
	}
	var predicted []boot.Event
	for _, e := range events {
		if e.Component == "command line" { // its text was not kept
			e.Digests = options
		}
		if e.PCR != boot.NoRegister {
			predicted = append(predicted, e)
		}
	}
	if len(predicted) != len(l.Events) {
		t.Fatalf("%d events are predicted, the log has %d", len(predicted), len(l.Events))
	}
	for i, p := range predicted {
		e := &l.Events[i]
		if uint32(p.PCR) != e.Register || p.Type != e.Type || p.Digests.SHA256.String() != hex.EncodeToString(e.Digest(eventlog.SHA256)) ||
			p.Digests.SHA384.String() != hex.EncodeToString(e.Digest(eventlog.SHA384)) {
			t.Errorf("event %d is PCR %d %s %x, predicted is PCR %d %s %s %s", i, e.Register, e.Type, e.Digest(eventlog.SHA256), p.PCR, p.Type, p.Component, p.Digests.SHA256)
		}
	}
	regs, err := l.Replay(eventlog.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	got := ExpectTPM(predicted)
	for n, v := range regs {
		if got.SHA384[n].String() != hex.EncodeToString(v) {
			t.Errorf("PCR %d of the SHA-384 bank is %x, predicted %s", n, v, got.SHA384[n])
		}
	}
}

func BenchmarkAllRegistersOfAllTEEs(b *testing.B) {
	file, kernel, initrd, cmdline := benchFiles(b)
	shapes := []snp.Shape{{VMM: snp.QEMU, VCPUs: 1, VCPUType: "EPYC-v4", Features: snp.DefaultFeatures}, {VMM: snp.QEMU, VCPUs: 64, VCPUType: "EPYC-Genoa", Features: snp.DefaultFeatures}}
	for b.Loop() {
		im, err := ReadImage(kernel, initrd, cmdline)
		if err != nil {
			b.Fatal(err)
		}
		f, err := ReadFirmware("OVMF.fd", file)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Expect(im, f, Host{Memory: 2 << 30}, shapes); err != nil {
			b.Fatal(err)
		}
	}
}

// benchFiles returns the files of the built image and the tools tree's
// firmware.
func benchFiles(b *testing.B) (firmware, kernel, initrd []byte, cmdline string) {
	b.Helper()
	root, err := toolstree.RepoRoot()
	if err != nil {
		b.Skip(err)
	}
	tools, err := toolstree.Find()
	if err != nil {
		b.Skipf("the tools tree is absent: %v", err)
	}
	for path, dst := range map[string]*[]byte{tools.OVMF(): &firmware, root + "/build/image/vmlinuz": &kernel, root + "/build/image/initrd": &initrd} {
		if *dst, err = os.ReadFile(path); err != nil {
			b.Skipf("the image is not built: %v", err)
		}
	}
	c, err := os.ReadFile(root + "/build/image/cmdline")
	if err != nil {
		b.Skipf("the image is not built: %v", err)
	}
	return firmware, kernel, initrd, string(c)
}
