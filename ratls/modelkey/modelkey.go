// Package modelkey is how the key of an encrypted model pack gets from its
// owner into an attested enclave: the messages of both sides, and the enclave's
// side. Package client/modelowner is the owner's.
//
//	enclave  POST /v1/challenge  Hello
//	owner                        Offer: a challenge, good for one Ask
//	enclave  POST /v1/release    Ask: evidence for the challenge, a key made for it (package envelope)
//	owner                        Grant: the pack's key for that key
//
// Who carries the messages may lose, change, delay or replay them, and where
// the enclave finds the owner is its host's word. Neither matters: the owner
// gives to nobody but an enclave that it accepts, sealed to it, and the enclave
// takes nothing but the key that its measured config names by hash. An answer
// that is no Grant is a problem document (RFC 9457) with faults.
package modelkey

import (
	"fmt"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// Format names this version of the exchange.
const Format = "cocoon-model-release/1"

// Paths below the owner's base URL; both take POST.
const (
	PathChallenge = "/v1/challenge"
	PathRelease   = "/v1/release"
)

// Limits in bytes.
const (
	MaxHello  = 1 << 10
	MaxAsk    = evidence.MaxEvidence + evidence.MaxEvidence/2 // evidence in base64, and a little
	MaxAnswer = 256 << 10
)

// Codes of faults. What begins with "model." and is not here is modelpack's.
const (
	CodeMessage   = "model.message"       // a message does not parse
	CodeAway      = "model.keys_away"     // the owner's service does not answer
	CodeBusy      = "model.keys_busy"     // it has too much to do
	CodeNone      = "model.keys_unnamed"  // no service is named
	CodeRefused   = "model.key_refused"   // the owner does not release it to this enclave
	CodeMismatch  = "model.key_mismatch"  // what came is another key
	CodeUnknown   = "model.key_unknown"   // the owner has no such key
	CodeConfig    = "model.key_config"    // the evidence's config does not name this pack and key
	CodeChallenge = "model.key_challenge" // not the owner's, too old, or used before: a replay
)

const remedyRelease = "use releases that know the same exchange on both sides"

// Hello opens an exchange.
type Hello struct {
	Format string `json:"format"`
}

// Offer answers it.
type Offer struct {
	Format    string        `json:"format"`
	Challenge digest.SHA256 `json:"challenge"`
}

// Ask asks for a pack's key.
type Ask struct {
	Format    string        `json:"format"`
	Root      digest.SHA256 `json:"root"`       // of the pack's hash tree
	KeySHA256 digest.SHA256 `json:"key_sha256"` // modelpack.Key.ID
	Evidence  []byte        `json:"evidence"`   // document, for the Offer's challenge
	Request   []byte        `json:"request"`    // of package envelope
}

// Grant answers it.
type Grant struct {
	Format   string `json:"format"`
	Envelope []byte `json:"envelope"`
}

// Bound is what the envelope is bound to beside the request: the pack, its key,
// and the config of the enclave that asks.
func (a *Ask) Bound(config digest.SHA256) []byte {
	out := append([]byte("cocoon-model-release-v1\x00"), a.Root[:]...)
	out = append(out, a.KeySHA256[:]...)
	return append(out, config[:]...)
}

// message is one of the four.
type message interface{ format() string }

func (h *Hello) format() string { return h.Format }
func (o *Offer) format() string { return o.Format }
func (a *Ask) format() string   { return a.Format }
func (g *Grant) format() string { return g.Format }

// Encode writes a message, in RFC 8785 form.
func Encode(m any) ([]byte, error) {
	b, err := jcs.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding message: %w", err)
	}
	return b, nil
}

// decode reads a message, which must be in RFC 8785 form.
func decode(b []byte, limit int, m message) error {
	err := jcs.DecodeCanonical(b, limit, m)
	if err == nil && m.format() != Format {
		err = fmt.Errorf("format %.32q, want %s", m.format(), Format)
	}
	if err != nil {
		return fault.New(fault.ExitParse, CodeMessage, remedyRelease, "reading message: %w", err)
	}
	return nil
}

// ParseHello reads a Hello.
func ParseHello(b []byte) (*Hello, error) {
	var h Hello
	return &h, decode(b, MaxHello, &h)
}

// ParseOffer reads an Offer.
func ParseOffer(b []byte) (*Offer, error) {
	var o Offer
	err := decode(b, MaxAnswer, &o)
	if err == nil && o.Challenge.IsZero() {
		err = fault.New(fault.ExitParse, CodeMessage, remedyRelease, "reading message: the challenge is empty")
	}
	return &o, err
}

// ParseAsk reads an Ask.
func ParseAsk(b []byte) (*Ask, error) {
	var a Ask
	err := decode(b, MaxAsk, &a)
	if err == nil && (a.Root.IsZero() || a.KeySHA256.IsZero() || len(a.Evidence) == 0 || len(a.Request) == 0) {
		err = fault.New(fault.ExitParse, CodeMessage, remedyRelease, "reading message: root, key, evidence or request is missing")
	}
	return &a, err
}

// ParseGrant reads a Grant.
func ParseGrant(b []byte) (*Grant, error) {
	var g Grant
	return &g, decode(b, MaxAnswer, &g)
}
