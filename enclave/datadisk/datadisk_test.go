package datadisk

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cocoon/enclave/pid1"
	"cocoon/enclave/seal"
	"cocoon/internal/devmapper"
	"cocoon/internal/fault"
)

// safe seals by a mark that stands for the machine's measurements.
type safe struct{ mark byte }

func (safe) Name() string { return "test" }
func (s safe) Seal(key []byte) ([]byte, error) {
	return append([]byte{s.mark}, key...), nil
}
func (s safe) Unseal(blob []byte) ([]byte, error) {
	if blob[0] != s.mark {
		return nil, seal.Refused(errors.New("policy check failed"))
	}
	return bytes.Clone(blob[1:]), nil
}

// machine is a host file as a disk, and records what is asked of the kernel.
type machine struct {
	path   string
	calls  []string
	tables []string
	fail   string
}

func newMachine(t *testing.T, size int64) *machine {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return &machine{path: path}
}

func (m *machine) do(call string) error {
	m.calls = append(m.calls, call)
	if call == m.fail {
		return unix.EIO
	}
	return nil
}

func (m *machine) Disk(serial string) (string, error) {
	if m.path == "" {
		return "", fmt.Errorf("looking: %w", pid1.ErrNoDevice)
	}
	return "/dev/vdx", m.do("disk " + serial)
}

// always is a machine that has a sealer.
func always(s seal.Sealer) func() (seal.Sealer, error) {
	return func() (seal.Sealer, error) { return s, nil }
}

func (m *machine) Open(dev string) (File, error) {
	path := m.path
	if dev != "/dev/vdx" { // the upper device: as large as its table says
		path += ".upper"
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(path, 3<<20+4096); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return device{f}, m.do("open " + dev)
}

func (m *machine) Map(t devmapper.Target) (string, error) {
	m.tables = append(m.tables, strings.ReplaceAll(t.Table, devmapper.KeyMark, hex.EncodeToString(t.Key)))
	if t.Type == "integrity" {
		m.superblock(t)
	}
	return "/dev/dm-" + t.Name, m.do(fmt.Sprintf("map %s %s %d", t.Name, t.Type, t.Sectors))
}

// superblock is what the kernel writes when it formats.
func (m *machine) superblock(devmapper.Target) {
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	sb := make([]byte, 24)
	if _, err := f.ReadAt(sb, dataSector*512); err != nil || sb[0] != 0 {
		return
	}
	copy(sb, "integrt\x00")
	binary.LittleEndian.PutUint64(sb[16:], 40960)
	if _, err := f.WriteAt(sb, dataSector*512); err != nil {
		panic(err)
	}
}

func (m *machine) Unmap(name string) error                { return m.do("unmap " + name) }
func (m *machine) Mkfs(_ context.Context, d string) error { return m.do("mkfs " + d) }
func (m *machine) Mount(d, dir string) error              { return m.do("mount " + d + " " + dir) }

// endless is a source of bytes that are not random.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestABlankDiskIsMadeAndThenOpened(t *testing.T) {
	m := newMachine(t, 64<<20)
	st, err := Open(t.Context(), m, Options{Sealer: always(safe{1}), Random: endless(0xab)})
	if err != nil || !st.Formatted || st.Dir != Dir {
		t.Fatalf("got %+v, %v", st, err)
	}
	want := []string{
		"disk cocoon-data", "open /dev/vdx", "map data-integrity integrity 8", "unmap data-integrity",
		"map data-integrity integrity 40960", "map data crypt 40960", "open /dev/dm-data", "mkfs /dev/dm-data",
		"mount /dev/dm-data /run/cocoon/data",
	}
	if diff := cmp.Diff(want, m.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	key := strings.Repeat("ab", keySize)
	tables := []string{
		"/dev/vdx 2048 32 J 1 block_size:4096", "/dev/vdx 2048 32 J 1 block_size:4096",
		"capi:authenc(hmac(sha256),xts(aes))-plain64 " + key + " 0 /dev/dm-data-integrity 0 2 integrity:32:aead sector_size:4096",
	}
	if diff := cmp.Diff(tables, m.tables); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	m.calls, m.tables = nil, nil
	st, err = Open(t.Context(), m, Options{Sealer: always(safe{1}), Random: endless(0xcd)})
	if err != nil || st.Formatted {
		t.Fatalf("got %+v, %v", st, err)
	}
	want = []string{"disk cocoon-data", "open /dev/vdx", "map data-integrity integrity 40960", "map data crypt 40960", "mount /dev/dm-data /run/cocoon/data"}
	if diff := cmp.Diff(want, m.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if !strings.Contains(m.tables[1], key) {
		t.Error("the second boot uses another key")
	}
}

func TestAMachineWithoutADataDisk(t *testing.T) {
	none := errors.New("this machine has no sealer")
	sealer := func() (seal.Sealer, error) { return nil, none }
	if _, err := Open(t.Context(), newMachine(t, 64<<20), Options{Sealer: sealer, Random: endless(1)}); !errors.Is(err, none) {
		t.Errorf("a disk on a machine without a sealer: %v", err)
	}
	if st, err := Open(t.Context(), &machine{}, Options{Sealer: sealer, Random: endless(1)}); err != nil || st.Dir != "" {
		t.Errorf("got %+v, %v", st, err)
	}
}

// What is neither blank nor this machine's is refused and left as it is.
func TestADiskThatIsNotOurs(t *testing.T) {
	made := func(t *testing.T) *machine {
		m := newMachine(t, 64<<20)
		if _, err := Open(t.Context(), m, Options{Sealer: always(safe{1}), Random: endless(1)}); err != nil {
			t.Fatal(err)
		}
		return m
	}
	write := func(t *testing.T, m *machine, at int64, b []byte) {
		f, err := os.OpenFile(m.path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		edit func(*testing.T, *machine)
		as   safe
		code string
	}{
		{"sealed by another machine", func(*testing.T, *machine) {}, safe{2}, seal.CodeRefused},
		{"one byte more in the header", func(t *testing.T, m *machine) { write(t, m, 4000, []byte("x")) }, safe{1}, CodeHeader},
		{"something else on it", func(t *testing.T, m *machine) { write(t, m, 0, bytes.Repeat([]byte("x"), 4096)) }, safe{1}, CodeHeader},
		{"no superblock below", func(t *testing.T, m *machine) { write(t, m, dataSector*512, make([]byte, 512)) }, safe{1}, CodeOpen},
		{"an impossible size below", func(t *testing.T, m *machine) {
			write(t, m, dataSector*512+16, bytes.Repeat([]byte{0xff}, 8))
		}, safe{1}, CodeOpen},
		{"a file system that does not mount", func(_ *testing.T, m *machine) { m.fail = "mount /dev/dm-data /run/cocoon/data" }, safe{1}, CodeMount},
		{"devices that do not open", func(_ *testing.T, m *machine) { m.fail = "map data crypt 40960" }, safe{1}, CodeOpen},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := made(t)
			c.edit(t, m)
			m.calls = nil
			before, err := os.ReadFile(m.path)
			if err != nil {
				t.Fatal(err)
			}
			st, err := Open(t.Context(), m, Options{Sealer: always(c.as), Random: endless(3)})
			if !fault.Has(err, c.code) || st.Dir != "" {
				t.Errorf("got %+v, %v, want %s", st, err, c.code)
			}
			after, err := os.ReadFile(m.path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(before, after) && c.name != "no superblock below" {
				t.Error("the disk was written to")
			}
			for _, call := range m.calls {
				if strings.HasPrefix(call, "mkfs") {
					t.Error("a file system was made over it")
				}
			}
		})
	}
	small := newMachine(t, minSize-4096)
	if _, err := Open(t.Context(), small, Options{Sealer: always(safe{1}), Random: endless(1)}); !fault.Has(err, CodeSize) {
		t.Errorf("a small disk: got %v", err)
	}
}

// A boot that ends while it formats finds a blank disk again.
func TestFormattingWritesTheHeaderLast(t *testing.T) {
	for _, fail := range []string{
		"map data-integrity integrity 8", "unmap data-integrity", "map data-integrity integrity 40960",
		"map data crypt 40960", "open /dev/dm-data", "mkfs /dev/dm-data",
	} {
		t.Run(fail, func(t *testing.T) {
			m := newMachine(t, 64<<20)
			m.fail = fail
			if _, err := Open(t.Context(), m, Options{Sealer: always(safe{1}), Random: endless(1)}); !errors.Is(err, unix.EIO) {
				t.Fatalf("got %v, want EIO", err)
			}
			f, err := os.Open(m.path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			block := make([]byte, headerSize)
			if _, err := f.ReadAt(block, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := ParseHeader(block); !errors.Is(err, errBlank) {
				t.Errorf("got %v, want a blank header", err)
			}
		})
	}
}

func TestHeaderTampering(t *testing.T) {
	h := Header{Format: Format, Sealer: "tpm2-pcr", Key: []byte("sealed key")}
	block, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseHeader(block); err != nil || cmp.Diff(&h, got) != "" {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := range block {
		b := bytes.Clone(block)
		b[i] ^= 0x80
		if got, err := ParseHeader(b); err == nil {
			t.Errorf("byte %d: got %+v", i, got)
		}
	}
	for name, h := range map[string]Header{
		"another format": {Format: "cocoon-data/2", Sealer: "x", Key: []byte{1}},
		"no sealer":      {Format: Format, Key: []byte{1}},
		"no key":         {Format: Format, Sealer: "x"},
		"a long key":     {Format: Format, Sealer: "x", Key: make([]byte, seal.MaxBlob+1)},
	} {
		block, err := h.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseHeader(block); err == nil || errors.Is(err, errBlank) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := ParseHeader(block[:100]); err == nil {
		t.Error("half a block was read")
	}
}

func FuzzParseHeader(f *testing.F) {
	block, err := (&Header{Format: Format, Sealer: "tpm2-pcr", Key: []byte("k")}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(block)
	f.Add(make([]byte, headerSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		again, err := h.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q reads as %+v", b, h)
		}
	})
}
