// Package quote parses Intel SGX and TDX quotes: bytes come in, a structure
// whose slices alias them goes out. Nothing is verified here; lengths are,
// every one of them, and bytes that no field accounts for are refused.
//
// Versions 3 (SGX), 4 (SGX, TDX 1.0) and 5 (SGX, TDX 1.0, 1.5 and 1.5 with
// the service-TD extension), with ECDSA P-256 attestation keys. Layouts:
// "Intel SGX ECDSA Quote Library Reference", appendix A.4 (v3); "Intel TDX
// DCAP Quoting Library API", appendix A.3 (v4) and A.4 (v5). Numbers are
// little-endian.
package quote

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// TEE types in a quote's header.
const (
	TEESGX uint32 = 0x00
	TEETDX uint32 = 0x81
)

// Body types of a version 5 quote. In a version 3 or 4 quote BodyType is set
// to what the header implies.
const (
	BodySGX   uint16 = 1 // enclave report
	BodyTD10  uint16 = 2 // TD report, TDX 1.0
	BodyTD15  uint16 = 3 // TD report, TDX 1.5
	BodyTD15X uint16 = 4 // TD report, TDX 1.5 with service-TD extension
)

// Certification data types.
const (
	CertPPIDPlain   uint16 = 1 // PPID, CPUSVN, PCESVN, PCEID
	CertPPIDRSA2048 uint16 = 2 // the same, PPID encrypted
	CertPPIDRSA3072 uint16 = 3 // the same, PPID encrypted
	CertPCKLeaf     uint16 = 4 // PEM of the PCK certificate
	CertPCKChain    uint16 = 5 // PEM of PCK certificate, PCK CA and root
	CertQEReport    uint16 = 6 // QE report with certification data of type 1 to 5
)

// Sizes and limits.
const (
	MaxSize    = 128 << 10 // bytes of a quote with its padding
	MaxCert    = 32 << 10  // bytes of certification data of types 1 to 5
	headerSize = 48
	sgxSize    = 384
	td10Size   = 584
	td15Size   = 648
	td15xSize  = 885
)

// IntelVendorID is the QE vendor ID of Intel's quoting enclaves.
var IntelVendorID = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// Errors that Parse wraps.
var (
	ErrTooLarge    = errors.New("too large")
	ErrTruncated   = errors.New("truncated")
	ErrTrailing    = errors.New("bytes that belong to no field")
	ErrUnsupported = errors.New("unsupported")
)

// Quote is a parsed quote. Its slices alias the parsed bytes.
type Quote struct {
	Version  uint16
	TEE      uint32
	BodyType uint16
	QESVN    uint16 // of the header; informative
	PCESVN   uint16 // of the header; informative
	VendorID [16]byte
	UserData [20]byte

	Signed            []byte // what Signature signs: header, and in v5 body type and size, and body
	Body              []byte // enclave report or TD report
	Signature         []byte // 64 bytes, r then s, big-endian
	AttestationKey    []byte // 64 bytes, x then y, big-endian
	QEReport          []byte // 384 bytes
	QEReportSignature []byte // 64 bytes
	AuthData          []byte // QE authentication data
	Cert              CertData
	Padding           int // zero bytes after the quote
}

// Options of Parse.
type Options struct {
	AllowZeroPadding bool // accept zero bytes after the quote
}

// Parse reads a quote. Errors wrap one of the package's errors.
func Parse(raw []byte, o Options) (*Quote, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("parsing quote: %d bytes, limit %d: %w", len(raw), MaxSize, ErrTooLarge)
	}
	q := &Quote{}
	r := reader{b: raw}
	if err := q.parse(&r); err != nil {
		return nil, fmt.Errorf("parsing quote: %w", err)
	}
	if len(r.b) > 0 {
		for _, b := range r.b {
			if b != 0 || !o.AllowZeroPadding {
				return nil, fmt.Errorf("parsing quote: %d after its end: %w", len(r.b), ErrTrailing)
			}
		}
		q.Padding = len(r.b)
	}
	return q, nil
}

func (q *Quote) parse(r *reader) error {
	all := r.b
	h := r.take(headerSize)
	if r.short {
		return fmt.Errorf("header: %w", ErrTruncated)
	}
	q.Version = binary.LittleEndian.Uint16(h)
	keyType := binary.LittleEndian.Uint16(h[2:])
	q.TEE = binary.LittleEndian.Uint32(h[4:])
	q.QESVN = binary.LittleEndian.Uint16(h[8:])
	q.PCESVN = binary.LittleEndian.Uint16(h[10:])
	copy(q.VendorID[:], h[12:])
	copy(q.UserData[:], h[28:])
	if q.Version < 3 || q.Version > 5 {
		return fmt.Errorf("version %d: %w", q.Version, ErrUnsupported)
	}
	if keyType != 2 { // 2: ECDSA-256-with-P-256
		return fmt.Errorf("attestation key type %d: %w", keyType, ErrUnsupported)
	}
	if q.TEE != TEESGX && (q.TEE != TEETDX || q.Version == 3) {
		return fmt.Errorf("version %d with TEE type %#x: %w", q.Version, q.TEE, ErrUnsupported)
	}
	size := 0
	switch {
	case q.Version == 5:
		q.BodyType = r.u16()
		declared := r.u32()
		if r.short {
			return fmt.Errorf("body descriptor: %w", ErrTruncated)
		}
		size = bodySize(q.BodyType)
		if size == 0 || (q.BodyType == BodySGX) != (q.TEE == TEESGX) {
			return fmt.Errorf("TEE type %#x with body type %d: %w", q.TEE, q.BodyType, ErrUnsupported)
		}
		if uint64(declared) != uint64(size) {
			return fmt.Errorf("body of type %d with %d bytes: %w", q.BodyType, declared, ErrUnsupported)
		}
	case q.TEE == TEETDX:
		q.BodyType, size = BodyTD10, td10Size
	default:
		q.BodyType, size = BodySGX, sgxSize
	}
	q.Body = r.take(size)
	q.Signed = all[:len(all)-len(r.b)]
	sig := r.sub(r.u32())
	if r.short {
		return fmt.Errorf("body and signature data: %w", ErrTruncated)
	}
	return q.parseSignature(&sig)
}

func bodySize(typ uint16) int {
	switch typ {
	case BodySGX:
		return sgxSize
	case BodyTD10:
		return td10Size
	case BodyTD15:
		return td15Size
	case BodyTD15X:
		return td15xSize
	}
	return 0
}

// parseSignature reads the ECDSA signature data. In version 4 and 5 the QE
// report and what follows it are wrapped into certification data of type 6.
func (q *Quote) parseSignature(r *reader) error {
	q.Signature = r.take(64)
	q.AttestationKey = r.take(64)
	qe := r
	if q.Version >= 4 {
		typ := r.u16()
		inner := r.sub(r.u32())
		if !r.short && typ != CertQEReport {
			return fmt.Errorf("certification data type %d in a version %d quote: %w", typ, q.Version, ErrUnsupported)
		}
		if !r.short && len(r.b) > 0 {
			return fmt.Errorf("%d after the certification data: %w", len(r.b), ErrTrailing)
		}
		inner.short = inner.short || r.short
		qe = &inner
	}
	q.QEReport = qe.take(sgxSize)
	q.QEReportSignature = qe.take(64)
	q.AuthData = qe.take(int(qe.u16()))
	typ := qe.u16()
	data := qe.sub(qe.u32())
	if qe.short {
		return fmt.Errorf("signature data: %w", ErrTruncated)
	}
	if len(qe.b) > 0 {
		return fmt.Errorf("%d after the certification data: %w", len(qe.b), ErrTrailing)
	}
	var err error
	q.Cert, err = ParseCertData(typ, data.b)
	return err
}

// reader takes fields from the front of b. Once a field does not fit, short is
// set and every further field is empty; no length makes it allocate.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || n > len(r.b) {
		r.short = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) sub(n uint32) reader {
	if uint64(n) > uint64(len(r.b)) {
		r.short = true
	}
	if r.short {
		return reader{short: true}
	}
	return reader{b: r.take(int(n))}
}
