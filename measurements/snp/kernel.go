package snp

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoon/measurements/digest"
	"cocoon/measurements/tdvf"
)

// Errors of this package, by kind.
var (
	ErrNoHashes = errors.New("firmware does not measure a kernel: it has no table of kernel hashes")
	ErrShape    = errors.New("machine cannot be measured")
)

// Kernel has the hashes that QEMU puts into the guest's memory at a direct
// boot and that the firmware holds the files against ("kernel-hashes=on").
type Kernel struct {
	Kernel  digest.SHA256 `json:"kernel_sha256"`  // of the file
	Initrd  digest.SHA256 `json:"initrd_sha256"`  // of the file; of nothing without one
	Cmdline digest.SHA256 `json:"cmdline_sha256"` // of the text and a NUL
}

// HashKernel returns the hashes of files. initrd may be empty.
func HashKernel(kernel, initrd []byte, cmdline string) *Kernel {
	return &Kernel{digest.Sum256(kernel), digest.Sum256(initrd), CmdlineDigest(cmdline)}
}

// CmdlineDigest returns the hash of a command line as the table has it.
func CmdlineDigest(cmdline string) digest.SHA256 { return digest.Sum256(append([]byte(cmdline), 0)) }

// GUIDs of the table and of its entries (QEMU target/i386/sev.c; edk2
// OvmfPkg/AmdSev/BlobVerifierLibSevHashes).
var (
	guidTable   = tdvf.GUID{0x06, 0xd6, 0x38, 0x94, 0x22, 0x4f, 0xc9, 0x4c, 0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21} // 9438d606-4f22-4cc9-b479-a793d411fd21
	guidCmdline = tdvf.GUID{0xd8, 0x2d, 0xd0, 0x97, 0x20, 0xbd, 0x94, 0x4c, 0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a} // 97d02dd8-bd20-4c94-aa78-e7714d36ab2a
	guidInitrd  = tdvf.GUID{0x31, 0xf7, 0xba, 0x44, 0x2f, 0x3a, 0xd7, 0x4b, 0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d} // 44baf731-3a2f-4bd7-9af1-41e29169781d
	guidKernel  = tdvf.GUID{0x37, 0x94, 0xe7, 0x4d, 0xd2, 0xab, 0x7f, 0x42, 0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b} // 4de79437-abd2-427f-b835-d5b172d2045b
)

// table returns the table of hashes, padded to 16 bytes: a header of GUID and
// length, then the entries, each GUID, length, hash.
func (k *Kernel) table() []byte {
	const entry, header = 16 + 2 + sha256.Size, 16 + 2
	const size = header + 3*entry
	b := make([]byte, 0, (size+15)&^15)
	b = append(b, guidTable[:]...)
	b = binary.LittleEndian.AppendUint16(b, size)
	for _, e := range []struct {
		guid tdvf.GUID
		hash digest.SHA256
	}{{guidCmdline, k.Cmdline}, {guidInitrd, k.Initrd}, {guidKernel, k.Kernel}} {
		b = append(b, e.guid[:]...)
		b = binary.LittleEndian.AppendUint16(b, entry)
		b = append(b, e.hash[:]...)
	}
	return b[:cap(b)]
}

// page returns the pages of the hashes' range, with the table at its place.
func (k *Kernel) page(gpa, size uint32) ([]byte, error) {
	t := k.table()
	off := int(gpa % tdvf.PageSize)
	if off+len(t) > int(size) {
		return nil, fmt.Errorf("%w: table of kernel hashes at %#x does not fit its range", ErrShape, gpa)
	}
	b := make([]byte, size)
	copy(b[off:], t)
	return b, nil
}

// MeasureSEV returns the launch measurement's data of an SEV guest: SHA-256
// over the firmware and the table of kernel hashes (SEV API, LAUNCH_UPDATE_DATA).
func MeasureSEV(f *tdvf.Firmware, kernel *Kernel) (digest.SHA256, error) {
	return measureSEV(f, kernel, nil)
}

// MeasureSEVES returns the launch measurement's data of an SEV-ES guest, which
// covers the processors' VMSAs too (SEV API, LAUNCH_UPDATE_VMSA).
func MeasureSEVES(f *tdvf.Firmware, kernel *Kernel, shape Shape) (digest.SHA256, error) {
	if err := shape.Validate(); err != nil {
		return digest.SHA256{}, fmt.Errorf("computing SEV-ES measurement: %w", err)
	}
	reset, err := f.SEVResetEIP()
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("computing SEV-ES measurement: %w", err)
	}
	shape.Features = 0 // SEV_FEATURES exists on SNP only
	var pages []byte
	for i := range shape.VCPUs {
		eip := uint32(bspEIP)
		if i > 0 {
			eip = reset
		}
		pages = append(pages, vmsa(eip, shape)...)
	}
	return measureSEV(f, kernel, pages)
}

func measureSEV(f *tdvf.Firmware, kernel *Kernel, vmsas []byte) (digest.SHA256, error) {
	h := sha256.New()
	h.Write(f.Data)
	if kernel != nil {
		gpa, err := f.SEVHashTable()
		if err != nil {
			return digest.SHA256{}, fmt.Errorf("computing SEV measurement: %w", err)
		}
		if gpa == 0 {
			return digest.SHA256{}, fmt.Errorf("computing SEV measurement: %w", ErrNoHashes)
		}
		h.Write(kernel.table())
	}
	h.Write(vmsas)
	return digest.SHA256(h.Sum(nil)), nil
}
