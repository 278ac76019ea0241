package datadisk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cocoon/enclave/pid1"
	"cocoon/enclave/seal"
	"cocoon/internal/devmapper"
	"cocoon/internal/fault"
)

// Serial marks the disk. The host's word finds it; the key decides.
const Serial = "cocoon-data"

// Dir is where the file system is mounted.
const Dir = "/run/cocoon/data"

// Names of the two devices.
const (
	nameIntegrity = "data-integrity"
	nameCrypt     = "data"
)

// Codes of faults; seal.CodeRefused is the one for another machine or other
// measurements.
const (
	CodeHeader = "data.header"
	CodeSize   = "data.size"
	CodeOpen   = "data.open"
	CodeMount  = "data.mount"
)

const remedyOther = "give the machine its own data disk as it left it, or an empty one"

// System is what this package asks of the machine.
type System interface {
	Disk(serial string) (device string, err error) // pid1.ErrNoDevice if there is none
	Open(device string) (File, error)
	Map(t devmapper.Target) (device string, err error)
	Unmap(name string) error
	Mkfs(ctx context.Context, device string) error
	Mount(device, dir string) error
}

// File is an open block device.
type File interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Sync() error
	io.Closer
}

// State says what became of the disk.
type State struct {
	Dir       string // empty: the machine has no data disk
	Formatted bool   // it was blank
}

// Options of Open.
type Options struct {
	// Sealer is asked for only where there is a disk.
	Sealer func() (seal.Sealer, error)
	// Ticket is a key that an older image handed over (package handover), sealed
	// to this machine: see NewTicket. nil: none.
	Ticket []byte
	Random io.Reader
}

// Open opens the machine's data disk, making key and file system on a blank
// one. A disk that is neither blank nor this machine's is refused and left as
// it is.
func Open(ctx context.Context, sys System, o Options) (State, error) {
	d, err := find(sys)
	if err != nil || d == nil {
		return State{}, err
	}
	defer d.f.Close()
	d.random = o.Random
	s, err := o.Sealer()
	if err != nil {
		return State{}, err
	}
	st := State{Dir: Dir}
	key, err := d.key(s)
	switch {
	case errors.Is(err, errBlank):
		st.Formatted = true
		err = d.format(ctx, s)
	case errors.Is(err, seal.ErrRefused) && o.Ticket != nil:
		err = d.takeOver(s, o.Ticket, err)
	case err == nil:
		err = d.open(key)
		clear(key)
	}
	if err != nil {
		return State{}, err
	}
	return st, nil
}

// Key returns the key of the machine's data disk, for handing it over.
func Key(sys System, s seal.Sealer) ([]byte, error) {
	d, err := find(sys)
	if err == nil && d == nil {
		err = fault.New(fault.ExitNotReady, CodeOpen, "give the machine its data disk", "looking for the data disk: there is none")
	}
	if err != nil {
		return nil, err
	}
	defer d.f.Close()
	return d.key(s)
}

// find opens the device; nil where the machine has none.
func find(sys System) (*disk, error) {
	device, err := sys.Disk(Serial)
	if errors.Is(err, pid1.ErrNoDevice) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, CodeOpen, "give the machine one disk of this serial", "looking for the data disk: %w", err)
	}
	f, err := sys.Open(device)
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, CodeOpen, "give the machine a data disk that can be written", "opening the data disk: %w", err)
	}
	d := &disk{sys: sys, device: device, f: f}
	if d.size, err = f.Size(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the data disk's size: %w", err), f.Close())
	}
	if d.size < minSize || d.size > maxSize {
		return nil, errors.Join(fault.Mismatch(fault.ExitNotReady, CodeSize, "the data disk's size", fmt.Sprintf("%d to %d bytes", minSize, int64(maxSize)), fmt.Sprint(d.size),
			"make the data disk anew with another size"), f.Close())
	}
	return d, nil
}

type disk struct {
	sys    System
	device string
	size   int64
	f      File
	random io.Reader
}

// open maps and mounts a disk whose key is known.
func (d *disk) open(key []byte) error {
	dev, err := d.stack(key)
	if err != nil {
		return err
	}
	return d.mount(dev)
}

// format makes key, devices and file system; the header is written last, so
// that a boot that ends in between finds a blank disk again.
func (d *disk) format(ctx context.Context, s seal.Sealer) error {
	key := make([]byte, keySize)
	defer clear(key)
	if _, err := io.ReadFull(d.random, key); err != nil {
		return fmt.Errorf("making the data disk's key: %w", err)
	}
	// dm-integrity formats what begins with zeros.
	if _, err := d.f.WriteAt(make([]byte, blockSize), dataSector*512); err != nil {
		return fmt.Errorf("clearing the data disk: %w", err)
	}
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("clearing the data disk: %w", err)
	}
	if _, err := d.sys.Map(d.integrity(blockSize / 512)); err != nil {
		return openFault("formatting the data disk's tags", err)
	}
	if err := d.sys.Unmap(nameIntegrity); err != nil {
		return openFault("formatting the data disk's tags", err)
	}
	dev, err := d.stack(key)
	if err != nil {
		return err
	}
	if err := d.fill(ctx, dev); err != nil {
		return errors.Join(openFault("writing the data disk's first tags", err), d.unstack())
	}
	if err := d.sys.Mkfs(ctx, dev); err != nil {
		return errors.Join(openFault("making the data disk's file system", err), d.unstack())
	}
	blob, err := s.Seal(key)
	if err == nil {
		err = d.writeHeader(&Header{Format: Format, Sealer: s.Name(), Key: blob})
	}
	if err != nil {
		return errors.Join(err, d.unstack())
	}
	return d.mount(dev)
}

func openFault(what string, err error) error {
	return fault.New(fault.ExitRefused, CodeOpen, remedyOther, "%s: %w", what, err)
}

// fill writes every block once: one that was never written has no valid tag,
// and reading it fails.
func (d *disk) fill(ctx context.Context, dev string) error {
	f, err := d.sys.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf[:min(int64(len(buf)), size-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// integrity is the device that keeps the tags: journalled, so that block and
// tag are written both or not at all.
func (d *disk) integrity(sectors uint64) devmapper.Target {
	return devmapper.Target{Name: nameIntegrity, Type: "integrity", Sectors: sectors,
		Table: fmt.Sprintf("%s %d %d J 1 block_size:%d", d.device, dataSector, tagSize, blockSize)}
}

// crypt is the device that encrypts and authenticates.
func crypt(below string, key []byte, sectors uint64) devmapper.Target {
	return devmapper.Target{Name: nameCrypt, Type: "crypt", Sectors: sectors, Key: key,
		Table: fmt.Sprintf("capi:authenc(hmac(sha256),xts(aes))-plain64 %s 0 %s 0 2 integrity:%d:aead sector_size:%d", devmapper.KeyMark, below, tagSize, blockSize)}
}

// stack maps both devices and returns the upper one.
func (d *disk) stack(key []byte) (string, error) {
	sectors, err := d.provided()
	if err != nil {
		return "", err
	}
	below, err := d.sys.Map(d.integrity(sectors))
	if err != nil {
		return "", openFault("opening the data disk's tags", err)
	}
	dev, err := d.sys.Map(crypt(below, key, sectors))
	if err != nil {
		return "", errors.Join(openFault("opening the data disk", err), d.sys.Unmap(nameIntegrity))
	}
	return dev, nil
}

func (d *disk) unstack() error {
	return errors.Join(d.sys.Unmap(nameCrypt), d.sys.Unmap(nameIntegrity))
}

// provided reads how many sectors dm-integrity offers from its superblock
// (drivers/md/dm-integrity.c, struct superblock: magic, 8 bytes of geometry,
// then the count, little-endian). The host may have written it: a wrong count
// makes blocks that fail to authenticate.
func (d *disk) provided() (uint64, error) {
	if err := d.f.Sync(); err != nil {
		return 0, fmt.Errorf("reading the data disk's superblock: %w", err)
	}
	sb := make([]byte, 512)
	if _, err := d.f.ReadAt(sb, dataSector*512); err != nil {
		return 0, fmt.Errorf("reading the data disk's superblock: %w", err)
	}
	n := binary.LittleEndian.Uint64(sb[16:])
	if string(sb[:8]) != "integrt\x00" || n == 0 || n%(blockSize/512) != 0 || n > uint64(d.size)/512 {
		return 0, fault.New(fault.ExitRefused, CodeOpen, remedyOther, "reading the data disk's superblock: it is none, or its size of %d sectors is impossible", n)
	}
	return n, nil
}

func (d *disk) mount(dev string) error {
	if err := d.sys.Mount(dev, Dir); err != nil {
		return errors.Join(fault.New(fault.ExitRefused, CodeMount, remedyOther, "mounting the data disk: %w", err), d.unstack())
	}
	return nil
}
