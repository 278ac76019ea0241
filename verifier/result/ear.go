package result

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// EARProfile is the eat_profile of the EAR draft that this package writes and
// reads.
const EARProfile = "tag:ietf.org,2026:rats/ear#04"

// EARType is the JWT "typ" of an EAR.
const EARType = "eat+jwt"

// Limits of an EAR.
const (
	MaxEAR      = 1 << 18   // bytes of the token
	MaxLifetime = time.Hour // from iat to exp (DESIGN section 2)
	maxSkew     = time.Minute
)

// developer names this implementation in ear_verifier_id.
const developer = "cocoon"

// EAR are the claims of a verdict (draft-ietf-rats-ear-04): what a verifier
// says of accepted evidence. Private claims start with "cocoon_".
type EAR struct {
	Profile    string                `json:"eat_profile"`
	IssuedAt   int64                 `json:"iat"`
	Expires    int64                 `json:"exp"`
	ID         string                `json:"jti"` // hex of the evidence's SHA-256
	VerifierID EARVerifier           `json:"ear_verifier_id"`
	Nonce      string                `json:"eat_nonce"` // base64url of the claims' nonce
	Confirm    EARConfirm            `json:"cnf"`       // RFC 7800: the receipt key
	Submods    map[string]*EARSubmod `json:"submods"`

	TLSSPKISHA256  digest.SHA256  `json:"cocoon_tls_spki_sha256"`
	TrustClass     string         `json:"cocoon_trust_class"`
	Development    bool           `json:"cocoon_development"`
	TestRoots      []string       `json:"cocoon_test_roots,omitempty"` // of the verifier, that are not the makers' own
	EvidenceSHA256 digest.SHA256  `json:"cocoon_evidence_sha256"`
	PolicySHA256   digest.SHA256  `json:"cocoon_policy_sha256"`
	Manifest       ManifestRef    `json:"cocoon_manifest"`
	Model          evidence.Model `json:"cocoon_model"`
	ConfigSHA256   digest.SHA256  `json:"cocoon_config_sha256"`
	Payout         string         `json:"cocoon_payout"`
	ChecksSHA256   digest.SHA256  `json:"cocoon_checks_sha256"` // of the document that goes with the token: OpenChecks
}

// EARVerifier names the verifier's software.
type EARVerifier struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

// EARConfirm is a confirmation claim with an Ed25519 key (RFC 8037).
type EARConfirm struct {
	JWK struct {
		KeyType string `json:"kty"`
		Curve   string `json:"crv"`
		X       string `json:"x"`
	} `json:"jwk"`
}

// EARSubmod is the appraisal of one part. A verdict's token has no checks, only
// the hash of the document that has them: Claims is what OpenChecks found there,
// nil before.
type EARSubmod struct {
	Status    Status     `json:"ear_status"`
	Vector    Vector     `json:"ear_trustworthiness_vector"`
	PolicyIDs []string   `json:"ear_appraisal_policy_ids"`
	Claims    *EARChecks `json:"ear_verifier_claims,omitempty"`
}

// EARChecks are the checks of one part.
type EARChecks struct {
	Checks []Check `json:"checks"`
}

// Checks returns the checks of a part; none before OpenChecks.
func (s *EARSubmod) Checks() []Check {
	if s.Claims == nil {
		return nil
	}
	return s.Claims.Checks
}

// GetExpirationTime and its siblings make EAR usable with package jwt.
func (e *EAR) GetExpirationTime() (*jwt.NumericDate, error) {
	return jwt.NewNumericDate(time.Unix(e.Expires, 0)), nil
}

// GetIssuedAt returns iat.
func (e *EAR) GetIssuedAt() (*jwt.NumericDate, error) {
	return jwt.NewNumericDate(time.Unix(e.IssuedAt, 0)), nil
}

// GetNotBefore returns nil: an EAR has none.
func (e *EAR) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }

// GetIssuer returns nothing: the key id says who issued.
func (e *EAR) GetIssuer() (string, error) { return "", nil }

// GetSubject returns nothing.
func (e *EAR) GetSubject() (string, error) { return "", nil }

// GetAudience returns nothing.
func (e *EAR) GetAudience() (jwt.ClaimStrings, error) { return nil, nil }

// KeyID returns the key id of a verifier key: hex of the SHA-256 of the raw
// public key, as in the verdict cells that contracts read.
func KeyID(key ed25519.PublicKey) string { return digest.Sum256(key).String() }

// ErrNotAccepted is returned for results that no verdict can be given on.
var ErrNotAccepted = errors.New("evidence was not accepted")

var errSignature = errors.New("the signer's signature is not of Ed25519")

// Signed is a verdict as it is handed out.
type Signed struct {
	Token  string        // JWT
	SHA256 digest.SHA256 // of the token: its name in the log
	Checks []byte        // the document that OpenChecks reads; the token has its hash
}

// SignEAR returns the verdict on an accepted result as a signed JWT, without
// the document of its checks. It expires with the result.
func SignEAR(r *Result, key crypto.Signer, build string) (string, error) {
	v, err := Sign(r, key, build)
	if err != nil {
		return "", err
	}
	return v.Token, nil
}

// Sign returns the verdict on an accepted result.
func Sign(r *Result, key crypto.Signer, build string) (*Signed, error) {
	fail := func(err error) (*Signed, error) { return nil, fmt.Errorf("signing verdict: %w", err) }
	if !r.Accepted || r.Manifest == nil || len(r.Failed()) != 0 {
		return fail(ErrNotAccepted)
	}
	e := &EAR{
		Profile: EARProfile, IssuedAt: r.Time.Unix(), Expires: r.NotAfter.Unix(), ID: r.EvidenceSHA256.String(),
		VerifierID: EARVerifier{Developer: developer, Build: build},
		Nonce:      base64.RawURLEncoding.EncodeToString(r.Claims.Nonce[:]), Submods: map[string]*EARSubmod{},
		TLSSPKISHA256: r.Claims.TLSSPKISHA256, TrustClass: r.TrustClass, Development: r.Development, TestRoots: r.TestRoots,
		EvidenceSHA256: r.EvidenceSHA256, PolicySHA256: r.PolicySHA256, Manifest: *r.Manifest,
		Model: r.Claims.Model, ConfigSHA256: r.Claims.ConfigSHA256, Payout: r.Claims.Payout,
	}
	e.Confirm.JWK.KeyType, e.Confirm.JWK.Curve = "OKP", "Ed25519"
	e.Confirm.JWK.X = base64.RawURLEncoding.EncodeToString(r.Claims.ReceiptKey[:])
	policies := []string{"urn:sha256:" + r.PolicySHA256.String()}
	for name, s := range r.Submods {
		e.Submods[name] = &EARSubmod{Status: s.Status, Vector: s.Vector, PolicyIDs: policies}
	}
	checks, err := checksOf(r)
	if err != nil {
		return fail(err)
	}
	e.ChecksSHA256 = digest.Sum256(checks)
	if err := e.validate(); err != nil {
		return fail(err)
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return fail(errors.New("not an Ed25519 key"))
	}
	out, hash, err := signJWT(public, e, key)
	if err != nil {
		return fail(err)
	}
	if len(out) > MaxEAR {
		return fail(fmt.Errorf("token of %d bytes, limit %d", len(out), MaxEAR))
	}
	return &Signed{Token: out, SHA256: hash, Checks: checks}, nil
}

// EAROptions say which verdicts VerifyEAR believes.
type EAROptions struct {
	Keys             []ed25519.PublicKey // of verifiers, pinned by the caller
	Now              time.Time           // zero: the present
	AllowDevelopment bool                // accept verdicts of the development trust class
}

// VerifyEAR verifies a verdict under pinned keys and at a time: signature,
// form, dates, and that it affirms or warns but refuses nothing.
func VerifyEAR(token string, o EAROptions) (*EAR, error) {
	if len(token) > MaxEAR {
		return nil, fault.New(fault.ExitParse, "verdict.format", "ask the verifier again", "reading verdict of %d bytes, limit %d", len(token), MaxEAR)
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	e, err := openEAR(token, o.Keys)
	if err != nil {
		return nil, err
	}
	var errs []error
	refuse := func(code, expected, actual, msg, remedy string) {
		f := fault.New(fault.ExitRefused, code, remedy, "verifying verdict: %s", msg)
		f.Expected, f.Actual = expected, actual
		errs = append(errs, f)
	}
	stamp := func(s int64) string { return time.Unix(s, 0).UTC().Format(time.RFC3339) }
	if e.Expires <= now.Unix() {
		refuse("verdict.expired", "after "+now.UTC().Format(time.RFC3339), stamp(e.Expires), "it has expired", "ask for a new verdict")
	}
	if e.IssuedAt > now.Add(maxSkew).Unix() {
		refuse("verdict.issued_at", "until "+now.UTC().Format(time.RFC3339), stamp(e.IssuedAt), "it is from the future", "check the clocks")
	}
	if e.Development && !o.AllowDevelopment {
		f := fault.New(fault.ExitPolicy, "verdict.development", "use a worker with a TEE, or allow the development class by name", "verifying verdict: trust class %q shows no confidentiality", e.TrustClass)
		errs = append(errs, f)
	}
	for _, name := range e.names() {
		s := e.Submods[name]
		if s.Status != Affirming && s.Status != Warning {
			refuse("verdict.status", "affirming or warning", string(s.Status), "submodule "+name+" is not affirmed", "see its checks")
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return e, nil
}

// ParseEAR reads a verdict without verifying anything, to show it.
func ParseEAR(token string) (*EAR, error) {
	if len(token) > MaxEAR {
		return nil, fault.New(fault.ExitParse, "verdict.format", "ask the verifier again", "reading verdict of %d bytes, limit %d", len(token), MaxEAR)
	}
	return parseEAR(token)
}

// openEAR verifies the signature under one of the keys and reads the claims.
func openEAR(token string, keys []ed25519.PublicKey) (*EAR, error) {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(token, &EAR{}, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		if t.Header["typ"] != EARType || len(t.Header) != 3 {
			return nil, errors.New("header is not that of an EAR")
		}
		for _, k := range keys {
			if len(k) == ed25519.PublicKeySize && KeyID(k) == kid {
				return k, nil
			}
		}
		return nil, fmt.Errorf("key %.80q is not pinned", kid)
	})
	if errors.Is(err, jwt.ErrTokenMalformed) {
		return nil, fault.New(fault.ExitParse, "verdict.format", "ask the verifier again", "reading verdict: %w", err)
	}
	if err != nil {
		return nil, fault.New(fault.ExitRefused, "verdict.signature", "pin the key of the verifier that gave the verdict", "verifying verdict: %w", err)
	}
	return parseEAR(token)
}

// parseEAR reads the claims of a token strictly: package jwt takes duplicate
// and unknown keys.
func parseEAR(token string) (*EAR, error) {
	bad := func(err error) error {
		return fault.New(fault.ExitParse, "verdict.format", "check that verifier and reader are of one version", "reading verdict: %w", err)
	}
	_, parts, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(token, &EAR{})
	if err != nil {
		return nil, bad(err)
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, bad(err)
	}
	var e EAR
	if err := jcs.Decode(payload, MaxEAR, &e); err != nil {
		return nil, bad(err)
	}
	if err := e.validate(); err != nil {
		return nil, bad(err)
	}
	return &e, nil
}

// validate checks that the claims are complete and consistent in themselves.
func (e *EAR) validate() error {
	var errs []error
	if e.Profile != EARProfile {
		errs = append(errs, fmt.Errorf("profile %.80q, want %q", e.Profile, EARProfile))
	}
	if life := e.Expires - e.IssuedAt; e.IssuedAt <= 0 || life <= 0 || life > int64(MaxLifetime/time.Second) {
		errs = append(errs, fmt.Errorf("life of %d seconds, want 1 to %d", life, int64(MaxLifetime/time.Second)))
	}
	if e.ID != e.EvidenceSHA256.String() {
		errs = append(errs, errors.New("jti is not the evidence's hash"))
	}
	if _, err := e.NonceValue(); err != nil {
		errs = append(errs, err)
	}
	if _, err := e.ReceiptKey(); err != nil {
		errs = append(errs, err)
	}
	if e.EvidenceSHA256.IsZero() || e.PolicySHA256.IsZero() || e.Manifest.SHA256.IsZero() || e.TLSSPKISHA256.IsZero() || e.ChecksSHA256.IsZero() || e.TrustClass == "" {
		errs = append(errs, errors.New("a claim is missing"))
	}
	if e.Development != (e.TrustClass == "vtpm" || e.TrustClass == "test") {
		errs = append(errs, fmt.Errorf("development is %v for trust class %.32q", e.Development, e.TrustClass))
	}
	// Nothing under a test root is of a hardware class, whoever says so.
	if len(e.TestRoots) > 16 || len(e.TestRoots) > 0 && !e.Development {
		errs = append(errs, fmt.Errorf("%d test roots for trust class %.32q", len(e.TestRoots), e.TrustClass))
	}
	for _, n := range []string{SubCPU, SubImage, SubConfig, SubModel} {
		if e.Submods[n] == nil {
			errs = append(errs, fmt.Errorf("submodule %s is missing", n))
		}
	}
	if len(e.Submods) > 4+evidence.MaxGPUs {
		errs = append(errs, fmt.Errorf("%d submodules", len(e.Submods)))
	}
	for n, s := range e.Submods {
		if s == nil || s.Claims != nil {
			errs = append(errs, fmt.Errorf("submodule %.32q is empty, or has checks of its own", n))
			continue
		}
		if err := s.Vector.Validate(); err != nil {
			errs = append(errs, err)
		}
		if s.Status != s.Vector.Status() {
			errs = append(errs, fmt.Errorf("submodule %.32q: status %.32q, its vector says %q", n, s.Status, s.Vector.Status()))
		}
	}
	return errors.Join(errs...)
}

// NonceValue returns the nonce of the evidence.
func (e *EAR) NonceValue() (digest.SHA256, error) { return raw32("eat_nonce", e.Nonce) }

// ReceiptKey returns the key that the verdict is about.
func (e *EAR) ReceiptKey() (digest.SHA256, error) {
	if e.Confirm.JWK.KeyType != "OKP" || e.Confirm.JWK.Curve != "Ed25519" {
		return digest.SHA256{}, errors.New("cnf is not an Ed25519 key")
	}
	return raw32("cnf", e.Confirm.JWK.X)
}

func raw32(what, s string) (digest.SHA256, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 32 {
		return digest.SHA256{}, fmt.Errorf("%s is not 32 bytes of base64url", what)
	}
	return digest.SHA256(b), nil
}

// Status returns the worst status of the submodules.
func (e *EAR) Status() Status {
	var all []Status
	for _, s := range e.Submods {
		all = append(all, s.Status)
	}
	return Worst(all...)
}

// names returns the submodules' names, sorted.
func (e *EAR) names() []string {
	out := make([]string, 0, len(e.Submods))
	for n := range e.Submods {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
