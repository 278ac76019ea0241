package tdvf

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/vectors"
)

// image makes a firmware of two pages with the given entries in its table,
// outermost last, and descriptions at their distances from the end.
func image(entries map[GUID][]byte, descriptions map[int][]byte) []byte {
	b := make([]byte, 2*PageSize)
	at := len(b) - 32 - 18
	copy(b[at+2:], guidFooter[:])
	size := 18
	for g, data := range entries {
		n := len(data) + 18
		copy(b[at-n:], data)
		binary.LittleEndian.PutUint16(b[at-18:], uint16(n))
		copy(b[at-16:], g[:])
		at -= n
		size += n
	}
	binary.LittleEndian.PutUint16(b[len(b)-50:], uint16(size))
	for back, d := range descriptions {
		copy(b[len(b)-back:], d)
	}
	return b
}

func u32s(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// section returns the 32 bytes of a TDVF section.
func section(s Section) []byte {
	b := u32s(s.Offset, s.RawSize)
	b = binary.LittleEndian.AppendUint64(b, s.GPA)
	b = binary.LittleEndian.AppendUint64(b, s.Size)
	return append(b, u32s(s.Type, s.Attrs)...)
}

var (
	bfv = Section{0, PageSize, 0xffffe000, PageSize, BFV, AttrExtend}
	hob = Section{0, 0, 0x809000, 2 * PageSize, TDHOB, 0}
)

func tdx(sections ...Section) []byte {
	d := append([]byte("TDVF"), u32s(uint32(16+32*len(sections)), 1, uint32(len(sections)))...)
	for _, s := range sections {
		d = append(d, section(s)...)
	}
	return image(map[GUID][]byte{guidTDX: u32s(1000)}, map[int][]byte{1000: d})
}

func sev(n uint32, ranges ...uint32) []byte {
	d := append([]byte("ASEV"), u32s(16+12*n, 1, n)...)
	return image(map[GUID][]byte{guidSEV: u32s(1000)}, map[int][]byte{1000: append(d, u32s(ranges...)...)})
}

func TestDescriptionsAreRead(t *testing.T) {
	f, err := Parse(tdx(bfv, hob))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.TDX()
	if diff := cmp.Diff([]Section{bfv, hob}, got); err != nil || diff != "" {
		t.Errorf("TDX sections (-want +got):\n%s%v", diff, err)
	}
	if f, err = Parse(sev(2, 0x800000, 0x9000, SEVMemory, 0x80000, 0x1000, SEVKernelHashes)); err != nil {
		t.Fatal(err)
	}
	ranges, err := f.SEV()
	if diff := cmp.Diff([]SEVSection{{0x800000, 0x9000, SEVMemory}, {0x80000, 0x1000, SEVKernelHashes}}, ranges); err != nil || diff != "" {
		t.Errorf("SEV ranges (-want +got):\n%s%v", diff, err)
	}
	if _, err := f.TDX(); err == nil {
		t.Error("a description that is not there is read")
	}
}

func TestDescriptionsThatAreNotWellFormedAreRefused(t *testing.T) {
	with := func(change func(*Section)) []byte {
		s := bfv
		change(&s)
		return tdx(s)
	}
	for name, b := range map[string][]byte{
		"memory that is not of whole pages": with(func(s *Section) { s.GPA++ }),
		"memory beyond 4 GiB":               with(func(s *Section) { s.GPA = 1 << 32 }),
		"memory that wraps around":          with(func(s *Section) { s.GPA, s.Size = 0xfffff000, 1<<64-PageSize }),
		"no memory":                         with(func(s *Section) { s.Size, s.RawSize = 0, 0 }),
		"bytes beyond the file":             with(func(s *Section) { s.Offset = PageSize + 1 }),
		"fewer bytes than are measured":     with(func(s *Section) { s.Size = 2 * PageSize }),
		"an unknown type":                   with(func(s *Section) { s.Type = 8 }),
		"an unknown attribute":              with(func(s *Section) { s.Attrs = 4 }),
		"measured and not added":            with(func(s *Section) { s.Attrs = 3 }),
		"no section":                        tdx(),
		"an unknown version":                []byte(strings.Replace(string(tdx(bfv)), "TDVF\x30\x00\x00\x00\x01", "TDVF\x30\x00\x00\x00\x02", 1)),
		"another length":                    []byte(strings.Replace(string(tdx(bfv)), "TDVF\x30", "TDVF\x31", 1)),
		"an entry before the file":          image(map[GUID][]byte{guidTDX: u32s(1 << 30)}, nil),
		"an entry of three bytes":           image(map[GUID][]byte{guidTDX: {1, 2, 3}}, nil),
	} {
		f, err := Parse(b)
		if err == nil {
			_, err = f.TDX()
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, b := range map[string][]byte{
		"half a page":     sev(1, 0x800000, 0x800, SEVMemory),
		"an unknown type": sev(1, 0x800000, 0x1000, 7),
		"too many":        sev(100, 0x800000, 0x1000, SEVMemory),
		"too large":       sev(1, 0x800000, 0x40000000, SEVMemory),
	} {
		f, err := Parse(b)
		if err == nil {
			_, err = f.SEV()
		}
		if err == nil {
			t.Errorf("SEV metadata with %s: accepted", name)
		}
	}
	for name, b := range map[string][]byte{
		"an empty file": nil, "half a page": make([]byte, PageSize/2), "too large": make([]byte, MaxSize+PageSize),
	} {
		if _, err := Parse(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	bad := image(map[GUID][]byte{guidTDX: u32s(1000)}, nil)
	binary.LittleEndian.PutUint16(bad[len(bad)-50:], 17)
	if _, err := Parse(bad); err == nil {
		t.Error("a table shorter than its own header is accepted")
	}
}

func TestGUIDsReadAndPrint(t *testing.T) {
	const s = "96b582de-1fb2-45f7-baea-a366c55a082d"
	g, err := ParseGUID(s)
	if err != nil || g != guidFooter || g.String() != s {
		t.Errorf("%s reads as %s: %v", s, g, err)
	}
	for _, bad := range []string{"", s[1:], s + "0", strings.Replace(s, "-", "0", 1), "z" + s[1:]} {
		if _, err := ParseGUID(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(tdx(bfv, hob))
	f.Add(sev(2, 0x800000, 0x9000, SEVMemory, 0x80000, 0x1000, SEVKernelHashes))
	if dir := vectors.Find(); dir != "" {
		if b, err := os.ReadFile(filepath.Join(dir, "launch", "ovmf_AmdSev_suffix.bin")); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fw, err := Parse(b)
		if err != nil {
			return
		}
		if sections, err := fw.TDX(); err == nil {
			for _, s := range sections {
				if uint64(s.Offset)+uint64(s.RawSize) > uint64(len(b)) || s.GPA+s.Size > 1<<32 {
					t.Errorf("section %+v does not fit", s)
				}
			}
		}
		if ranges, err := fw.SEV(); err == nil {
			for _, r := range ranges {
				if r.Validate() != nil {
					t.Errorf("range %+v is accepted", r)
				}
			}
		}
		_, _ = fw.SEVHashTable()
		_, _ = fw.SEVResetEIP()
		_, _ = fw.SVSMEntry()
	})
}
