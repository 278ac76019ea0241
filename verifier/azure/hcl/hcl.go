// Package hcl reads the report that the paravisor of an Azure confidential VM
// (Microsoft's HCL, "host compatibility layer") keeps in its virtual TPM, NV
// index 0x01400001. Bytes come in; the hardware's report and the runtime data
// that it vouches for go out, with the attestation key of the virtual TPM.
// Nothing is verified here: package azure does that.
//
// Definition: Microsoft, "Guest attestation for confidential VMs", sections
// "Attestation report" and "Runtime data": a header of 32 bytes, the hardware
// report in 1184 bytes, a header of 20 bytes and the runtime data as JSON.
// Numbers are little-endian. Every byte is accounted for; what the layout
// calls reserved, and what follows the data, must be zero.
package hcl

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"cocoon/internal/jcs"
)

// MaxSize bounds a report, in bytes. The NV index has 2600.
const MaxSize = 16 << 10

// Layout.
const (
	headerSize   = 32
	hardwareSize = 1184
	dataHeader   = 20
	dataOffset   = headerSize + hardwareSize
	// TDReportSize is the size of a TDREPORT, which the hardware report's field
	// begins with on TDX.
	TDReportSize = 1024
)

// Type is the kind of hardware report.
type Type uint32

// Types of hardware reports.
const (
	SNP Type = 2
	TDX Type = 4
)

// Hash is the algorithm of the hash of the runtime data in the hardware's
// report data.
type Hash uint32

// Hash algorithms.
const (
	SHA256 Hash = 1
	SHA384 Hash = 2
	SHA512 Hash = 3
)

// Errors of Parse, by kind.
var (
	ErrTooLarge  = errors.New("HCL report too large")
	ErrTruncated = errors.New("HCL report is cut short")
	ErrFormat    = errors.New("HCL report has a wrong form")
)

// Report is a parsed report. Its slices alias the parsed bytes.
type Report struct {
	Version  uint32 // of the header: 1 or 2
	Type     Type
	Hash     Hash
	Hardware []byte // SNP: an attestation report of 1184 bytes; TDX: a TDREPORT of 1024
	Runtime  []byte // the runtime data, as it was hashed

	AK       *rsa.PublicKey // attestation key of the virtual TPM, "HCLAkPub"
	UserData string         // 64 bytes that the guest wrote before it asked for the report, hex
	VM       VM
}

// VM is what the runtime data says of the virtual machine.
type VM struct {
	ID         string `json:"vmUniqueId"`
	SecureBoot bool   `json:"secure-boot"`
	TPM        bool   `json:"tpm-enabled"`
	Console    bool   `json:"console-enabled"` // the host has a serial console
}

// Parse reads a report.
func Parse(b []byte) (*Report, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("reading HCL report of %d bytes: %w, limit %d", len(b), ErrTooLarge, MaxSize)
	}
	if len(b) < dataOffset+dataHeader {
		return nil, fmt.Errorf("reading HCL report of %d bytes: %w", len(b), ErrTruncated)
	}
	le := binary.LittleEndian
	bad := func(format string, args ...any) error {
		return fmt.Errorf("reading HCL report: %w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
	r := &Report{Version: le.Uint32(b[4:])}
	size, request, status := le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:])
	switch {
	case string(b[:4]) != "HCLA":
		return nil, bad("signature %q, want \"HCLA\"", b[:4])
	case r.Version != 1 && r.Version != 2:
		return nil, bad("version %d, want 1 or 2", r.Version)
	case request != 2:
		return nil, bad("request type %d, want 2", request)
	case status != 0:
		return nil, bad("status %d, want 0", status)
	case !zero(b[20:headerSize]):
		return nil, bad("reserved bytes of the header are not zero")
	}
	d := b[dataOffset:]
	n := le.Uint32(d[16:])
	r.Type, r.Hash = Type(le.Uint32(d[8:])), Hash(le.Uint32(d[12:]))
	switch {
	case uint64(n) > uint64(len(d)-dataHeader):
		return nil, fmt.Errorf("reading HCL report: runtime data of %d bytes: %w", n, ErrTruncated)
	case le.Uint32(d) != dataHeader+n || size != dataOffset+dataHeader+n:
		return nil, bad("sizes %d and %d do not fit runtime data of %d bytes", size, le.Uint32(d), n)
	case le.Uint32(d[4:]) != 1:
		return nil, bad("runtime data of version %d, want 1", le.Uint32(d[4:]))
	case r.Type != SNP && r.Type != TDX:
		return nil, bad("hardware report of type %d, want 2 (SNP) or 4 (TDX)", r.Type)
	case r.Hash < SHA256 || r.Hash > SHA512:
		return nil, bad("hash type %d, want 1 to 3", r.Hash)
	case !zero(d[dataHeader+n:]):
		return nil, bad("bytes after the runtime data are not zero")
	}
	r.Hardware = b[headerSize:dataOffset]
	if r.Type == TDX {
		if !zero(r.Hardware[TDReportSize:]) {
			return nil, bad("bytes after the TDREPORT are not zero")
		}
		r.Hardware = r.Hardware[:TDReportSize]
	}
	r.Runtime = d[dataHeader : dataHeader+n : dataHeader+n]
	if err := r.readRuntime(); err != nil {
		return nil, fmt.Errorf("reading HCL runtime data: %w: %w", ErrFormat, err)
	}
	return r, nil
}

// key is a JWK of the runtime data (RFC 7517; RFC 7518, section 6.3).
type key struct {
	ID  string   `json:"kid"`
	Ops []string `json:"key_ops"`
	Typ string   `json:"kty"`
	E   string   `json:"e"`
	N   string   `json:"n"`
}

// readRuntime takes the attestation key and what is shown to people from the
// runtime data. Other members may be there: newer paravisors have more, and all
// of it is under the hardware's hash.
func (r *Report) readRuntime() error {
	if err := jcs.Check(r.Runtime); err != nil {
		return err
	}
	var doc struct {
		Keys     []key  `json:"keys"`
		VM       VM     `json:"vm-configuration"`
		UserData string `json:"user-data"`
	}
	if err := json.Unmarshal(r.Runtime, &doc); err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	if len(doc.UserData) > 128 || len(doc.VM.ID) > 64 {
		return errors.New("user data or VM id is too long")
	}
	r.VM, r.UserData = doc.VM, doc.UserData
	for _, k := range doc.Keys {
		if k.ID != "HCLAkPub" {
			continue
		}
		if r.AK != nil {
			return errors.New("two attestation keys")
		}
		var err error
		if r.AK, err = k.rsa(); err != nil {
			return fmt.Errorf("reading attestation key: %w", err)
		}
	}
	if r.AK == nil {
		return errors.New("no attestation key HCLAkPub")
	}
	return nil
}

// rsa returns the key, which must be one that signs and that is sound.
func (k key) rsa() (*rsa.PublicKey, error) {
	if k.Typ != "RSA" || !slices.Equal(k.Ops, []string{"sign"}) {
		return nil, fmt.Errorf("type %.16q for %.16q, want an RSA key that signs", k.Typ, k.Ops)
	}
	dec := base64.RawURLEncoding.Strict()
	n, err := dec.DecodeString(k.N)
	if err != nil {
		return nil, fmt.Errorf("decoding modulus: %w", err)
	}
	e, err := dec.DecodeString(k.E)
	if err != nil {
		return nil, fmt.Errorf("decoding exponent: %w", err)
	}
	m := new(big.Int).SetBytes(n)
	if bits := m.BitLen(); bits < 2048 || bits > 4096 || m.Bit(0) == 0 || !bytes.Equal(e, []byte{1, 0, 1}) {
		return nil, fmt.Errorf("modulus of %d bits with exponent %x, want 2048 to 4096 bits and 65537", bits, e)
	}
	return &rsa.PublicKey{N: m, E: 65537}, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
