package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
)

type part struct {
	name string
	data []byte
}

// image makes a PE image with the given sections.
func image(parts ...part) []byte {
	le := binary.LittleEndian
	const at, opt, optSize, headers = 0x40, 0x58, 240, 0x600
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], at)
	copy(b[at:], "PE\x00\x00")
	le.PutUint16(b[at+6:], uint16(len(parts)))
	le.PutUint16(b[at+20:], optSize)
	le.PutUint16(b[opt:], 0x20b)
	le.PutUint32(b[opt+60:], headers)
	le.PutUint32(b[opt+108:], 16)
	for i, p := range parts {
		s := b[opt+optSize+i*40:]
		copy(s[:8], p.name)
		le.PutUint32(s[8:], uint32(len(p.data)))
		raw := (len(p.data) + 0x1ff) &^ 0x1ff
		le.PutUint32(s[16:], uint32(raw))
		le.PutUint32(s[20:], uint32(len(b)))
		b = append(append(b, p.data...), make([]byte, raw-len(p.data))...)
	}
	return b
}

func kernel() []byte { return image(part{".text", []byte("kernel")}) }

func parts() []part {
	return []part{{".text", []byte("stub")}, {".osrel", []byte("ID=cocoon\n")}, {".cmdline", []byte(" console=ttyS0 quiet\n\x00")},
		{".uname", []byte("6.12")}, {".initrd", []byte("0123456789")}, {".linux", kernel()}}
}

func TestAnImageIsReadAsItIsMeasured(t *testing.T) {
	im, err := Read(image(parts()...))
	if err != nil {
		t.Fatal(err)
	}
	if im.Cmdline != "console=ttyS0 quiet" {
		t.Errorf("command line is %q", im.Cmdline)
	}
	var names []string
	for _, s := range im.Sections {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != ".linux .osrel .cmdline .initrd .uname" {
		t.Errorf("sections are measured in the order %s", got)
	}
	// The section's own contents, without the padding in the file.
	if im.Sections[1].Digests.SHA256 != digest.Sum256([]byte("ID=cocoon\n")) {
		t.Error(".osrel is not measured as it is in memory")
	}
	events, err := im.StubEvents("uki.efi")
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 2*5+3 {
		t.Errorf("%d events, want 13", len(events))
	}
	if v, _ := boot.RTMR(events, 2); v.IsZero() {
		t.Error("RTMR2 is not extended")
	}
}

// TestTheKernelsInitrdIsAnArchiveMore unpacks what the kernel gets with cpio:
// behind the image's own initrd stands os-release.
func TestTheKernelsInitrdIsAnArchiveMore(t *testing.T) {
	contents := []byte("ID=cocoon\nNAME=\"Cocoon\"\n")
	whole := initrd(map[string][]byte{".initrd": []byte("0123456789"), ".osrel": contents})
	if !bytes.HasPrefix(whole, []byte("0123456789\x00\x00070701")) || len(whole)%4 != 0 {
		t.Fatalf("the initrd begins with %q", whole[:20])
	}
	if alone := initrd(map[string][]byte{".initrd": []byte("0123456789")}); len(alone) != 10 {
		t.Errorf("an initrd alone is padded to %d bytes", len(alone))
	}
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is absent")
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), cpio, "--extract", "--make-directories", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(whole[12:])
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(dir + "/.extra/os-release")
	if err != nil || !bytes.Equal(got, contents) {
		t.Errorf("/.extra/os-release holds %q: %v", got, err)
	}
}

func TestImagesThatCannotBePredictedAreRefused(t *testing.T) {
	without := func(name string) []byte {
		var out []part
		for _, p := range parts() {
			if p.name != name {
				out = append(out, p)
			}
		}
		return image(out...)
	}
	for name, b := range map[string][]byte{
		"a profile":           image(append(parts(), part{".profile", []byte("ID=x\n")})...),
		"a device tree":       image(append(parts(), part{".dtb", []byte("x")})...),
		"two command lines":   image(append(parts(), part{".cmdline", []byte("x")})...),
		"no kernel":           without(".linux"),
		"no initrd":           without(".initrd"),
		"no command line":     without(".cmdline"),
		"an initrd parameter": image(append([]part{{".cmdline", []byte("initrd=x")}}, parts()[3:]...)...),
	} {
		if _, err := Read(b); !errors.Is(err, ErrUnpredictable) && !errors.Is(err, boot.ErrCmdline) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read([]byte("MZ")); err == nil {
		t.Error("a file that is no PE image is read")
	}
}

// TestEveryByteOfAnImageIsMeasured changes one byte at a time: some register's
// digest must change with it.
func TestEveryByteOfAnImageIsMeasured(t *testing.T) {
	good := image(parts()...)
	im, err := Read(good)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if at := i - 0x58; at >= 64 && at < 68 || at >= 144 && at < 152 { // checksum, certificate table
			continue
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if other, err := Read(bad); err == nil && other.Application == im.Application {
			t.Errorf("byte %#x is not measured", i)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(image(parts()...))
	f.Add(kernel())
	f.Fuzz(func(t *testing.T, b []byte) {
		im, err := Read(b)
		if err != nil {
			return
		}
		if err := boot.CheckCmdline(im.Cmdline); err != nil {
			t.Error(err)
		}
		if _, err := im.StubEvents("x"); err != nil {
			t.Error(err)
		}
	})
}
