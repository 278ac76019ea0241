package quote

import (
	"encoding/binary"
	"fmt"
)

// CertData is certification data of type 1 to 5: either a PEM chain or the
// numbers by which a PCK certificate can be asked for. Its slices alias the
// parsed bytes.
type CertData struct {
	Type uint16
	PEM  []byte // types 4 and 5

	PPID   []byte   // types 1 (16 bytes, plain), 2 (256, encrypted) and 3 (384, encrypted)
	CPUSVN [16]byte // types 1 to 3
	PCESVN uint16   // types 1 to 3
	PCEID  [2]byte  // types 1 to 3; most significant byte first, as in TCB info
}

// ParseCertData reads certification data. Its errors wrap the package's.
func ParseCertData(typ uint16, data []byte) (CertData, error) {
	c := CertData{Type: typ}
	if len(data) > MaxCert {
		return c, fmt.Errorf("certification data of %d bytes, limit %d: %w", len(data), MaxCert, ErrTooLarge)
	}
	ppid := 0
	switch typ {
	case CertPPIDPlain:
		ppid = 16
	case CertPPIDRSA2048:
		ppid = 256
	case CertPPIDRSA3072:
		ppid = 384
	case CertPCKLeaf, CertPCKChain:
		if len(data) == 0 {
			return c, fmt.Errorf("certification data: %w", ErrTruncated)
		}
		c.PEM = data
		return c, nil
	default:
		return c, fmt.Errorf("certification data type %d: %w", typ, ErrUnsupported)
	}
	r := reader{b: data}
	c.PPID = r.take(ppid)
	copy(c.CPUSVN[:], r.take(16))
	c.PCESVN = r.u16()
	binary.BigEndian.PutUint16(c.PCEID[:], r.u16())
	if r.short {
		return c, fmt.Errorf("certification data of type %d: %w", typ, ErrTruncated)
	}
	if len(r.b) > 0 {
		return c, fmt.Errorf("%d after certification data of type %d: %w", len(r.b), typ, ErrTrailing)
	}
	return c, nil
}
