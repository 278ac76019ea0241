package result

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/golang-jwt/jwt/v5"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// earHeader is the JOSE header of an EAR.
type earHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

// lastHeader is the header of the key that signed last: a verifier has one at a
// time.
var lastHeader atomic.Pointer[keyHeader]

type keyHeader struct {
	public  ed25519.PublicKey
	encoded string
}

// headerOf returns the header of a key's tokens, as it stands in them.
func headerOf(public ed25519.PublicKey) (string, error) {
	if h := lastHeader.Load(); h != nil && bytes.Equal(h.public, public) {
		return h.encoded, nil
	}
	head, err := jcs.Marshal(&earHeader{Algorithm: jwt.SigningMethodEdDSA.Alg(), KeyID: KeyID(public), Type: EARType})
	if err != nil {
		return "", err
	}
	h := &keyHeader{bytes.Clone(public), base64.RawURLEncoding.EncodeToString(head)}
	lastHeader.Store(h)
	return h.encoded, nil
}

// tokens are buffers for signJWT.
var tokens = sync.Pool{New: func() any { return new([2][]byte) }}

// signJWT returns a token (RFC 7515, section 7.1), and its SHA-256, whose header and claims are
// canonical JSON. Package jwt copies the claims five times on the way, which is
// most of what signing costs.
func signJWT(public ed25519.PublicKey, claims *EAR, key crypto.Signer) (string, digest.SHA256, error) {
	head, err := headerOf(public)
	if err != nil {
		return "", digest.SHA256{}, err
	}
	buf := tokens.Get().(*[2][]byte)
	defer tokens.Put(buf)
	body, ok := appendEAR(buf[0][:0], claims)
	if !ok {
		if body, err = jcs.Marshal(claims); err != nil {
			return "", digest.SHA256{}, err
		}
	}
	b64 := base64.RawURLEncoding
	out := append(append(buf[1][:0], head...), '.')
	out = b64.AppendEncode(out, body)
	sig, err := key.Sign(rand.Reader, out, crypto.Hash(0))
	if err != nil {
		return "", digest.SHA256{}, err
	}
	if len(sig) != ed25519.SignatureSize {
		return "", digest.SHA256{}, errSignature
	}
	out = b64.AppendEncode(append(out, '.'), sig)
	buf[0], buf[1] = body, out
	return string(out), digest.Sum256(out), nil
}

// appendEAR appends the RFC 8785 form of a verdict: it and its checks are the
// documents that are written for every request, and a fifth of what jcs takes for
// them is enough where members and their order are known (encode_test.go holds
// one against the other). False means that it does not know.
func appendEAR(b []byte, e *EAR) ([]byte, bool) {
	w := &writer{b: b}
	w.text(`{"cnf":{"jwk":{"crv":`, e.Confirm.JWK.Curve)
	w.text(`,"kty":`, e.Confirm.JWK.KeyType)
	w.text(`,"x":`, e.Confirm.JWK.X)
	w.hash(`}},"cocoon_checks_sha256":`, &e.ChecksSHA256)
	w.hash(`,"cocoon_config_sha256":`, &e.ConfigSHA256)
	w.raw(`,"cocoon_development":`)
	w.b = strconv.AppendBool(w.b, e.Development)
	w.hash(`,"cocoon_evidence_sha256":`, &e.EvidenceSHA256)
	w.text(`,"cocoon_manifest":{"name":`, e.Manifest.Name)
	w.hash(`,"sha256":`, &e.Manifest.SHA256)
	w.raw(`,"version":`)
	w.b = strconv.AppendUint(w.b, e.Manifest.Version, 10)
	w.exact(e.Manifest.Version)
	w.text(`},"cocoon_model":{"name":`, e.Model.Name)
	w.hash(`,"verity_root":`, &e.Model.VerityRoot)
	w.text(`},"cocoon_payout":`, e.Payout)
	w.hash(`,"cocoon_policy_sha256":`, &e.PolicySHA256)
	if len(e.TestRoots) > 0 {
		w.texts(`,"cocoon_test_roots":`, e.TestRoots)
	}
	w.hash(`,"cocoon_tls_spki_sha256":`, &e.TLSSPKISHA256)
	w.text(`,"cocoon_trust_class":`, e.TrustClass)
	w.text(`,"ear_verifier_id":{"build":`, e.VerifierID.Build)
	w.text(`,"developer":`, e.VerifierID.Developer)
	w.text(`},"eat_nonce":`, e.Nonce)
	w.text(`,"eat_profile":`, e.Profile)
	w.number(`,"exp":`, e.Expires)
	w.number(`,"iat":`, e.IssuedAt)
	w.text(`,"jti":`, e.ID)
	w.raw(`,"submods":{`)
	for i, name := range slices.Sorted(maps.Keys(e.Submods)) {
		if i > 0 {
			w.raw(`,`)
		}
		w.key(name)
		w.submod(e.Submods[name])
	}
	w.raw(`}}`)
	return w.b, !w.unknown && e.Submods != nil
}

// writer appends members of JSON objects.
type writer struct {
	b       []byte
	unknown bool // something that is left to package jcs
}

func (w *writer) raw(s string) { w.b = append(w.b, s...) }

// text appends what stands before a string, and the string.
func (w *writer) text(before, s string) {
	w.b = append(w.b, before...)
	out, ok := jcs.AppendString(w.b, s)
	if !ok {
		w.unknown = true
		return
	}
	w.b = out
}

func (w *writer) texts(before string, list []string) {
	sep := before + "["
	for _, s := range list {
		w.text(sep, s)
		sep = ","
	}
	w.raw(`]`)
}

// key appends a member's name. Those of other than ASCII are ordered by UTF-16.
func (w *writer) key(s string) {
	for i := range len(s) {
		w.unknown = w.unknown || s[i] >= 0x80
	}
	w.text("", s)
	w.raw(`:`)
}

func (w *writer) hash(before string, d *digest.SHA256) {
	w.b = append(append(w.b, before...), '"')
	w.b = append(hex.AppendEncode(w.b, d[:]), '"')
}

func (w *writer) number(before string, n int64) {
	w.b = strconv.AppendInt(append(w.b, before...), n, 10)
	w.exact(uint64(max(n, -n)))
}

// exact holds a number to what a double has exactly (RFC 8785, section 3.2.2.3).
func (w *writer) exact(n uint64) { w.unknown = w.unknown || n > 999_999_999_999_999 }

func (w *writer) submod(s *EARSubmod) {
	if s == nil || s.Vector == nil || s.Claims != nil || len(s.PolicyIDs) == 0 {
		w.unknown = true
		return
	}
	w.texts(`{"ear_appraisal_policy_ids":`, s.PolicyIDs)
	w.text(`,"ear_status":`, string(s.Status))
	w.raw(`,"ear_trustworthiness_vector":{`)
	var room [8]string // as many as there are categories
	order := slices.AppendSeq(room[:0], maps.Keys(s.Vector))
	slices.Sort(order)
	for i, name := range order {
		if i > 0 {
			w.raw(`,`)
		}
		w.key(name)
		w.number("", int64(s.Vector[name]))
	}
	w.raw(`}}`)
}
