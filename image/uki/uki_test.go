package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/imagetest"
	"cocoon/measurements/pe"
)

// pe32plus makes a PE image with the given sections and room for more.
func pe32plus(sections ...string) []byte {
	le := binary.LittleEndian
	const at, opt, optSize, headers = 0x40, 0x40 + coffSize, 240, 0x600
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[offLfanew:], at)
	copy(b[at:], "PE\x00\x00")
	le.PutUint16(b[at+offSections:], uint16(len(sections)))
	le.PutUint16(b[at+offOptSize:], optSize)
	le.PutUint16(b[opt:], magic64)
	le.PutUint32(b[opt+offSecAlign:], 0x1000)
	le.PutUint32(b[opt+offFileAlign:], 0x200)
	le.PutUint32(b[opt+offHeaderSize:], headers)
	le.PutUint16(b[opt+offDLLChars:], dllNXCompat)
	le.PutUint32(b[opt+offDirCount:], 16)
	for i, name := range sections {
		s := b[opt+optSize+i*sectionSize:]
		copy(s, name)
		le.PutUint32(s[12:], uint32(0x1000*(i+1)))
		le.PutUint32(s[16:], 0x200)
		le.PutUint32(s[20:], uint32(len(b)))
		b = append(b, make([]byte, 0x200)...)
		data := "stub!"
		if name == SectionSBAT {
			data = sbatFirst + "\nstub,1,Stub,stub,1,https://example.org\n\x00"
		}
		le.PutUint32(b[opt+optSize+i*sectionSize+8:], uint32(len(data)))
		copy(b[len(b)-0x200:], data)
	}
	return b
}

func contents() Contents {
	return Contents{Cmdline: "quiet", Uname: "6.12", Initrd: bytes.Repeat([]byte("i"), 1000), Kernel: pe32plus(".text")}
}

func TestAnImageHoldsTheStubsSectionsAndOurs(t *testing.T) {
	c := contents()
	out, err := Assemble(pe32plus(".text", SectionSBAT), c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(out)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]Section{{".text", []byte("stub!")}, {SectionSBAT, []byte(sbatFirst + "\nstub,1,Stub,stub,1,https://example.org\n" + sbatUKI + "\n\x00")}}, c.Sections()...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := pe.Authenticode256(out); err != nil {
		t.Errorf("firmware could not measure it: %v", err)
	}
	again, err := Assemble(pe32plus(".text", SectionSBAT), c)
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("a second image differs, error %v", err)
	}
}

func TestTheImageIsNXCompatibleOnlyIfTheKernelIs(t *testing.T) {
	for _, nx := range []bool{true, false} {
		c := contents()
		if !nx {
			binary.LittleEndian.PutUint16(c.Kernel[0x40+coffSize+offDLLChars:], 0)
		}
		out, err := Assemble(pe32plus(".text", SectionSBAT), c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := nxCompatible(out); err != nil || got != nx {
			t.Errorf("kernel %v: image %v, error %v", nx, got, err)
		}
	}
}

func TestStubsThatCannotBeExtendedAreRefused(t *testing.T) {
	const opt = 0x40 + coffSize
	le := binary.LittleEndian
	for name, edit := range map[string]func([]byte) []byte{
		"empty":               func([]byte) []byte { return nil },
		"no DOS header":       func(b []byte) []byte { b[0] = 'X'; return b },
		"no PE header":        func(b []byte) []byte { b[0x40] = 'X'; return b },
		"a header far away":   func(b []byte) []byte { le.PutUint32(b[offLfanew:], 0xfffffff0); return b },
		"32 bits":             func(b []byte) []byte { le.PutUint16(b[opt:], 0x10b); return b },
		"no section":          func(b []byte) []byte { b[0x40+offSections] = 0; return b },
		"too many sections":   func(b []byte) []byte { le.PutUint16(b[0x40+offSections:], 0xffff); return b },
		"alignment zero":      func(b []byte) []byte { le.PutUint32(b[opt+offFileAlign:], 0); return b },
		"alignment 3000":      func(b []byte) []byte { le.PutUint32(b[opt+offSecAlign:], 3000); return b },
		"signed":              func(b []byte) []byte { le.PutUint32(b[opt+offDirCount+4+dirSecurity*8:], 0x800); return b },
		"no room for headers": func(b []byte) []byte { le.PutUint32(b[opt+offHeaderSize:], 0x200); return b },
		"no SBAT section":     func(b []byte) []byte { b[opt+240+sectionSize] = 'x'; return b },
		"no room for SBAT":    func(b []byte) []byte { le.PutUint32(b[opt+240+sectionSize+16:], 16); return b },
		"sections overlap":    func(b []byte) []byte { le.PutUint32(b[opt+240+12:], 0x2000); return b },
		"cut short":           func(b []byte) []byte { return b[:len(b)-1] },
	} {
		if _, err := Assemble(edit(pe32plus(".text", SectionSBAT)), contents()); !errors.Is(err, ErrStub) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryContentIsNeeded(t *testing.T) {
	for name, edit := range map[string]func(*Contents){
		"cmdline": func(c *Contents) { c.Cmdline = "" },
		"uname":   func(c *Contents) { c.Uname = "" }, "initrd": func(c *Contents) { c.Initrd = nil }, "kernel": func(c *Contents) { c.Kernel = nil },
		"a PE kernel": func(c *Contents) { c.Kernel = []byte("ELF") },
	} {
		c := contents()
		edit(&c)
		if _, err := Assemble(pe32plus(".text", SectionSBAT), c); err == nil {
			t.Errorf("an image without %s was made", name)
		}
	}
}

// Two implementations must agree on what is measured.
func TestTheImageIsTheOneThatUkifyMakes(t *testing.T) {
	tree := imagetest.Tools(t)
	dir := t.TempDir()
	stub := filepath.Join(tree.Dir, "usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	stubBytes, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	c := contents()
	args := []string{filepath.Join(tree.Dir, "usr/bin/ukify"), "build", "--stub=" + stub, "--efi-arch=x64", "--os-release=", "--output=" + filepath.Join(dir, "uki")}
	for name, data := range map[string][]byte{"linux": c.Kernel, "initrd": c.Initrd, "cmdline": []byte(c.Cmdline), "uname": []byte(c.Uname)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		switch name {
		case "uname":
			args = append(args, "--uname="+c.Uname)
		case "linux", "initrd":
			args = append(args, "--"+name+"="+path)
		default:
			args = append(args, "--"+name+"=@"+path)
		}
	}
	cmd := tree.Command(t.Context(), "python3", append([]string{"-B"}, args...)...)
	cmd.Env = append(cmd.Env, "PYTHONHOME="+filepath.Join(tree.Dir, "usr"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("running ukify: %v\n%s", err, out)
	}
	theirs, err := os.ReadFile(filepath.Join(dir, "uki"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := Assemble(stubBytes, c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours, theirs) {
		a, errA := Read(ours)
		b, errB := Read(theirs)
		at := 0
		for at < min(len(ours), len(theirs)) && ours[at] == theirs[at] {
			at++
		}
		t.Errorf("%d bytes, ukify made %d (%v, %v), first difference at %#x:\n%s", len(ours), len(theirs), errA, errB, at, cmp.Diff(names(b), names(a)))
	}
}

func names(ss []Section) string {
	var b strings.Builder
	for _, s := range ss {
		b.WriteString(s.Name + " ")
	}
	return b.String()
}

func FuzzRead(f *testing.F) {
	f.Add(pe32plus(".text", SectionSBAT))
	out, err := Assemble(pe32plus(".text", SectionSBAT), contents())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(out)
	f.Fuzz(func(t *testing.T, b []byte) {
		sections, err := Read(b)
		if err != nil {
			return
		}
		n := 0
		for _, s := range sections {
			n += len(s.Data)
		}
		if n > len(b) {
			t.Errorf("%d bytes of sections in a file of %d", n, len(b))
		}
	})
}

func FuzzAssemble(f *testing.F) {
	f.Add(pe32plus(".text", SectionSBAT))
	f.Fuzz(func(t *testing.T, stub []byte) {
		out, err := Assemble(stub, contents())
		if err != nil {
			return
		}
		if _, err := Read(out); err != nil {
			t.Errorf("what was assembled cannot be read: %v", err)
		}
	})
}
