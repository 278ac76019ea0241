package pack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cocoon/enclave/pid1"
	"cocoon/internal/devmapper"
	"cocoon/internal/dmverity"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/verity"
	"cocoon/verifier/evidence"
)

// machine is a System with one disk, whose mapped device checks every block
// as the kernel does.
type machine struct {
	disk     []byte
	tree     []byte
	spec     dmverity.Spec
	calls    []string
	mountErr error
	mapErr   error
	flags    uintptr
	crypt    devmapper.Target // below, of an encrypted disk
	cryptErr error
}

func (m *machine) Disk(_ context.Context, serial string) (string, error) {
	if m.disk == nil {
		return "", pid1.ErrNoDevice
	}
	return "/dev/" + serial, nil
}

func (m *machine) Map(s dmverity.Spec) (string, error) {
	m.spec = s
	m.calls = append(m.calls, "map "+s.Name)
	return "/dev/dm-1", m.mapErr
}
func (m *machine) Unmap(name string) error { m.calls = append(m.calls, "unmap "+name); return nil }
func (m *machine) Mount(_, dir string, flags uintptr) error {
	m.calls, m.flags = append(m.calls, "mount "+dir), flags
	return m.mountErr
}

type file struct{ io.Reader }

func (file) Close() error { return nil }

// eio is a device with a block that does not hash to its tree.
type eio struct{}

func (eio) Read([]byte) (int, error) { return 0, unix.EIO }

func (m *machine) Open(device string) (File, error) {
	disk := m.below(m.spec.Device)
	if device != "/dev/dm-1" {
		return file{bytes.NewReader(disk)}, nil
	}
	data := disk[:m.spec.DataBlocks*verity.BlockSize]
	_, root, err := verity.Build(bytes.NewReader(data), m.spec.DataBlocks, m.spec.Salt)
	if err != nil || root != m.spec.Root || !bytes.Equal(m.tree, disk[len(data):]) {
		return file{eio{}}, nil
	}
	return file{bytes.NewReader(data)}, nil
}

func newMachine(t *testing.T) (*machine, Pack) {
	t.Helper()
	data := bytes.Repeat([]byte("cocoon.."), 4*verity.BlockSize/8)
	salt := digest.Sum256([]byte("salt"))
	tree, root, err := verity.Build(bytes.NewReader(data), 4, salt[:])
	if err != nil {
		t.Fatal(err)
	}
	return &machine{disk: append(data, tree...), tree: tree},
		Pack{Name: "model", Serial: SerialModel, Verity: evidence.Verity{Root: root, Salt: salt, DataBlocks: 4}}
}

func TestAGoodPackIsMountedReadOnly(t *testing.T) {
	m, p := newMachine(t)
	dir, err := Mount(context.Background(), m, p)
	if err != nil || dir.Dir != "/run/cocoon/pack/model" {
		t.Fatalf("got %q, %v", dir.Dir, err)
	}
	if diff := cmp.Diff([]string{"map pack-model", "mount /run/cocoon/pack/model"}, m.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if want := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC); m.flags != want {
		t.Errorf("flags are %#x, want %#x", m.flags, want)
	}
	if m.spec.Root != [32]byte(p.Verity.Root) || m.spec.OnCorruption != dmverity.Fail {
		t.Errorf("spec is %+v", m.spec)
	}
	p.Exec = true
	if _, err := Mount(context.Background(), m, p); err != nil || m.flags&unix.MS_NOEXEC != 0 {
		t.Errorf("an executable pack: flags %#x, %v", m.flags, err)
	}
}

func TestEveryByteOfAPackMatters(t *testing.T) {
	good, p := newMachine(t)
	for i := 0; i < len(good.disk); i += 61 {
		m, _ := newMachine(t)
		m.disk[i] ^= 1
		_, err := Mount(context.Background(), m, p)
		if !fault.Has(err, CodeCorrupt) {
			t.Fatalf("byte %d: got %v, want %s", i, err, CodeCorrupt)
		}
		f := fault.All(err)[0]
		if f.Expected != p.Verity.Root.String() || f.Actual == f.Expected || f.Actual == "" {
			t.Fatalf("byte %d: expected %q, actual %q", i, f.Expected, f.Actual)
		}
		if m.calls[len(m.calls)-1] != "unmap pack-model" {
			t.Fatalf("byte %d: the device is left: %v", i, m.calls)
		}
	}
}

func TestOtherFailures(t *testing.T) {
	t.Run("no disk", func(t *testing.T) {
		_, p := newMachine(t)
		if _, err := Mount(context.Background(), &machine{}, p); !fault.Has(err, CodeAbsent) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a disk that is too short", func(t *testing.T) {
		m, p := newMachine(t)
		m.mapErr = unix.EINVAL
		if _, err := Mount(context.Background(), m, p); !fault.Has(err, CodeMount) || !errors.Is(err, unix.EINVAL) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("right bytes that are no file system", func(t *testing.T) {
		m, p := newMachine(t)
		m.mountErr = unix.EINVAL
		if _, err := Mount(context.Background(), m, p); !fault.Has(err, CodeMount) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSizeIsThatOfEveryFile(t *testing.T) {
	dir := fstest.MapFS{"a": {Data: []byte("xx")}, "sub/b": {Data: []byte("yyy")}}
	if n, err := Size(dir); err != nil || n != 5 {
		t.Errorf("size is %d, %v", n, err)
	}
}

func TestReadCountsWhatTheDeviceRead(t *testing.T) {
	m := Mounted{Device: "/dev/dm-1"}
	sys := fstest.MapFS{"class/block/dm-1/stat": {Data: []byte("     190        0     1520        4        0        0        0        0        0        4        4        0        0        0        0        0        0\n")}}
	if n, err := Read(sys, m); err != nil || n != 1520*512 {
		t.Errorf("got %d, %v", n, err)
	}
	for name, bad := range map[string]string{"none": "", "short": "1 2 3", "no number": "1 2 x 4 5 6 7 8 9 10 11", "too large": "1 2 99999999999999999999 4 5 6 7 8 9 10 11"} {
		if n, err := Read(fstest.MapFS{"class/block/dm-1/stat": {Data: []byte(bad)}}, m); err == nil {
			t.Errorf("%s: %d", name, n)
		}
	}
	if _, err := Read(fstest.MapFS{}, m); err == nil {
		t.Error("a device that is not there was read")
	}
}
