// Package uki predicts what the boot of a unified kernel image measures. In
// comes the image, a PE file; out come the events of systemd-stub (PCR 11), of
// the kernel that it starts (PCR 4) and of that kernel's EFI stub (PCR 9).
//
// The initrd of a UKI is not its .initrd section: systemd-stub puts a small
// cpio archive with the .osrel section behind it, as /.extra/os-release, and
// hands over both, each padded to 4 bytes. That is what PCR 9 has the hash of.
// Without .osrel the section is handed over as it stands.
//
// Definitions: UAPI Group Specification 5 "Unified Kernel Image", section "PE
// Sections" and "Updatability"; systemd-stub(7) of systemd 257, "PCR
// Measurements" and "Initrd Resources"; Linux
// Documentation/driver-api/early-userspace/buffer-format.rst.
package uki

import (
	"bytes"
	"errors"
	"fmt"

	"cocoon/measurements/boot"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/pe"
)

// ErrUnpredictable is returned for images whose boot depends on more than the
// image: profiles, device trees, load options of their own.
var ErrUnpredictable = errors.New("what this unified kernel image measures cannot be predicted")

// measured are the sections that systemd-stub measures, in its order
// (UAPI.5, "PE Sections"); .pcrsig is not measured.
var measured = []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".uname", ".sbat", ".pcrpkey"}

// refused are sections that make the boot depend on the machine, or that
// change which of the others count.
var refused = []string{".profile", ".dtb", ".dtbauto", ".hwids", ".efifw"}

// extras are the sections that reach the kernel as files of an archive each,
// in this order.
var extras = []struct{ section, file string }{
	{".pcrsig", "tpm2-pcr-signature.json"}, {".pcrpkey", "tpm2-pcr-public-key.pem"}, {".osrel", "os-release"},
}

// Image is an image's parts, in the form in which they are measured.
type Image struct {
	Application boot.Digests `json:"application_authenticode"` // of the file
	Kernel      boot.Digests `json:"kernel_authenticode"`      // of .linux
	Sections    []Section    `json:"sections"`                 // in the order of measurement
	Cmdline     string       `json:"cmdline"`                  // as the kernel gets it
	Initrd      boot.Digests `json:"initrd"`                   // of what the kernel gets, archive and padding included
}

// Section is one section of the image.
type Section struct {
	Name    string       `json:"name"`
	Digests boot.Digests `json:"digests"` // of its contents in memory
}

// Read returns the parts of an image.
func Read(file []byte) (*Image, error) {
	list, err := pe.Sections(file)
	if err != nil {
		return nil, fmt.Errorf("reading unified kernel image: %w", err)
	}
	parts := map[string][]byte{}
	for _, s := range list {
		if _, ok := parts[s.Name]; ok && known(s.Name) {
			return nil, fmt.Errorf("reading unified kernel image: %w: two sections %.8q", ErrUnpredictable, s.Name)
		}
		parts[s.Name] = s.Data
	}
	for _, name := range refused {
		if _, ok := parts[name]; ok {
			return nil, fmt.Errorf("reading unified kernel image: %w: it has a section %s", ErrUnpredictable, name)
		}
	}
	for _, name := range []string{".linux", ".initrd", ".cmdline"} {
		if len(parts[name]) == 0 {
			return nil, fmt.Errorf("reading unified kernel image: %w: it has no section %s", ErrUnpredictable, name)
		}
	}
	im := &Image{Cmdline: mangle(parts[".cmdline"]), Initrd: *boot.Of(initrd(parts))}
	if err := boot.CheckCmdline(im.Cmdline); err != nil {
		return nil, fmt.Errorf("reading unified kernel image: %w", err)
	}
	for _, name := range measured {
		if b, ok := parts[name]; ok {
			im.Sections = append(im.Sections, Section{name, *boot.Of(b)})
		}
	}
	for dst, b := range map[*boot.Digests][]byte{&im.Application: file, &im.Kernel: parts[".linux"]} {
		if dst.SHA256, err = pe.Authenticode256(b); err == nil {
			dst.SHA384, err = pe.Authenticode384(b)
		}
		if err != nil {
			return nil, fmt.Errorf("reading unified kernel image: %w", err)
		}
	}
	return im, nil
}

func known(name string) bool {
	for _, n := range measured {
		if n == name {
			return true
		}
	}
	return name == ".pcrsig"
}

// mangle returns the command line as the stub passes it on: up to a NUL,
// control characters as spaces, without spaces at the ends.
func mangle(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	b = bytes.Map(func(r rune) rune {
		if r < 0x20 {
			return ' '
		}
		return r
	}, b)
	return string(bytes.Trim(b, " "))
}

// initrd returns what the kernel gets: microcode, the image's initrd, then an
// archive for each extra; each padded to 4 bytes where there are several.
func initrd(parts map[string][]byte) []byte {
	var list [][]byte
	for _, name := range []string{".ucode", ".initrd"} {
		if b := parts[name]; len(b) > 0 {
			list = append(list, b)
		}
	}
	for _, e := range extras {
		if b, ok := parts[e.section]; ok {
			list = append(list, archive(e.file, b))
		}
	}
	if len(list) == 1 {
		return list[0]
	}
	var out []byte
	for _, b := range list {
		out = pad4(append(out, b...))
	}
	return out
}

// archive returns a cpio archive (newc) with one file in /.extra, as the stub
// writes it: directory and file with inodes 1 and 2, owner and time 0.
func archive(name string, contents []byte) []byte {
	const dir, directory, file = ".extra", 0o40555, 0o100444
	b := entry(nil, 1, directory, dir, nil)
	b = entry(b, 2, file, dir+"/"+name, contents)
	// The trailer's name length is written with a capital B.
	return pad4(fmt.Appendf(b, "070701%032x00000001%048x0000000B%08xTRAILER!!!\x00", 0, 0, 0))
}

func entry(b []byte, inode, mode int, name string, contents []byte) []byte {
	b = fmt.Appendf(b, "070701%08x%08x%08x%08x%08x%08x%08x%032x%08x%08x%s\x00", inode, mode, 0, 0, 1, 0, len(contents), 0, len(name)+1, 0, name)
	return pad4(append(pad4(b), contents...))
}

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// StubEvents returns what is measured from the stub's start to the kernel's:
// name (with a NUL) and contents of each section into PCR 11, the inner kernel
// into PCR 4, command line and initrd into PCR 9.
func (im *Image) StubEvents(source string) ([]boot.Event, error) {
	var out []boot.Event
	for i := range im.Sections {
		s := &im.Sections[i]
		out = append(out,
			boot.New(11, eventlog.IPL, "name of section "+s.Name, source, boot.Of(append([]byte(s.Name), 0))),
			boot.New(11, eventlog.IPL, "section "+s.Name, source, &s.Digests))
	}
	options, err := boot.LoadOptions(boot.CmdlineAlone, im.Cmdline)
	if err != nil {
		return nil, fmt.Errorf("predicting boot of unified kernel image: %w", err)
	}
	return append(out,
		boot.New(4, eventlog.EFIBootApplication, "kernel", source+" .linux", &im.Kernel),
		boot.New(9, eventlog.EventTag, "command line", source+" .cmdline", boot.Of(options)),
		boot.New(9, eventlog.EventTag, "initrd", source+" .initrd and .osrel", &im.Initrd)), nil
}
