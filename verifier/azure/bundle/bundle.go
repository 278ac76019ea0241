// Package bundle reads the JSON in which guest agents of Azure confidential
// VMs (those of Confidential Containers) hand over evidence: the virtual TPM's
// quote with its registers, the HCL report, and the hardware's certificate or
// quote. A document comes in, bytes for package azure go out; nothing is
// verified.
//
// There are two forms: an older one with lists of numbers, and versions 1 and
// 2 with hex and base64url text.
package bundle

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cocoon/internal/jcs"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/azure"
	"cocoon/verifier/tpm"
)

// MaxSize bounds a document, in bytes.
const MaxSize = 1 << 20

// ErrFormat is returned for documents that are not such evidence.
var ErrFormat = errors.New("not evidence of an Azure confidential VM")

// document has the members of both forms.
type document struct {
	Version *int `json:"version"`

	// Versions 1 and 2.
	TPMQuote *struct {
		Signature string   `json:"signature"` // hex
		Message   string   `json:"message"`   // hex
		PCRs      []string `json:"pcrs"`      // hex
	} `json:"tpm_quote"`

	// The older form.
	Quote *struct {
		Signature numbers   `json:"signature"`
		Message   numbers   `json:"message"`
		PCRs      []numbers `json:"pcrs"`
	} `json:"quote"`
	Report numbers `json:"report"`

	HCLReport text `json:"hcl_report"`
	TDQuote   text `json:"td_quote"`
	VCEK      text `json:"vcek"` // PEM, or DER
}

// numbers is a byte string as a list of numbers.
type numbers []byte

// UnmarshalJSON reads a list of numbers of 0 to 255.
func (n *numbers) UnmarshalJSON(b []byte) error {
	var list []uint8int
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("reading bytes: %w", err)
	}
	*n = make(numbers, len(list))
	for i, v := range list {
		(*n)[i] = byte(v)
	}
	return nil
}

// uint8int is a byte that JSON has as a number: a slice of uint8 would be
// base64.
type uint8int uint8

// text is a byte string as base64, base64url or PEM, or as a list of numbers.
type text []byte

// UnmarshalJSON reads either form.
func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return (*numbers)(t).UnmarshalJSON(b)
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("reading bytes: %w", err)
	}
	if strings.HasPrefix(s, "-----BEGIN ") {
		*t = text(s)
		return nil
	}
	trimmed := strings.TrimRight(s, "=")
	for _, e := range []*base64.Encoding{base64.RawURLEncoding, base64.RawStdEncoding} {
		if out, err := e.Strict().DecodeString(trimmed); err == nil {
			*t = out
			return nil
		}
	}
	return errors.New("reading bytes: neither base64 nor base64url")
}

// Is reports whether a JSON document looks like such evidence, so that a
// reader of several formats can choose.
func Is(doc []byte) bool {
	var keys map[string]json.RawMessage
	if json.Unmarshal(doc, &keys) != nil {
		return false
	}
	for _, k := range []string{"hcl_report", "tpm_quote"} {
		if _, ok := keys[k]; ok {
			return true
		}
	}
	_, quote := keys["quote"]
	_, report := keys["report"]
	return quote && report
}

// Parse reads a document.
func Parse(doc []byte) (*azure.Evidence, error) {
	var d document
	if err := jcs.Decode(doc, MaxSize, &d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if d.Version != nil && *d.Version != 1 && *d.Version != 2 {
		return nil, fmt.Errorf("%w: version %d, want 1 or 2", ErrFormat, *d.Version)
	}
	ev := &azure.Evidence{HCL: d.HCLReport, TDQuote: d.TDQuote, VCEK: d.VCEK}
	if len(d.Report) > 0 {
		if len(ev.HCL) > 0 {
			return nil, fmt.Errorf("%w: both report and hcl_report", ErrFormat)
		}
		ev.HCL = []byte(d.Report)
	}
	if len(ev.HCL) == 0 {
		return nil, fmt.Errorf("%w: no HCL report", ErrFormat)
	}
	var sig []byte
	var pcrs [][]byte
	switch {
	case d.TPMQuote != nil && d.Quote != nil || d.TPMQuote == nil && d.Quote == nil:
		return nil, fmt.Errorf("%w: want quote or tpm_quote", ErrFormat)
	case d.Quote != nil:
		ev.Attest, sig = d.Quote.Message, d.Quote.Signature
		for _, p := range d.Quote.PCRs {
			pcrs = append(pcrs, p)
		}
	default:
		var err error
		if ev.Attest, err = hex.DecodeString(d.TPMQuote.Message); err != nil {
			return nil, fmt.Errorf("%w: reading quote: %w", ErrFormat, err)
		}
		if sig, err = hex.DecodeString(d.TPMQuote.Signature); err != nil {
			return nil, fmt.Errorf("%w: reading signature: %w", ErrFormat, err)
		}
		for i, s := range d.TPMQuote.PCRs {
			p, err := hex.DecodeString(s)
			if err != nil {
				return nil, fmt.Errorf("%w: reading PCR %d: %w", ErrFormat, i, err)
			}
			pcrs = append(pcrs, p)
		}
	}
	// The registers are the SHA-256 bank, in order, and the signature is bare:
	// RSASSA with SHA-256 is what the HCL's key does.
	if len(pcrs) != 24 {
		return nil, fmt.Errorf("%w: %d registers, want 24", ErrFormat, len(pcrs))
	}
	ev.PCRs = tpm.Banks{eventlog.SHA256: {}}
	for i, p := range pcrs {
		if len(p) != 32 {
			return nil, fmt.Errorf("%w: PCR %d has %d bytes, want 32", ErrFormat, i, len(p))
		}
		ev.PCRs[eventlog.SHA256][i] = p
	}
	if len(sig) == 0 || len(sig) > 512 {
		return nil, fmt.Errorf("%w: signature of %d bytes", ErrFormat, len(sig))
	}
	ev.Signature = tpm.RSASSASignature(sig)
	return ev, nil
}
