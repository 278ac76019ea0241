// Package sgx seals keys of Intel TDs, which have no sealing of their own, by
// an SGX enclave on the same host. Each side verifies the other's quote: the
// enclave gives a TD a key that is derived from the enclave's own sealing key
// and from the TD's measurements, so that only a genuine TD with the same
// measurements gets it again, on this host. The enclave keeps nothing, and the
// host between them carries bytes it cannot use.
//
// One exchange:
//
//	TD       hello     nonce
//	enclave  challenge nonce
//	TD       ask       HPKE key, key info, TDX quote over all of that
//	enclave  answer    root key for the HPKE key, key info, SGX quote over all of that
//
// The TD's half is Sealer, the enclave's is Server; the enclave itself is in
// the nested module enclave/seal/ego.
package sgx

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// Format names this version of the exchange.
const Format = "cocoon-seal-sgx/1"

// MaxMessage bounds a message, in bytes. Quotes are about 5 KiB, collateral about 30.
const MaxMessage = 256 << 10

// Codes of faults.
const (
	CodeMessage = "seal.sgx.message" // a message does not parse, or is not the one that comes next
	CodeEnclave = "seal.sgx.enclave" // the enclave is not the one of the config, or not genuine
	CodeTD      = "seal.sgx.td"      // the TD is not genuine, or under debug
	CodeBinding = "seal.sgx.binding" // a quote is over something else
	CodeAway    = "seal.sgx.away"    // the enclave cannot be reached
	CodeDenied  = "seal.sgx.denied"  // the enclave refused; its reason is the message
)

// hello opens an exchange, challenge answers it.
type hello struct {
	Format string        `json:"format"`
	Nonce  digest.SHA256 `json:"nonce"`
}

// ask is the TD's request for a root key.
type ask struct {
	Format  string `json:"format"`
	Key     []byte `json:"key"`      // HPKE public key, for the answer
	KeyInfo []byte `json:"key_info"` // of the key wanted; empty: a new one
	Quote   []byte `json:"quote"`    // TDX, report data is that of askData
}

// answer is the enclave's.
type answer struct {
	Format     string          `json:"format"`
	Envelope   []byte          `json:"envelope,omitempty"`   // HPKE: encapsulated key, then ciphertext
	KeyInfo    []byte          `json:"key_info,omitempty"`   // of the key
	Quote      []byte          `json:"quote,omitempty"`      // SGX, report data is that of answerData
	Collateral json.RawMessage `json:"collateral,omitempty"` // Intel's, for the SGX quote
	Refused    string          `json:"refused,omitempty"`    // why there is no key
}

// data hashes parts into report data: SHA-512 over a label and the SHA-512 of
// each part.
func data(label string, parts ...[]byte) [64]byte {
	h := sha512.New()
	h.Write([]byte(label))
	for _, p := range parts {
		s := sha512.Sum512(p)
		h.Write(s[:])
	}
	return [64]byte(h.Sum(nil))
}

func askData(td, enclave digest.SHA256, a *ask) [64]byte {
	return data("cocoon-seal-sgx-ask\x00", td[:], enclave[:], a.Key, a.KeyInfo)
}

func answerData(td, enclave digest.SHA256, askDoc []byte, a *answer) [64]byte {
	return data("cocoon-seal-sgx-answer\x00", td[:], enclave[:], askDoc, a.Envelope, a.KeyInfo)
}

// write sends a message: its length, 4 bytes big-endian, then its JCS.
func write(w io.Writer, v any) ([]byte, error) {
	doc, err := jcs.Marshal(v)
	if err == nil && len(doc) > MaxMessage {
		err = fmt.Errorf("%d bytes, at most %d", len(doc), MaxMessage)
	}
	if err != nil {
		return nil, fmt.Errorf("writing message: %w", err)
	}
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(doc))), doc...)); err != nil {
		return nil, fmt.Errorf("writing message: %w", err)
	}
	return doc, nil
}

// read reads one message, strictly, and returns its bytes.
func read(r io.Reader, v any) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, fmt.Errorf("reading message: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > MaxMessage {
		return nil, malformed("a message of %d bytes, at most %d", n, MaxMessage)
	}
	// A peer that announces much and sends little costs what it sends.
	var buf bytes.Buffer
	if got, err := io.CopyN(&buf, r, int64(n)); err != nil {
		return nil, fmt.Errorf("reading message: %d of %d bytes: %w", got, n, err)
	}
	if err := jcs.DecodeCanonical(buf.Bytes(), MaxMessage, v); err != nil {
		return nil, malformed("%w", err)
	}
	return buf.Bytes(), nil
}

func malformed(format string, args ...any) error {
	return fault.New(fault.ExitParse, CodeMessage, "use the same release on both sides", "reading message: "+format, args...)
}

func checkFormat(f string) error {
	if f != Format {
		return malformed("format %.32q, want %s", f, Format)
	}
	return nil
}
