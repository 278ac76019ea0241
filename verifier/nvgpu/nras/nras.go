// Package nras verifies what NVIDIA's Remote Attestation Service says of GPUs
// and switches: a detached EAT bundle (one overall token and one for each
// device) and the service's keys come in, the devices it vouches for go out.
//
// It is a second opinion. The service is online and its tokens name no CPU
// TEE: nothing here replaces the verification of the evidence itself.
//
// Definitions: NVIDIA "Attestation Service" API, versions 3 and 4 (claims 2.0
// and 3.0); draft-ietf-rats-eat, detached EAT bundles; RFC 7515, ES384.
package nras

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/verifier/result"
)

// Issuer is the only issuer that is believed.
const Issuer = "https://nras.attestation.nvidia.com"

// Limits.
const (
	MaxBundle   = 1 << 20 // bytes
	MaxDevices  = 16
	maxLifetime = 2 * time.Hour // the service gives an hour
	maxSkew     = time.Minute
)

// IDs of the checks, which are the codes of their faults too.
const (
	CheckParse     = "nras.parse"     // the bundle is of the form
	CheckSignature = "nras.signature" // every token is signed by a key of the service
	CheckIssuer    = "nras.issuer"    // every token is of the service
	CheckTime      = "nras.time"      // every token is valid now
	CheckNonce     = "nras.nonce"     // every token is about the nonce
	CheckOverall   = "nras.overall"   // the overall result is good
	CheckCount     = "nras.count"     // as many devices as expected, each once
	CheckDigests   = "nras.digests"   // the overall token holds each device token's digest
	CheckDevices   = "nras.devices"   // each device's own claims are good
)

// Options of Verify.
type Options struct {
	Keys  *Keys // of the service
	Nonce []byte
	Count int       // devices that must be there
	Now   time.Time // zero: the present
}

// Device is one device that the service vouches for.
type Device struct {
	Name    string // "GPU-0", "SWITCH-0" …
	Model   string // hwmodel
	UEID    string // decimal
	Driver  string // empty for a switch
	VBIOS   string // of a GPU, or a switch's BIOS
	Mode    string // x-nvidia-gpu-mode, where stated
	Warning string // x-nvidia-attestation-warning
}

// Token is a verified bundle.
type Token struct {
	Version  string // x-nvidia-ver: "2.0" or "3.0"
	IssuedAt time.Time
	Expires  time.Time // of the token that expires first
	Devices  []Device  // by name
}

// claims of any token; what is decided on has a field.
type claims struct {
	raw        map[string]any
	Issuer     string                     `json:"iss"`
	Nonce      string                     `json:"eat_nonce"`
	IssuedAt   *float64                   `json:"iat"`
	NotBefore  *float64                   `json:"nbf"`
	Expires    *float64                   `json:"exp"`
	Subject    string                     `json:"sub"`
	Version    string                     `json:"x-nvidia-ver"`
	Overall    *bool                      `json:"x-nvidia-overall-att-result"`
	Submods    map[string]json.RawMessage `json:"submods"`
	Measures   string                     `json:"measres"`
	SecureBoot *bool                      `json:"secboot"`
	Debug      string                     `json:"dbgstat"`
	Model      string                     `json:"hwmodel"`
	UEID       string                     `json:"ueid"`
	Error      json.RawMessage            `json:"x-nvidia-error-details"`
}

// bundle is a detached EAT as parsed.
type bundle struct {
	overall *claims
	main    string
	names   []string // sorted
	devices map[string]*claims
	tokens  map[string]string
}

// Verify verifies a bundle: every token's signature, issuer, times and nonce;
// that the overall result is good; that it is about exactly the devices in
// the bundle, as many as expected; and each device's own claims. The service
// answers with HTTP 200 and an overall token in any case, so all of this
// counts. The checks are returned in any case; the error joins all faults.
func Verify(doc []byte, o *Options) (*Token, []result.Check, error) {
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	v := &verification{}
	b, err := parse(doc)
	if err != nil {
		v.note(fault.ExitParse, CheckParse, "give the service's whole answer", err)
		for _, id := range []string{CheckSignature, CheckIssuer, CheckTime, CheckNonce, CheckOverall, CheckCount, CheckDigests, CheckDevices} {
			v.checks = append(v.checks, result.Check{ID: id, Status: result.Skip, Reason: "the bundle was not read"})
		}
		return nil, v.checks, errors.Join(v.errs...)
	}
	v.note(fault.ExitParse, CheckParse, "", nil)
	v.note(fault.ExitRefused, CheckSignature, "give the service's keys of the time of the token: they change daily", b.each(func(_ string, token string, _ *claims) error { return o.Keys.verify(token) }))
	v.note(fault.ExitRefused, CheckIssuer, "only "+Issuer+" is believed", b.each(func(_, _ string, c *claims) error {
		if c.Issuer != Issuer {
			return fmt.Errorf("issuer is %.80q", c.Issuer)
		}
		return nil
	}))
	v.note(fault.ExitRefused, CheckTime, "ask the service again, and check the clock", b.each(func(_, _ string, c *claims) error { return c.checkTime(now) }))
	want := hex.EncodeToString(o.Nonce)
	v.note(fault.ExitRefused, CheckNonce, "the token is about other evidence", b.each(func(_, _ string, c *claims) error {
		if len(o.Nonce) == 0 || !strings.EqualFold(c.Nonce, want) {
			return fmt.Errorf("nonce is %.80q, want %q", c.Nonce, want)
		}
		return nil
	}))
	v.note(fault.ExitRefused, CheckOverall, "see the devices' checks", b.checkOverall())
	v.note(fault.ExitRefused, CheckCount, "the machine has other devices than expected", b.checkCount(o.Count))
	v.note(fault.ExitRefused, CheckDigests, "the tokens do not belong together", b.checkDigests())
	v.note(fault.ExitRefused, CheckDevices, "the service found fault with a device", b.eachDevice(func(c *claims) error { return c.checkDevice() }))
	if len(v.errs) > 0 {
		return nil, v.checks, errors.Join(v.errs...)
	}
	return b.token(), v.checks, nil
}

type verification struct {
	checks []result.Check
	errs   []error
}

func (v *verification) note(exit int, id, remedy string, err error) {
	if err == nil {
		v.checks = append(v.checks, result.Check{ID: id, Status: result.Pass})
		return
	}
	f := fault.New(exit, id, remedy, "verifying NRAS token: %w", err).Expect("tokens of NVIDIA's service, as its API says")
	v.errs = append(v.errs, f)
	v.checks = append(v.checks, result.Check{ID: id, Status: result.Fail, Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: remedy})
}

// parse reads [["JWT", overall], {name: token, …}].
func parse(doc []byte) (*bundle, error) {
	var parts []json.RawMessage
	if err := jcs.Decode(doc, MaxBundle, &parts); err != nil {
		return nil, err
	}
	if len(parts) != 2 {
		return nil, fmt.Errorf("%d parts, want the overall token and the devices", len(parts))
	}
	var head []string
	b := &bundle{devices: map[string]*claims{}}
	if err := json.Unmarshal(parts[0], &head); err != nil || len(head) != 2 || head[0] != "JWT" {
		return nil, errors.New("the first part is not [\"JWT\", token]")
	}
	if err := json.Unmarshal(parts[1], &b.tokens); err != nil || len(b.tokens) == 0 || len(b.tokens) > MaxDevices {
		return nil, fmt.Errorf("the second part does not hold 1 to %d devices' tokens", MaxDevices)
	}
	var err error
	if b.overall, err = read(head[1]); err != nil {
		return nil, fmt.Errorf("overall token: %w", err)
	}
	b.main = head[1]
	for name, token := range b.tokens {
		if b.devices[name], err = read(token); err != nil {
			return nil, fmt.Errorf("token of %.32q: %w", name, err)
		}
		b.names = append(b.names, name)
	}
	slices.Sort(b.names)
	return b, nil
}

// read reads a token's claims without verifying it. NVIDIA may add claims;
// none may be there twice.
func read(token string) (*claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("not a JWT")
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("decoding payload: %w", err)
	}
	if err := jcs.Check(payload); err != nil {
		return nil, fmt.Errorf("reading claims: %w", err)
	}
	c := &claims{}
	if err := errors.Join(json.Unmarshal(payload, c), json.Unmarshal(payload, &c.raw)); err != nil {
		return nil, fmt.Errorf("reading claims: %w", err)
	}
	return c, nil
}

// each runs a check over all tokens and joins what it finds.
func (b *bundle) each(f func(name, token string, c *claims) error) error {
	var errs []error
	if err := f("overall", b.main, b.overall); err != nil {
		errs = append(errs, fmt.Errorf("overall token: %w", err))
	}
	for _, name := range b.names {
		if err := f(name, b.tokens[name], b.devices[name]); err != nil {
			errs = append(errs, fmt.Errorf("token of %.32q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (b *bundle) eachDevice(f func(*claims) error) error {
	return b.each(func(name, _ string, c *claims) error {
		if c == b.overall {
			return nil
		}
		return f(c)
	})
}

func (c *claims) checkTime(now time.Time) error {
	if c.IssuedAt == nil || c.Expires == nil {
		return errors.New("no iat or exp")
	}
	iat, exp := time.Unix(int64(*c.IssuedAt), 0), time.Unix(int64(*c.Expires), 0)
	from := iat
	if c.NotBefore != nil {
		if nbf := time.Unix(int64(*c.NotBefore), 0); nbf.After(from) {
			from = nbf
		}
	}
	switch {
	case exp.Sub(iat) <= 0 || exp.Sub(iat) > maxLifetime:
		return fmt.Errorf("life of %s, at most %s is taken", exp.Sub(iat), maxLifetime)
	case from.After(now.Add(maxSkew)):
		return fmt.Errorf("it begins at %s", from.UTC().Format(time.RFC3339))
	case !now.Before(exp):
		return fmt.Errorf("it expired at %s", exp.UTC().Format(time.RFC3339))
	}
	return nil
}

func (b *bundle) checkOverall() error {
	o := b.overall
	switch {
	case o.Subject != "NVIDIA-PLATFORM-ATTESTATION":
		return fmt.Errorf("subject is %.80q", o.Subject)
	case o.Version != "2.0" && o.Version != "3.0":
		return fmt.Errorf("claims of version %.16q, want 2.0 or 3.0", o.Version)
	case o.Overall == nil || !*o.Overall:
		return errors.New("overall result is not true")
	}
	return nil
}

// checkCount also holds the devices apart: the service attests what it is
// sent, also one device twice.
func (b *bundle) checkCount(want int) error {
	if want < 1 || len(b.devices) != want || len(b.overall.Submods) != want {
		return fmt.Errorf("%d devices and %d submodules, want %d", len(b.devices), len(b.overall.Submods), want)
	}
	seen := map[string]string{}
	for _, name := range b.names {
		id := b.devices[name].UEID
		if other, ok := seen[id]; ok || id == "" {
			return fmt.Errorf("device %.32q has the UEID of %.32q, or none", name, other)
		}
		seen[id] = name
	}
	return nil
}

// checkDigests holds the overall token's submods, {name: ["DIGEST",
// ["SHA-256", hex]]}, against the devices' tokens, as ASCII. Tokens that a
// local verifier writes say "SHA256" and are not signed: they are refused.
func (b *bundle) checkDigests() error {
	var errs []error
	for _, name := range b.names {
		var outer []json.RawMessage
		var kind string
		var inner []string
		raw := b.overall.Submods[name]
		if json.Unmarshal(raw, &outer) != nil || len(outer) != 2 || json.Unmarshal(outer[0], &kind) != nil || kind != "DIGEST" ||
			json.Unmarshal(outer[1], &inner) != nil || len(inner) != 2 || inner[0] != "SHA-256" {
			errs = append(errs, fmt.Errorf("submodule %.32q is not a SHA-256 digest", name))
			continue
		}
		sum := sha256.Sum256([]byte(b.tokens[name]))
		if !strings.EqualFold(inner[1], hex.EncodeToString(sum[:])) {
			errs = append(errs, fmt.Errorf("submodule %.32q has another digest than its token", name))
		}
	}
	return errors.Join(errs...)
}

func (b *bundle) token() *Token {
	t := &Token{Version: b.overall.Version, IssuedAt: time.Unix(int64(*b.overall.IssuedAt), 0).UTC(), Expires: time.Unix(int64(*b.overall.Expires), 0).UTC()}
	for _, name := range b.names {
		c := b.devices[name]
		text := func(key string) string { s, _ := c.raw[key].(string); return s }
		d := Device{Name: name, Model: c.Model, UEID: c.UEID, Driver: text("x-nvidia-gpu-driver-version"), VBIOS: text("x-nvidia-gpu-vbios-version"),
			Mode: text("x-nvidia-gpu-mode"), Warning: text("x-nvidia-attestation-warning")}
		if d.VBIOS == "" {
			d.VBIOS = text("x-nvidia-switch-bios-version")
		}
		if exp := time.Unix(int64(*c.Expires), 0).UTC(); exp.Before(t.Expires) {
			t.Expires = exp
		}
		t.Devices = append(t.Devices, d)
	}
	return t
}

// verify verifies a token's signature under the key that its header names.
func (k *Keys) verify(token string) error {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodES384.Alg()}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	_, err := parser.Parse(token, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		for name := range t.Header {
			if name != "kid" && name != "alg" && name != "typ" {
				return nil, fmt.Errorf("header %.32q is not taken", name)
			}
		}
		key := k.find(kid)
		if key == nil {
			return nil, fmt.Errorf("key %.120q is not known", kid)
		}
		return key, nil
	})
	return err
}

func (k *Keys) find(kid string) *ecdsa.PublicKey {
	if k == nil || kid == "" {
		return nil
	}
	return k.byID[kid]
}
