package result_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cocoon/internal/fault"
	"cocoon/verifier/appraise"
	"cocoon/verifier/result"
	"cocoon/verifier/tpmtest"
)

// verdict returns an accepted result, its EAR, and the key that signed it.
func verdict(t testing.TB) (*result.Result, string, ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	w := tpmtest.NewWorld(t)
	r := appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := result.SignEAR(r, key, "test")
	if err != nil {
		t.Fatal(err)
	}
	return r, token, pub, key
}

func opts(pub ed25519.PublicKey) result.EAROptions {
	return result.EAROptions{Keys: []ed25519.PublicKey{pub}, Now: tpmtest.Now, AllowDevelopment: true}
}

func TestVerdictSaysWhatTheAppraisalFound(t *testing.T) {
	r, token, pub, _ := verdict(t)
	e, err := result.VerifyEAR(token, opts(pub))
	if err != nil {
		t.Fatal(err)
	}
	key, err := e.ReceiptKey()
	if err != nil || key != r.Claims.ReceiptKey {
		t.Errorf("receipt key %s, %v", key, err)
	}
	if n, err := e.NonceValue(); err != nil || n != r.Claims.Nonce {
		t.Errorf("nonce %s, %v", n, err)
	}
	if e.TLSSPKISHA256 != r.Claims.TLSSPKISHA256 || e.Manifest != *r.Manifest || e.EvidenceSHA256 != r.EvidenceSHA256 ||
		e.Model != r.Claims.Model || e.TrustClass != "vtpm" || !e.Development || e.Status() != result.Warning {
		t.Errorf("verdict %+v", e)
	}
	if life := time.Duration(e.Expires-e.IssuedAt) * time.Second; life != time.Hour {
		t.Errorf("life of %s, want an hour", life)
	}
	if n := len(e.Submods[result.SubImage].Claims.Checks); n < 10 {
		t.Errorf("%d checks of the image", n)
	}
}

func TestVerdictsAreRefused(t *testing.T) {
	_, token, pub, key := verdict(t)
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	// resign signs a changed payload, or under a changed header, with the
	// verifier's own key.
	resign := func(change func(map[string]any), header map[string]any) string {
		t.Helper()
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		m := jwt.MapClaims{}
		if err := json.Unmarshal(payload, &m); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(m)
		}
		tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, m)
		tok.Header = map[string]any{"alg": "EdDSA", "typ": result.EARType, "kid": result.KeyID(pub)}
		for k, v := range header {
			tok.Header[k] = v
		}
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if _, err := result.VerifyEAR(resign(nil, nil), opts(pub)); err != nil {
		t.Fatalf("a verdict signed again is refused: %v", err)
	}
	submod := func(m map[string]any) map[string]any {
		return m["submods"].(map[string]any)["image"].(map[string]any)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{}).SignedString(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	hs, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{}).SignedString([]byte(pub))
	if err != nil {
		t.Fatal(err)
	}
	badKid := resign(nil, map[string]any{"kid": result.KeyID(other)})
	for name, c := range map[string]struct {
		token string
		opts  result.EAROptions
		want  string
	}{
		"no key pinned":              {token, opts(nil), "verdict.signature"},
		"another key pinned":         {token, opts(other), "verdict.signature"},
		"another key's id":           {badKid, opts(other), "verdict.signature"},
		"RS256":                      {rs, opts(pub), "verdict.signature"},
		"alg none":                   {none, opts(pub), "verdict.signature"},
		"HMAC with the public key":   {hs, opts(pub), "verdict.signature"},
		"another type":               {resign(nil, map[string]any{"typ": "JWT"}), opts(pub), "verdict.signature"},
		"a critical header":          {resign(nil, map[string]any{"crit": []string{"x"}}), opts(pub), "verdict.signature"},
		"not a token":                {"a.b", opts(pub), "verdict.format"},
		"empty":                      {"", opts(pub), "verdict.format"},
		"huge":                       {strings.Repeat("a", result.MaxEAR+1), opts(pub), "verdict.format"},
		"expired":                    {token, result.EAROptions{Keys: []ed25519.PublicKey{pub}, Now: tpmtest.Now.Add(time.Hour), AllowDevelopment: true}, "verdict.expired"},
		"from the future":            {token, result.EAROptions{Keys: []ed25519.PublicKey{pub}, Now: tpmtest.Now.Add(-2 * time.Minute), AllowDevelopment: true}, "verdict.issued_at"},
		"development, not allowed":   {token, result.EAROptions{Keys: []ed25519.PublicKey{pub}, Now: tpmtest.Now}, "verdict.development"},
		"a life of two hours":        {resign(func(m map[string]any) { m["exp"] = m["exp"].(float64) + 3600 }, nil), opts(pub), "verdict.format"},
		"no expiry":                  {resign(func(m map[string]any) { delete(m, "exp") }, nil), opts(pub), "verdict.format"},
		"another profile":            {resign(func(m map[string]any) { m["eat_profile"] = "tag:ietf.org,2026:rats/ear#03" }, nil), opts(pub), "verdict.format"},
		"an unknown claim":           {resign(func(m map[string]any) { m["cocoon_extra"] = 1 }, nil), opts(pub), "verdict.format"},
		"no image submodule":         {resign(func(m map[string]any) { delete(m["submods"].(map[string]any), "image") }, nil), opts(pub), "verdict.format"},
		"a status its vector denies": {resign(func(m map[string]any) { submod(m)["ear_trustworthiness_vector"].(map[string]any)["executables"] = 96 }, nil), opts(pub), "verdict.format"},
		"a contraindicated image": {resign(func(m map[string]any) {
			submod(m)["ear_status"] = "contraindicated"
			submod(m)["ear_trustworthiness_vector"].(map[string]any)["executables"] = 96
		}, nil), opts(pub), "verdict.status"},
		"a failed check": {resign(func(m map[string]any) {
			c := submod(m)["ear_verifier_claims"].(map[string]any)["checks"].([]any)[0].(map[string]any)
			c["status"], c["id"] = "fail", "image.initrd"
		}, nil), opts(pub), "image.initrd"},
		"production that calls itself so": {resign(func(m map[string]any) { m["cocoon_development"] = false }, nil), opts(pub), "verdict.format"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := result.VerifyEAR(c.token, c.opts)
			if e != nil || !fault.Has(err, c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestNoFlippedByteOfAVerdictIsAccepted flips every character of a token.
func TestNoFlippedByteOfAVerdictIsAccepted(t *testing.T) {
	_, token, pub, _ := verdict(t)
	b := []byte(token)
	for i := range b {
		b[i] ^= 1
		if _, err := result.VerifyEAR(string(b), opts(pub)); err == nil {
			t.Errorf("character %d: accepted", i)
		}
		b[i] ^= 1
	}
}

func TestRefusedEvidenceGetsNoVerdict(t *testing.T) {
	w := tpmtest.NewWorld(t)
	w.Boot.Cmdline += " x"
	r := appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := result.SignEAR(r, key, "test"); !errors.Is(err, result.ErrNotAccepted) {
		t.Errorf("got %v, want ErrNotAccepted", err)
	}
	r.Accepted = true // a caller's mistake
	if _, err := result.SignEAR(r, key, "test"); !errors.Is(err, result.ErrNotAccepted) {
		t.Errorf("with failed checks: got %v, want ErrNotAccepted", err)
	}
}

func TestTiersFollowAR4SI(t *testing.T) {
	for v, want := range map[int]result.Status{0: result.None, -1: result.None, 1: result.None, 2: result.Affirming, 31: result.Affirming, -32: result.Affirming,
		32: result.Warning, 95: result.Warning, -33: result.Warning, 96: result.Contraindicated, 127: result.Contraindicated, -97: result.Contraindicated, 500: result.Contraindicated} {
		if got := result.Tier(v); got != want {
			t.Errorf("tier of %d is %s, want %s", v, got, want)
		}
	}
	if result.Worst() != result.None || result.Worst(result.Affirming, result.None) != result.None || result.Worst(result.Affirming, "odd") != result.Contraindicated {
		t.Error("the worst tier is wrong")
	}
}

func FuzzVerifyEAR(f *testing.F) {
	_, token, pub, _ := verdict(f)
	f.Add(token)
	f.Add(strings.Replace(token, ".", "..", 1))
	f.Fuzz(func(t *testing.T, in string) {
		if _, err := result.VerifyEAR(in, opts(pub)); err == nil && in != token {
			t.Fatalf("accepted %q", in)
		}
		_, _ = result.ParseEAR(in)
	})
}
