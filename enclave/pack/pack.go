// Package pack mounts the read-only disks that the config names: the engine's
// root file system and the model. Each is erofs under dm-verity with the
// root, salt and size of the measured config; what a disk says of itself is
// never asked.
//
// An encrypted pack has dm-crypt below dm-verity: the root is that of the plain
// bytes (package modelpack), so that whatever the host makes of the ciphertext,
// which XTS does not authenticate, is found out block by block.
package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/enclave/pid1"
	"cocoon/internal/devmapper"
	"cocoon/internal/dmverity"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/modelpack"
	"cocoon/measurements/verity"
	"cocoon/verifier/evidence"
)

// Serials by which the host marks the disks, and where the packs are mounted.
const (
	SerialEngine = "cocoon-engine"
	SerialModel  = "cocoon-model" // further ones: cocoon-model-2, -3 and so on
	dirBase      = "/run/cocoon/pack"
)

// Codes of faults.
const (
	CodeAbsent  = "pack.disk_absent"
	CodeCorrupt = "pack.root_differs"
	CodeMount   = "pack.mount"
)

// diskWait bounds the wait for a disk to appear.
const diskWait = 10 * time.Second

// maxAhead is the size up to which a whole pack is read when it is mounted,
// so that a wrong one is refused here, with its real root, and not later, in
// the middle of an answer. Larger packs are checked as they are read, as
// dm-verity does in any case.
const maxAhead = 1 << 30

// Pack is one disk to mount.
type Pack struct {
	Name   string // engine or model
	Serial string
	Verity evidence.Verity
	Exec   bool // programs may be executed from it
	// Key decrypts the disk (modelpack.Cipher); nil: it is plain. Mount wipes it.
	Key []byte
}

// Model returns where the pack of a config's model i, counted from 0, is; what
// it has to be is not set.
func Model(i int) Pack {
	if i == 0 {
		return Pack{Name: "model", Serial: SerialModel}
	}
	return Pack{Name: fmt.Sprintf("model-%d", i+1), Serial: fmt.Sprintf("%s-%d", SerialModel, i+1)}
}

// Mounted is a pack in its place.
type Mounted struct {
	Dir    string
	Device string // the verified one, such as /dev/dm-1
	Bytes  uint64 // of data
}

// System is what this package asks of the machine.
type System interface {
	Disk(ctx context.Context, serial string) (device string, err error)
	Map(s dmverity.Spec) (device string, err error)
	Decrypt(t devmapper.Target) (device string, err error)
	Unmap(name string) error
	Mount(device, dir string, flags uintptr) error
	Open(device string) (File, error)
}

// File is an open block device.
type File interface {
	io.Reader
	io.Closer
}

// Mount maps and mounts a pack.
func Mount(ctx context.Context, sys System, p Pack) (Mounted, error) {
	defer clear(p.Key)
	ctx, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	disk, err := sys.Disk(ctx, p.Serial)
	if err != nil {
		return Mounted{}, fault.New(fault.ExitNotReady, CodeAbsent, "give the machine a read-only disk with this serial",
			"looking for the %s disk %s: %w", p.Name, p.Serial, err)
	}
	if p.Key == nil {
		return verified(sys, p, disk)
	}
	crypt := decrypted(p, disk)
	plain, err := sys.Decrypt(crypt)
	if err != nil {
		return Mounted{}, fault.New(fault.ExitRefused, CodeMount, "check that the disk is the pack of this config, whole",
			"decrypting the %s pack: %w", p.Name, err)
	}
	m, err := verified(sys, p, plain)
	if err != nil {
		return Mounted{}, errors.Join(err, sys.Unmap(crypt.Name))
	}
	return m, nil
}

// decrypted is the device with a pack's plain bytes, data and hash tree.
func decrypted(p Pack, disk string) devmapper.Target {
	blocks := p.Verity.DataBlocks + verity.TreeBlocks(p.Verity.DataBlocks)
	return devmapper.Target{Name: "crypt-" + p.Name, Type: "crypt", Sectors: blocks * (verity.BlockSize / 512), ReadOnly: true, Key: p.Key,
		Table: modelpack.Cipher + " " + devmapper.KeyMark + " 0 " + disk + " 0"}
}

// verified maps and mounts a pack whose plain bytes are on a device.
func verified(sys System, p Pack, disk string) (Mounted, error) {
	name := "pack-" + p.Name
	mapped, err := sys.Map(dmverity.Spec{
		Name: name, Device: disk, Root: p.Verity.Root, Salt: p.Verity.Salt[:],
		DataBlocks: p.Verity.DataBlocks, OnCorruption: dmverity.Fail,
	})
	if err != nil {
		return Mounted{}, fault.New(fault.ExitRefused, CodeMount, "check that the disk is the pack of this config, whole",
			"mapping the %s pack: %w", p.Name, err)
	}
	dir := filepath.Join(dirBase, p.Name)
	if err := mount(sys, p, mapped, dir); err != nil {
		return Mounted{}, errors.Join(explain(sys, p, disk, err), sys.Unmap(name))
	}
	return Mounted{Dir: dir, Device: mapped, Bytes: p.Verity.DataBlocks * verity.BlockSize}, nil
}

func mount(sys System, p Pack, mapped, dir string) error {
	if size := p.Verity.DataBlocks * verity.BlockSize; size <= maxAhead {
		if err := readThrough(sys, mapped, size); err != nil {
			return err
		}
	}
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV)
	if !p.Exec {
		flags |= unix.MS_NOEXEC
	}
	return sys.Mount(mapped, dir, flags)
}

func readThrough(sys System, device string, size uint64) error {
	f, err := sys.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	// A megabyte a read keeps the kernel's read-ahead and its hash workers
	// busy.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err != nil {
		return err
	}
	if uint64(n) != size {
		return fmt.Errorf("device has %d bytes, want %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	return nil
}

// explain says why a pack cannot be read. Where the data are at fault, it
// computes the root that they really have.
func explain(sys System, p Pack, disk string, cause error) error {
	if size := p.Verity.DataBlocks * verity.BlockSize; size <= maxAhead {
		if actual, err := rootOf(sys, disk, p.Verity); err == nil && actual != p.Verity.Root {
			return fault.Mismatch(fault.ExitRefused, CodeCorrupt, "the root hash of the "+p.Name+" pack",
				p.Verity.Root.String(), actual.String(), "give the machine the pack that its config names, unchanged")
		}
	}
	if errors.Is(cause, unix.EIO) {
		return fault.Mismatch(fault.ExitRefused, CodeCorrupt, "the hash tree of the "+p.Name+" pack",
			p.Verity.Root.String(), "a block that does not hash to it", "give the machine the pack that its config names, unchanged")
	}
	return fault.New(fault.ExitRefused, CodeMount, "check that the disk is the pack of this config, whole",
		"mounting the %s pack: %w", p.Name, cause)
}

func rootOf(sys System, disk string, v evidence.Verity) (digest.SHA256, error) {
	f, err := sys.Open(disk)
	if err != nil {
		return digest.SHA256{}, err
	}
	defer f.Close()
	_, root, err := verity.Build(f, v.DataBlocks, v.Salt[:])
	return root, err
}

// Read returns how many bytes were read from a mounted pack's device, and so
// verified, since it was mapped: field 3 of Linux'
// Documentation/admin-guide/iostats.rst, in sectors of 512 bytes. sys is
// os.DirFS("/sys").
func Read(sys fs.FS, m Mounted) (uint64, error) {
	b, err := fs.ReadFile(sys, "class/block/"+filepath.Base(m.Device)+"/stat")
	if err != nil {
		return 0, fmt.Errorf("reading how much of the pack is loaded: %w", err)
	}
	fields := strings.Fields(string(b))
	if len(fields) < 11 {
		return 0, fmt.Errorf("reading how much of the pack is loaded: %d fields", len(fields))
	}
	n, err := strconv.ParseUint(fields[2], 10, 55)
	if err != nil {
		return 0, fmt.Errorf("reading how much of the pack is loaded: %w", err)
	}
	return n * 512, nil
}

// Size returns the bytes of all files in a pack.
func Size(dir fs.FS) (uint64, error) {
	var n uint64
	err := fs.WalkDir(dir, ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += uint64(info.Size())
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("listing pack: %w", err)
	}
	return n, nil
}

// Linux is the running machine.
type Linux struct{}

// Disk waits for the virtio disk with this serial.
func (Linux) Disk(ctx context.Context, serial string) (string, error) {
	name, err := pid1.WaitFor(ctx, func() (string, error) { return pid1.DiskBySerial(os.DirFS("/sys"), serial) })
	if err != nil {
		return "", err
	}
	return "/dev/" + name, nil
}

// Map sets up a dm-verity device.
func (Linux) Map(s dmverity.Spec) (string, error) { return dmverity.Open(s) }

// Decrypt sets up a dm-crypt device.
func (Linux) Decrypt(t devmapper.Target) (string, error) { return devmapper.Create(t) }

// Unmap removes either.
func (Linux) Unmap(name string) error { return dmverity.Close(name) }

// Mount mounts an erofs device, making the directory.
func (Linux) Mount(device, dir string, flags uintptr) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount(device, dir, "erofs", flags, "")
}

// Open opens a device for reading.
func (Linux) Open(device string) (File, error) { return os.Open(device) }
