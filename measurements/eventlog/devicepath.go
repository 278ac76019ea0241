package eventlog

import (
	"encoding/binary"
	"fmt"
)

// maxNodes bounds a device path.
const maxNodes = 64

// devicePath returns a text for each node of a device path, in the manner of
// UEFI 2.10, section 10.6; a node of a type that is not read here is
// "Path(type,subtype,hex)". It is nil where the bytes are no device path.
func devicePath(b []byte) []string {
	var out []string
	for len(b) >= 4 && len(out) < maxNodes {
		typ, sub, n := b[0], b[1], int(binary.LittleEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) {
			return nil
		}
		if typ == 0x7f && sub == 0xff {
			if n != 4 || len(b) != 4 {
				return nil
			}
			return out
		}
		out = append(out, pathNode(typ, sub, b[4:n]))
		b = b[n:]
	}
	return nil // it must end with an end node
}

// pathNode writes one node; d is its data after the header.
func pathNode(typ, sub byte, d []byte) string {
	le := binary.LittleEndian
	switch {
	case typ == 1 && sub == 1 && len(d) == 2: // hardware: PCI
		return fmt.Sprintf("Pci(%d,%d)", d[0], d[1])
	case typ == 2 && sub == 1 && len(d) == 8: // ACPI: _HID in compressed EISA form, _UID
		hid := le.Uint32(d)
		if hid&0xffff == 0x41d0 {
			return fmt.Sprintf("ACPI(PNP%04X,%d)", hid>>16, le.Uint32(d[4:]))
		}
		return fmt.Sprintf("ACPI(%08X,%d)", hid, le.Uint32(d[4:]))
	case typ == 4 && sub == 1 && len(d) == 38: // media: hard drive
		kind, id := "MBR", fmt.Sprintf("%08X", le.Uint32(d[20:]))
		if d[37] == 2 {
			kind, id = "GPT", guid(d[20:])
		}
		return fmt.Sprintf("HD(%d,%s,%s,%#x,%#x)", le.Uint32(d), kind, id, le.Uint64(d[4:]), le.Uint64(d[12:]))
	case typ == 4 && sub == 3 && len(d) >= 16:
		return fmt.Sprintf("VenMedia(%s,%X)", guid(d), d[16:])
	case typ == 4 && sub == 4:
		return "File(" + ucs2(d) + ")"
	case typ == 4 && sub == 6 && len(d) == 16:
		return "FvFile(" + guid(d) + ")"
	case typ == 4 && sub == 7 && len(d) == 16:
		return "Fv(" + guid(d) + ")"
	}
	return fmt.Sprintf("Path(%d,%d,%x)", typ, sub, d)
}
