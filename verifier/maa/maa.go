// Package maa has the call shape of Azure Attestation's "Attest Tdx Vm" for
// callers who know it (docs/verifier-api.md, "Azure's call shape"): its request,
// what the quote in one has to be made over, and the token. In come untrusted
// bytes and an appraisal of the platform, out goes a signed JWT.
package maa

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// Limits of a request.
const (
	MaxRequest = 4 << 20 // with collateral
	maxQuote   = 64 << 10
	maxData    = 64 << 10
	maxNonce   = 256
)

// Values of Data.Type.
const (
	Binary = "Binary"
	JSON   = "JSON"
)

// Data is what was there when the quote was made.
type Data struct {
	Data string `json:"data"`     // base64url
	Type string `json:"dataType"` // Binary or JSON

	bytes []byte
}

// Request is the body of a request.
type Request struct {
	Quote        string          `json:"quote"` // base64url
	RuntimeData  *Data           `json:"runtimeData"`
	InitTimeData *Data           `json:"initTimeData,omitempty"`
	Nonce        string          `json:"nonce,omitempty"`      // the caller's: repeated in the token, bound to nothing
	Collateral   json.RawMessage `json:"collateral,omitempty"` // as in evidence; not Azure's

	quote     []byte
	challenge digest.SHA256
}

// Parse reads a request and checks its form.
func Parse(b []byte) (*Request, error) {
	r := &Request{}
	if err := r.parse(b); err != nil {
		return nil, fault.New(fault.ExitParse, "request.body", "see docs/verifier-api.md, Azure's call shape", "reading request: %w", err)
	}
	return r, nil
}

func (r *Request) parse(b []byte) (err error) {
	if err := jcs.Decode(b, MaxRequest, r); err != nil {
		return err
	}
	if r.RuntimeData == nil {
		return errors.New("there is no runtimeData: it has to carry the challenge")
	}
	if len(r.Nonce) > maxNonce {
		return fmt.Errorf("nonce of %d bytes, limit %d", len(r.Nonce), maxNonce)
	}
	if r.quote, err = decode(r.Quote, maxQuote); err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	for name, d := range map[string]*Data{"runtimeData": r.RuntimeData, "initTimeData": r.InitTimeData} {
		if err := d.decode(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	r.challenge, err = r.RuntimeData.challenge()
	return err
}

func (d *Data) decode() (err error) {
	if d == nil {
		return nil
	}
	if d.bytes, err = decode(d.Data, maxData); err != nil {
		return err
	}
	switch d.Type {
	case Binary:
		return nil
	case JSON:
		var m map[string]json.RawMessage
		if err := jcs.Decode(d.bytes, maxData, &m); err != nil {
			return err
		}
		if m == nil {
			return errors.New("it is no JSON object")
		}
		return nil
	}
	return fmt.Errorf("dataType %.32q, want %q or %q", d.Type, Binary, JSON)
}

// decode reads base64url, padded or not.
func decode(s string, limit int) ([]byte, error) {
	if len(s) > base64.URLEncoding.EncodedLen(limit) {
		return nil, fmt.Errorf("%d characters, limit %d bytes", len(s), limit)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(s, "="))
	if err == nil && len(b) == 0 {
		err = errors.New("it is empty")
	}
	return b, err
}

// challenge finds the service's challenge in runtime data: the member "nonce",
// in hex, of JSON, or the first 32 bytes of other data. The request's own nonce
// shows no freshness: nothing binds it to the quote.
func (d *Data) challenge() (digest.SHA256, error) {
	if d.Type == Binary {
		if len(d.bytes) < sha256.Size {
			return digest.SHA256{}, fmt.Errorf("runtimeData of %d bytes: the first 32 have to be the challenge", len(d.bytes))
		}
		return digest.SHA256(d.bytes[:sha256.Size]), nil
	}
	var m map[string]json.RawMessage
	var s string
	if err := json.Unmarshal(d.bytes, &m); err != nil {
		return digest.SHA256{}, err
	}
	if err := json.Unmarshal(m["nonce"], &s); err != nil {
		return digest.SHA256{}, errors.New(`runtimeData: its member "nonce" has to be the challenge`)
	}
	return digest.Parse256(s)
}

// Challenge is what the request says is the service's challenge.
func (r *Request) Challenge() digest.SHA256 { return r.challenge }

// Evidence returns the quote for an appraisal.
func (r *Request) Evidence() *evidence.Foreign {
	return &evidence.Foreign{Profile: evidence.ProfileForeign, Collateral: r.Collateral,
		CPU: &evidence.CPU{Type: evidence.TypeTDX, Quote: r.quote, CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}}
}

// Document returns the request in RFC 8785 form. Its SHA-256 is what the token
// calls the evidence.
func (r *Request) Document() ([]byte, error) { return jcs.Marshal(r) }

// Bind returns the checks of what the quote was made over. The report data is
// the runtime data's SHA-256 and 32 zeros, as Azure Attestation has it ("Attest
// Tdx Vm", runtimeData), or its SHA-512. Data from before the start is
// MRCONFIGID's: its SHA-384, or its SHA-256 and 16 zeros. A TD under debug is
// refused whatever the policy says: there is no token that says so.
func (r *Request) Bind(measurements map[string]string) []result.Check {
	short, long := sha256.Sum256(r.RuntimeData.bytes), sha512.Sum512(r.RuntimeData.bytes)
	out := []result.Check{
		oneOf("tdx.report_data", measurements["report_data"], "the quote was made over other runtime data", "quote over the hash of this runtime data",
			hex.EncodeToString(short[:])+strings.Repeat("0", 64), hex.EncodeToString(long[:])),
	}
	if r.InitTimeData != nil {
		short, long := sha256.Sum256(r.InitTimeData.bytes), sha512.Sum384(r.InitTimeData.bytes)
		out = append(out, oneOf("tdx.mrconfigid", measurements["mrconfigid"], "the TD was started with other init-time data", "send what the TD was started with",
			hex.EncodeToString(long[:]), hex.EncodeToString(short[:])+strings.Repeat("0", 32)))
	}
	// Bits 7 to 0 of TDATTRIBUTES (TDX module ABI, ATTRIBUTES).
	c := result.Check{ID: "tdx.debug", Status: result.Pass, Actual: measurements["td_attributes"]}
	if !strings.HasPrefix(c.Actual, "00") {
		c.Status, c.Expected, c.Reason, c.Remedy = result.Fail, "attributes without debug", "the host can read and change a TD under debug", "start the TD without debug"
	}
	return append(out, c)
}

func oneOf(id, actual, reason, remedy string, want ...string) result.Check {
	if slices.Contains(want, actual) {
		return result.Check{ID: id, Status: result.Pass, Actual: actual}
	}
	return result.Check{ID: id, Status: result.Fail, Expected: strings.Join(want, " or "), Actual: actual, Reason: reason, Remedy: remedy}
}
