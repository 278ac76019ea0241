package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrKernel is returned for files that are no bzImage, or one that QEMU would
// not start.
var ErrKernel = errors.New("kernel cannot be started by QEMU")

// Patch is how QEMU before 10 changes a kernel's setup header at a direct
// boot, before the firmware measures it. QEMU 10 and newer, with firmware that
// asks for it, hands over the file as it is.
type Patch struct {
	Memory     uint64 // bytes of the machine
	InitrdSize uint32
	ACPISize   uint32 // bytes that QEMU keeps for its tables below the end of memory; 0: DefaultACPISize
}

// DefaultACPISize is what a q35 machine keeps: 0x20000 of tables and 0x8000
// (hw/i386/pc.c, acpi_data_size).
const DefaultACPISize = 0x20000 + 0x8000

// Apply returns the changed kernel (hw/i386/x86-common.c, x86_load_linux;
// Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
func (p Patch) Apply(kernel []byte) ([]byte, error) {
	if len(kernel) < 0x1000 || string(kernel[0x202:0x206]) != "HdrS" {
		return nil, fmt.Errorf("patching kernel: %w: no setup header", ErrKernel)
	}
	protocol := binary.LittleEndian.Uint16(kernel[0x206:])
	if protocol < 0x20c || kernel[0x211]&1 == 0 {
		// Every kernel with an EFI stub is newer than this.
		return nil, fmt.Errorf("patching kernel: %w: boot protocol %#x", ErrKernel, protocol)
	}
	const real, cmdline = 0x10000, 0x20000 // addresses of setup code and command line
	k := append([]byte{}, kernel...)
	k[0x210] = 0xb0                                              // type_of_loader: QEMU
	k[0x211] |= 0x80                                             // loadflags: CAN_USE_HEAP
	binary.LittleEndian.PutUint16(k[0x224:], cmdline-real-0x200) // heap_end_ptr
	binary.LittleEndian.PutUint32(k[0x228:], cmdline)            // cmd_line_ptr
	if p.InitrdSize == 0 {
		return k, nil
	}
	limit := uint64(binary.LittleEndian.Uint32(k[0x22c:])) // initrd_addr_max
	if binary.LittleEndian.Uint16(k[0x236:])&2 != 0 {      // XLF_CAN_BE_LOADED_ABOVE_4G
		limit = 0xffffffff
	}
	low := p.Memory
	if low >= splitMemory {
		low = lowMemory
	}
	acpi := uint64(p.ACPISize)
	if acpi == 0 {
		acpi = DefaultACPISize
	}
	if low <= acpi {
		return nil, fmt.Errorf("patching kernel: %w: %d bytes of memory", ErrKernel, p.Memory)
	}
	limit = min(limit, low-acpi-1)
	if uint64(p.InitrdSize) >= limit {
		return nil, fmt.Errorf("patching kernel: %w: initrd of %d bytes does not fit", ErrKernel, p.InitrdSize)
	}
	binary.LittleEndian.PutUint32(k[0x218:], uint32(limit-uint64(p.InitrdSize))&^4095)
	binary.LittleEndian.PutUint32(k[0x21c:], p.InitrdSize)
	return k, nil
}

// A q35 machine keeps all memory below 4 GiB until it has splitMemory bytes;
// then lowMemory stay there.
const (
	splitMemory = 0xb0000000
	lowMemory   = 0x80000000
)
