package pe

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"cocoon/measurements/digest"
)

// image is a PE image with two sections, written in reverse order in the
// section table, data after the sections, and an optional certificate table.
type image struct {
	magic    uint16
	checksum uint32
	certs    []byte
	tail     []byte
	gap      int // bytes between the two sections
}

// offsets of the image that bytes builds
const (
	testPE      = 0x80
	testOpt     = testPE + coffSize
	testHeaders = 0x200
)

func (m image) bytes() []byte {
	le := binary.LittleEndian
	optSize := 112 + 16*directoryBytes
	count := offDirCount64
	if m.magic == magic32 {
		optSize, count = 96+16*directoryBytes, offDirCount32
	}
	b := make([]byte, testHeaders)
	copy(b, "MZ")
	le.PutUint32(b[offLfanew:], testPE)
	copy(b[testPE:], "PE\x00\x00")
	le.PutUint16(b[testPE+offSections:], 2)
	le.PutUint16(b[testPE+offOptSize:], uint16(optSize))
	le.PutUint16(b[testOpt:], m.magic)
	le.PutUint32(b[testOpt+offHeaderSize:], testHeaders)
	le.PutUint32(b[testOpt+offChecksum:], m.checksum)
	le.PutUint32(b[testOpt+count:], 16)
	first, second := bytes.Repeat([]byte{'a'}, 0x100), bytes.Repeat([]byte{'b'}, 0x80)
	table := b[testOpt+optSize:]
	put := func(i int, off, n int) {
		le.PutUint32(table[i*sectionSize+offRawSize:], uint32(n))
		le.PutUint32(table[i*sectionSize+offRawPointer:], uint32(off))
	}
	put(1, testHeaders, len(first))
	put(0, testHeaders+len(first)+m.gap, len(second))
	b = append(b, first...)
	b = append(b, make([]byte, m.gap)...)
	b = append(b, second...)
	b = append(b, m.tail...)
	if m.certs != nil {
		dir := b[testOpt+count+4+dirSecurity*directoryBytes:]
		le.PutUint32(dir, uint32(len(b)))
		le.PutUint32(dir[4:], uint32(len(m.certs)))
		b = append(b, m.certs...)
	}
	return b
}

// naive hashes everything but checksum, directory entry and certificates,
// which is the same where sections have no gaps between them.
func naive(b []byte, magic uint16, certs int) digest.SHA256 {
	dir := testOpt + offDirCount64 + 4 + dirSecurity*directoryBytes
	if magic == magic32 {
		dir = testOpt + offDirCount32 + 4 + dirSecurity*directoryBytes
	}
	h := sha256.New()
	h.Write(b[:testOpt+offChecksum])
	h.Write(b[testOpt+offChecksum+4 : dir])
	h.Write(b[dir+8 : len(b)-certs])
	return digest.SHA256(h.Sum(nil))
}

func TestHashLeavesOutWhatSigningChanges(t *testing.T) {
	for name, magic := range map[string]uint16{"PE32": magic32, "PE32+": magic64} {
		t.Run(name, func(t *testing.T) {
			plain := image{magic: magic, tail: []byte("tail data")}
			signed := image{magic: magic, tail: []byte("tail data"), checksum: 0xdeadbeef, certs: bytes.Repeat([]byte{'c'}, 24)}
			want := naive(plain.bytes(), magic, 0)
			for what, b := range map[string][]byte{"plain": plain.bytes(), "signed": signed.bytes()} {
				got, err := Authenticode256(b)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if got != want {
					t.Errorf("%s: got %s, want %s", what, got, want)
				}
			}
		})
	}
}

// TestEveryHashedByteMatters flips every byte: only checksum, certificate
// directory entry, certificates and the gap between sections may leave the
// hash as it was.
func TestEveryHashedByteMatters(t *testing.T) {
	b := image{magic: magic64, tail: []byte("tail"), certs: []byte("certs8by")}.bytes()
	want, err := Authenticode256(b)
	if err != nil {
		t.Fatal(err)
	}
	dir := testOpt + offDirCount64 + 4 + dirSecurity*directoryBytes
	for i := range b {
		free := i >= testOpt+offChecksum && i < testOpt+offChecksum+4 || i >= len(b)-8 || i >= dir && i < dir+8
		b[i] ^= 0x40
		got, err := Authenticode256(b)
		b[i] ^= 0x40
		if same := err == nil && got == want; same != free && !(free && err != nil) {
			t.Errorf("byte %#x: hash is the same: %v, want %v (%v)", i, same, free, err)
		}
	}
}

func TestMalformedImagesAreRefused(t *testing.T) {
	le := binary.LittleEndian
	base := func() []byte { return image{magic: magic64, certs: []byte("certs8by")}.bytes() }
	optSize := 112 + 16*directoryBytes
	table := testOpt + optSize
	for name, change := range map[string]func([]byte) []byte{
		"empty":                         func([]byte) []byte { return nil },
		"no DOS header":                 func(b []byte) []byte { b[0] = 0; return b },
		"PE header outside":             func(b []byte) []byte { le.PutUint32(b[offLfanew:], 0xffffffff); return b },
		"no PE signature":               func(b []byte) []byte { b[testPE] = 0; return b },
		"no sections":                   func(b []byte) []byte { le.PutUint16(b[testPE+offSections:], 0); return b },
		"too many sections":             func(b []byte) []byte { le.PutUint16(b[testPE+offSections:], 97); return b },
		"optional header cut":           func(b []byte) []byte { le.PutUint16(b[testPE+offOptSize:], 8); return b },
		"unknown magic":                 func(b []byte) []byte { le.PutUint16(b[testOpt:], 7); return b },
		"too many directories":          func(b []byte) []byte { le.PutUint32(b[testOpt+offDirCount64:], 1<<30); return b },
		"headers beyond the file":       func(b []byte) []byte { le.PutUint32(b[testOpt+offHeaderSize:], 1<<30); return b },
		"headers too short":             func(b []byte) []byte { le.PutUint32(b[testOpt+offHeaderSize:], 1); return b },
		"section beyond the file":       func(b []byte) []byte { le.PutUint32(b[table+offRawSize:], 1<<31); return b },
		"section within the headers":    func(b []byte) []byte { le.PutUint32(b[table+offRawPointer:], 8); return b },
		"overlapping sections":          func(b []byte) []byte { le.PutUint32(b[table+offRawPointer:], testHeaders+8); return b },
		"bytes after the certificates":  func(b []byte) []byte { return append(b, 0) },
		"sections in the certificates":  func(b []byte) []byte { le.PutUint32(b[table+offRawSize:], 0x88); return b },
		"certificates before the image": func(b []byte) []byte { le.PutUint32(b[testOpt+offDirCount64+4+32:], 0); return b },
	} {
		t.Run(name, func(t *testing.T) {
			if h, err := Authenticode256(change(base())); !errors.Is(err, ErrFormat) {
				t.Errorf("got %s, %v, want ErrFormat", h, err)
			}
		})
	}
}

func FuzzAuthenticode(f *testing.F) {
	f.Add(image{magic: magic64}.bytes())
	f.Add(image{magic: magic32, certs: []byte("certs8by"), gap: 16}.bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := Authenticode256(in)
		_, err384 := Authenticode384(in)
		if (err == nil) != (err384 == nil) {
			t.Fatalf("SHA-256 %v, SHA-384 %v", err, err384)
		}
		if b, err2 := Authenticode256(bytes.Clone(in)); err == nil && (err2 != nil || a != b) {
			t.Fatal("hash is not a function of the bytes")
		}
	})
}

func FuzzSections(f *testing.F) {
	f.Add(image{magic: magic64}.bytes())
	f.Add(image{magic: magic32, certs: []byte("certs8by"), gap: 16}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		sections, err := Sections(b)
		if err != nil {
			return
		}
		total := 0
		for _, s := range sections {
			if len(s.Name) > 8 {
				t.Errorf("name %q", s.Name)
			}
			total += len(s.Data)
		}
		if total > len(b)*len(sections)+maxZeros {
			t.Errorf("%d bytes in memory", total)
		}
	})
}
