// Package self has the evidence that a verifier shows of the machine that it
// runs in (docs/verifier-api.md, The verifier's own evidence): claims, and what
// the machine's TEE signed over them. In come untrusted bytes, out come typed
// values; whether the hardware is genuine and what it measured is for package
// appraise (AppraiseVerifier).
package self

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/wire"
)

// Profile names this version of the document.
const Profile = "urn:cocoon:verifier:evidence:1"

// MaxSize bounds a document, in bytes.
const MaxSize = 2 << 20

// MaxAge is how old a document may be. A service collects its own within the
// hour; the other hour is for a TEE that gives none for a while.
const MaxAge = 2 * time.Hour

// maxSkew is how far a document's time may lie in the future.
const maxSkew = time.Minute

// Codes of faults.
const (
	CodeFormat  = "verifier.evidence.format"  // it does not parse
	CodeAbsent  = "verifier.evidence.absent"  // the service shows none of itself
	CodeBound   = "verifier.evidence.bound"   // it was made over another description
	CodeExpired = "verifier.evidence.expired" // it is older than MaxAge
	CodeFuture  = "verifier.evidence.future"  // it is not yet made
)

// Claims are what the TEE signs: its report data is SHA-512(JCS(claims)) (DESIGN
// section 4, claims). They name everything by which a verdict of the service is
// believed.
type Claims struct {
	// Keys are those of the service's key set: SHA-256 of each raw public key, in
	// ascending order.
	Keys     []digest.SHA256 `json:"keys"`
	Policies []digest.SHA256 `json:"policies"` // their hashes, in ascending order
	LogKey   string          `json:"log_key"`  // as in wire.Info; empty without a log
	Build    string          `json:"build"`
	// Description is the SHA-256 of the whole wire.Info in RFC 8785 form, without
	// its evidence: the keys' dates, authorities of attestation keys and test
	// roots are nobody's to change between the service and its caller.
	Description digest.SHA256 `json:"description"`
	// At is when it was made, RFC 3339 in UTC and whole seconds, by the service's
	// clock. Nothing else says how old it is: it answers no challenge.
	At string `json:"at"`
}

// Document is what the description of the service carries as its evidence.
type Document struct {
	Profile string       `json:"profile"`
	Claims  Claims       `json:"claims"`
	CPU     evidence.CPU `json:"cpu"`
}

// ClaimsOf returns what a service's description has to be bound by; At is left
// empty.
func ClaimsOf(info *wire.Info) (Claims, error) {
	bare := *info
	bare.Evidence = nil
	b, err := jcs.Marshal(&bare)
	if err != nil {
		return Claims{}, fmt.Errorf("encoding the description: %w", err)
	}
	c := Claims{Description: digest.Sum256(b), Keys: []digest.SHA256{}, Policies: []digest.SHA256{}, LogKey: info.LogKey, Build: info.Build}
	for _, k := range info.Keys {
		c.Keys = append(c.Keys, digest.Sum256(k.Public[:]))
	}
	for _, p := range info.Policies {
		c.Policies = append(c.Policies, p.SHA256)
	}
	for _, l := range [][]digest.SHA256{c.Keys, c.Policies} {
		slices.SortFunc(l, func(a, b digest.SHA256) int { return bytes.Compare(a[:], b[:]) })
	}
	return c, nil
}

// Same reports whether claims differ in nothing but their time.
func (c *Claims) Same(o *Claims) bool {
	return slices.Equal(c.Keys, o.Keys) && slices.Equal(c.Policies, o.Policies) && c.LogKey == o.LogKey && c.Build == o.Build && c.Description == o.Description
}

// Time is At. Only one spelling of a time is taken.
func (c *Claims) Time() (time.Time, error) {
	t, err := time.Parse(time.RFC3339, c.At)
	if err != nil || t.UTC().Format(time.RFC3339) != c.At {
		return time.Time{}, fmt.Errorf("its time is %.64q, want RFC 3339 in UTC and whole seconds", c.At)
	}
	return t.UTC(), nil
}

// ReportData returns the 64 bytes that the TEE signs.
func (c *Claims) ReportData() ([64]byte, error) {
	b, err := jcs.Marshal(c)
	if err != nil {
		return [64]byte{}, fmt.Errorf("encoding claims: %w", err)
	}
	return sha512.Sum512(b), nil
}

// Is reports whether a description's evidence is such a document: it may be
// another, which binds none of the service's keys.
func Is(b []byte) bool {
	var head struct {
		Profile string `json:"profile"`
	}
	return json.Unmarshal(b, &head) == nil && head.Profile == Profile
}

// Parse reads a document and checks its form.
func Parse(b []byte) (*Document, error) {
	bad := func(err error) (*Document, error) {
		return nil, fault.New(fault.ExitParse, CodeFormat, "ask the verifier's operator", "reading the verifier's evidence: %w", err)
	}
	var d Document
	if err := jcs.Decode(b, MaxSize, &d); err != nil {
		return bad(err)
	}
	if d.Profile != Profile {
		return bad(fmt.Errorf("profile %.64q, want %q", d.Profile, Profile))
	}
	cpu, err := d.Foreign().Marshal()
	if err == nil {
		_, err = evidence.ParseForeign(cpu)
	}
	if err != nil {
		return bad(err)
	}
	if len(d.Claims.Keys) == 0 {
		return bad(fmt.Errorf("it names no key"))
	}
	if _, err := d.Claims.Time(); err != nil {
		return bad(err)
	}
	return &d, nil
}

// Marshal returns the document in RFC 8785 form.
func (d *Document) Marshal() ([]byte, error) { return jcs.Marshal(d) }

// Foreign is the CPU's part, as evidence of a machine of which no manifest is
// known.
func (d *Document) Foreign() *evidence.Foreign {
	return &evidence.Foreign{Profile: evidence.ProfileForeign, CPU: &d.CPU}
}

// Bound checks that the claims are of this description, and of each of these
// keys that somebody pinned. That the TEE signed the claims is not looked at.
func (d *Document) Bound(info *wire.Info, pinned ...ed25519.PublicKey) error {
	const remedy = "ask again, and if it stays so do not believe this verifier"
	want, err := ClaimsOf(info)
	if err != nil {
		return fault.New(fault.ExitParse, CodeFormat, "ask the verifier's operator", "%w", err)
	}
	var errs []error
	differs := func(what, want, got string) {
		if want != got {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeBound, what, want, got, remedy))
		}
	}
	differs("the keys that the verifier's evidence is over", list(want.Keys), list(d.Claims.Keys))
	differs("the policies that the verifier's evidence is over", list(want.Policies), list(d.Claims.Policies))
	differs("the log that the verifier's evidence is over", want.LogKey, d.Claims.LogKey)
	differs("the build that the verifier's evidence is over", want.Build, d.Claims.Build)
	differs("the hash of the description that the verifier's evidence is over", want.Description.String(), d.Claims.Description.String())
	for _, k := range pinned {
		if id := digest.Sum256(k); !slices.Contains(d.Claims.Keys, id) {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeBound, "a pinned key in the verifier's evidence", id.String(), list(d.Claims.Keys), remedy))
		}
	}
	return errors.Join(errs...)
}

// Fresh checks that the document is of the last MaxAge: what is expired is
// refused (DESIGN section 2). Its time is the service's word, which the TEE signed.
func (d *Document) Fresh(now time.Time) error {
	at, err := d.Claims.Time()
	if err != nil {
		return fault.New(fault.ExitParse, CodeFormat, "ask the verifier's operator", "reading the verifier's evidence: %w", err)
	}
	if oldest := now.Add(-MaxAge); at.Before(oldest) {
		return fault.Mismatch(fault.ExitRefused, CodeExpired, "the time of the verifier's evidence", "after "+oldest.UTC().Format(time.RFC3339), d.Claims.At,
			"ask again; if it stays so its TEE gives no evidence any more, or somebody shows what was once true")
	}
	if last := now.Add(maxSkew); at.After(last) {
		return fault.Mismatch(fault.ExitRefused, CodeFuture, "the time of the verifier's evidence", "before "+last.UTC().Format(time.RFC3339), d.Claims.At,
			"compare this machine's clock; if it is right do not believe this verifier")
	}
	return nil
}

func list(d []digest.SHA256) string {
	text := make([]string, len(d))
	for i := range d {
		text[i] = d[i].String()
	}
	return strings.Join(text, " ")
}
