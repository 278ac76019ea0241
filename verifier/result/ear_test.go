package result_test

import (
	"bytes"
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
	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
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

// TestTwoKeysSignInTurn: each token names the key that signed it.
func TestTwoKeysSignInTurn(t *testing.T) {
	r, _, pub, key := verdict(t)
	otherPub, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, c := range []struct {
			pub ed25519.PublicKey
			key ed25519.PrivateKey
		}{{pub, key}, {otherPub, other}} {
			token, err := result.SignEAR(r, c.key, "test")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := result.VerifyEAR(token, opts(c.pub)); err != nil {
				t.Error(err)
			}
			head, err := base64.RawURLEncoding.DecodeString(token[:strings.IndexByte(token, '.')])
			if err != nil || !strings.Contains(string(head), result.KeyID(c.pub)) {
				t.Errorf("%s does not name its key: %v", head, err)
			}
		}
	}
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
	if n := len(e.Submods[result.SubImage].Checks()); n != 0 {
		t.Errorf("%d checks in the token", n)
	}
}

// TestTheChecksOfAVerdictAreThoseOfItsAppraisal: the token has their hash, and
// is a fraction of them.
func TestTheChecksOfAVerdictAreThoseOfItsAppraisal(t *testing.T) {
	r, _, pub, key := verdict(t)
	v, err := result.Sign(r, key, "test")
	if err != nil {
		t.Fatal(err)
	}
	if v.SHA256 != digest.Sum256([]byte(v.Token)) || len(v.Token) > len(v.Checks) {
		t.Errorf("a token of %d bytes, checks of %d", len(v.Token), len(v.Checks))
	}
	e, err := result.VerifyEAR(v.Token, opts(pub))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.OpenChecks(v.Checks); err != nil {
		t.Fatal(err)
	}
	for name, s := range r.Submods {
		if diff := cmp.Diff(s.Checks, e.Submods[name].Checks()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestOtherChecksThanTheVerdictsAreRefused(t *testing.T) {
	r, _, pub, key := verdict(t)
	v, err := result.Sign(r, key, "test")
	if err != nil {
		t.Fatal(err)
	}
	open := func(doc []byte, change func(e *result.EAR)) error {
		t.Helper()
		e, err := result.VerifyEAR(v.Token, opts(pub))
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(e)
		}
		err = e.OpenChecks(doc)
		for name, s := range e.Submods {
			if err != nil && s.Claims != nil {
				t.Errorf("%s has checks after %v", name, err)
			}
		}
		return err
	}
	for i := range v.Checks {
		doc := bytes.Clone(v.Checks)
		doc[i] ^= 1
		if err := open(doc, nil); !fault.Has(err, "verdict.checks") {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	bound := func(doc string) error {
		return open([]byte(doc), func(e *result.EAR) { e.ChecksSHA256 = digest.Sum256([]byte(doc)) })
	}
	one := `[{"id":"a","status":"pass"}]`
	for name, c := range map[string]struct{ doc, want string }{
		"nothing":            {"", "verdict.format"},
		"huge":               {strings.Repeat(" ", result.MaxChecks+1), "verdict.format"},
		"a list":             {"[]", "verdict.format"},
		"no submodules":      {"{}", "verdict.format"},
		"one too few":        {`{"cpu0":` + one + `,"config":` + one + `,"image":` + one + `}`, "verdict.format"},
		"another submodule":  {`{"cpu0":` + one + `,"config":` + one + `,"image":` + one + `,"gpu0":` + one + `}`, "verdict.format"},
		"an empty one":       {`{"cpu0":[],"config":` + one + `,"image":` + one + `,"model":` + one + `}`, "verdict.format"},
		"a member too many":  {`{"cpu0":[{"id":"a","status":"pass","x":1}],"config":` + one + `,"image":` + one + `,"model":` + one + `}`, "verdict.format"},
		"a submodule twice":  {`{"cpu0":` + one + `,"cpu0":` + one + `,"config":` + one + `,"image":` + one + `,"model":` + one + `}`, "verdict.format"},
		"a failed check":     {`{"cpu0":[{"id":"tdx.quote","status":"fail"}],"config":` + one + `,"image":` + one + `,"model":` + one + `}`, "tdx.quote"},
		"an unknown outcome": {`{"cpu0":[{"id":"tdx.quote","status":"good"}],"config":` + one + `,"image":` + one + `,"model":` + one + `}`, "tdx.quote"},
	} {
		if err := bound(c.doc); !fault.Has(err, c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if err := bound(`{"cpu0":` + one + `,"config":` + one + `,"image":` + one + `,"model":` + one + `}`); err != nil {
		t.Errorf("a document of the right form: %v", err)
	}
}

func TestAResultWithoutChecksGetsNoVerdict(t *testing.T) {
	r, _, _, key := verdict(t)
	r.Submods[result.SubModel].Checks = nil
	if _, err := result.Sign(r, key, "test"); err == nil {
		t.Error("it was signed")
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
		"checks of its own": {resign(func(m map[string]any) {
			submod(m)["ear_verifier_claims"] = map[string]any{"checks": []any{map[string]any{"id": "image.initrd", "status": "pass"}}}
		}, nil), opts(pub), "verdict.format"},
		"no hash of its checks":           {resign(func(m map[string]any) { delete(m, "cocoon_checks_sha256") }, nil), opts(pub), "verdict.format"},
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

// FuzzOpenChecks reads any document as the one that a verdict has the hash of.
func FuzzOpenChecks(f *testing.F) {
	r, token, _, key := verdict(f)
	v, err := result.Sign(r, key, "test")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(v.Checks)
	f.Add([]byte(`{"cpu0":[{"id":"a","status":"fail"}]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		e, err := result.ParseEAR(token)
		if err != nil {
			t.Fatal(err)
		}
		e.ChecksSHA256 = digest.Sum256(doc)
		if e.OpenChecks(doc) != nil {
			return
		}
		for name, s := range e.Submods {
			for _, c := range s.Checks() {
				if c.Status != result.Pass && c.Status != result.Skip {
					t.Fatalf("%s: check %+v was taken", name, c)
				}
			}
		}
	})
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
