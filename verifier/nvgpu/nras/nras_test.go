package nras_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/nvgpu/nras"
	"cocoon/verifier/nvgpu/rimtest"
	"cocoon/verifier/result"
)

const kid = "nv-eat-kid-test-1"

func nonce() []byte { return bytes.Repeat([]byte{0xab}, 32) }

// service signs as NVIDIA's does.
type service struct {
	key  *ecdsa.PrivateKey
	keys *nras.Keys
}

func jwks(t testing.TB, id string, key *ecdsa.PublicKey, x5c ...[]byte) []byte {
	t.Helper()
	raw, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-384", "use": "sig", "kid": id, "x5c": x5c,
		"x": base64.RawURLEncoding.EncodeToString(raw[1:49]), "y": base64.RawURLEncoding.EncodeToString(raw[49:])}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newService(t testing.TB, id string) *service {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := nras.ParseJWKS(jwks(t, id, &key.PublicKey), nil, rimtest.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &service{key, keys}
}

type doc = map[string]any

func common() doc {
	now := rimtest.Now.Unix()
	return doc{"iss": nras.Issuer, "iat": now, "nbf": now, "exp": now + 3600, "eat_nonce": hex.EncodeToString(nonce())}
}

func device(n int) doc {
	d := common()
	for k, v := range (doc{"measres": "success", "secboot": true, "dbgstat": "disabled", "hwmodel": "GH100 A01 GSP BROM", "ueid": fmt.Sprint(4781763792860 + n), "oemid": "5703",
		"x-nvidia-gpu-arch-check": true, "x-nvidia-gpu-attestation-report-parsed": true, "x-nvidia-gpu-attestation-report-nonce-match": true,
		"x-nvidia-gpu-attestation-report-signature-verified": true, "x-nvidia-gpu-driver-version": "550.90.07", "x-nvidia-gpu-vbios-version": "96.00.9F.00.01",
		"x-nvidia-gpu-mode": "spt", "x-nvidia-attestation-warning": nil,
		"x-nvidia-gpu-driver-rim-cert-chain": doc{"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good", "x-nvidia-cert-revocation-reason": nil}}) {
		d[k] = v
	}
	return d
}

func (s *service) sign(t testing.TB, c doc) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodES384, jwt.MapClaims(c))
	tok.Header = map[string]any{"alg": "ES384", "kid": kid}
	out, err := tok.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// bundle signs devices and an overall token over them, after change.
func (s *service) bundle(t testing.TB, devices []doc, change func(overall doc, tokens map[string]string)) []byte {
	t.Helper()
	overall := common()
	overall["sub"], overall["x-nvidia-ver"], overall["x-nvidia-overall-att-result"] = "NVIDIA-PLATFORM-ATTESTATION", "3.0", true
	tokens, submods := map[string]string{}, doc{}
	for i, d := range devices {
		name := fmt.Sprintf("GPU-%d", i)
		tokens[name] = s.sign(t, d)
		sum := sha256.Sum256([]byte(tokens[name]))
		submods[name] = []any{"DIGEST", []string{"SHA-256", hex.EncodeToString(sum[:])}}
	}
	overall["submods"] = submods
	if change != nil {
		change(overall, tokens)
	}
	b, err := json.Marshal([]any{[]string{"JWT", s.sign(t, overall)}, tokens})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func failed(checks []result.Check) string {
	var out []string
	for _, c := range checks {
		if c.Status == result.Fail {
			out = append(out, c.ID)
		}
	}
	return strings.Join(out, " ")
}

func TestTheServicesWordIsVerified(t *testing.T) {
	s := newService(t, kid)
	other := newService(t, kid)
	set := func(key string, v any) []doc {
		d := device(0)
		if d[key] = v; v == "absent" {
			delete(d, key)
		}
		return []doc{d, device(1)}
	}
	two := []doc{device(0), device(1)}
	for name, c := range map[string]struct {
		devices []doc
		change  func(doc, map[string]string)
		opts    nras.Options
		want    string
	}{
		"two good devices":                  {two, nil, nras.Options{}, ""},
		"unknown keys":                      {two, nil, nras.Options{Keys: newService(t, "another").keys}, nras.CheckSignature},
		"another key of this id":            {two, nil, nras.Options{Keys: other.keys}, nras.CheckSignature},
		"a device of another signer":        {two, func(o doc, m map[string]string) { m["GPU-0"] = other.sign(t, device(0)) }, nras.Options{}, nras.CheckSignature + " " + nras.CheckDigests},
		"another issuer":                    {set("iss", "https://nras.attestation.nvidia.com.evil"), nil, nras.Options{}, nras.CheckIssuer},
		"expired":                           {two, nil, nras.Options{Now: rimtest.Now.Add(time.Hour)}, nras.CheckTime},
		"from the future":                   {two, nil, nras.Options{Now: rimtest.Now.Add(-2 * time.Minute)}, nras.CheckTime},
		"one device expires late":           {set("exp", rimtest.Now.AddDate(1, 0, 0).Unix()), nil, nras.Options{}, nras.CheckTime},
		"no expiry":                         {set("exp", "absent"), nil, nras.Options{}, nras.CheckTime},
		"another nonce":                     {two, nil, nras.Options{Nonce: make([]byte, 32)}, nras.CheckNonce},
		"no nonce wanted":                   {two, nil, nras.Options{Nonce: []byte{}}, nras.CheckNonce},
		"one device of another nonce":       {set("eat_nonce", strings.Repeat("0", 64)), nil, nras.Options{}, nras.CheckNonce},
		"a false overall result":            {two, func(o doc, _ map[string]string) { o["x-nvidia-overall-att-result"] = false }, nras.Options{}, nras.CheckOverall},
		"no overall result":                 {two, func(o doc, _ map[string]string) { delete(o, "x-nvidia-overall-att-result") }, nras.Options{}, nras.CheckOverall},
		"another version":                   {two, func(o doc, _ map[string]string) { o["x-nvidia-ver"] = "1.0" }, nras.Options{}, nras.CheckOverall},
		"one device of two":                 {two[:1], nil, nras.Options{}, nras.CheckCount},
		"three devices":                     {append([]doc{device(2)}, two...), nil, nras.Options{}, nras.CheckCount},
		"one device twice":                  {[]doc{device(0), device(0)}, nil, nras.Options{}, nras.CheckCount},
		"a submodule without a token":       {two, func(_ doc, m map[string]string) { delete(m, "GPU-1") }, nras.Options{}, nras.CheckCount},
		"a token without a submodule":       {two, func(o doc, _ map[string]string) { delete(o["submods"].(doc), "GPU-1") }, nras.Options{}, nras.CheckCount + " " + nras.CheckDigests},
		"tokens changed about":              {two, func(_ doc, m map[string]string) { m["GPU-0"], m["GPU-1"] = m["GPU-1"], m["GPU-0"] }, nras.Options{}, nras.CheckDigests},
		"digests as local tokens have them": {two, func(o doc, _ map[string]string) { o["submods"].(doc)["GPU-0"].([]any)[1].([]string)[0] = "SHA256" }, nras.Options{}, nras.CheckDigests},
		"a measurement differs":             {set("measres", "fail"), nil, nras.Options{}, nras.CheckDevices},
		"no measurements":                   {set("measres", "absent"), nil, nras.Options{}, nras.CheckDevices},
		"debug":                             {set("dbgstat", "enabled"), nil, nras.Options{}, nras.CheckDevices},
		"no secure boot":                    {set("secboot", false), nil, nras.Options{}, nras.CheckDevices},
		"a false claim":                     {set("x-nvidia-gpu-attestation-report-nonce-match", false), nil, nras.Options{}, nras.CheckDevices},
		"a false claim nobody knows":        {set("x-nvidia-gpu-new-check", false), nil, nras.Options{}, nras.CheckDevices},
		"a claim missing":                   {set("x-nvidia-gpu-attestation-report-signature-verified", "absent"), nil, nras.Options{}, nras.CheckDevices},
		"a chain revoked":                   {set("x-nvidia-gpu-driver-rim-cert-chain", doc{"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "revoked"}), nil, nras.Options{}, nras.CheckDevices},
		"a chain expired":                   {set("x-nvidia-gpu-vbios-rim-cert-chain", doc{"x-nvidia-cert-status": "expired", "x-nvidia-cert-ocsp-status": "good"}), nil, nras.Options{}, nras.CheckDevices},
		"an OCSP nonce that differs":        {set("x-nvidia-gpu-driver-rim-cert-chain", doc{"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good", "x-nvidia-cert-ocsp-nonce-matches": false}), nil, nras.Options{}, nras.CheckDevices},
		"an error of the service":           {set("x-nvidia-error-details", doc{"code": 4010, "message": "nonce"}), nil, nras.Options{}, nras.CheckDevices},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.opts
			o.Count = 2
			if o.Keys == nil {
				o.Keys = s.keys
			}
			if o.Nonce == nil {
				o.Nonce = nonce()
			}
			if o.Now.IsZero() {
				o.Now = rimtest.Now
			}
			tok, checks, err := nras.Verify(s.bundle(t, c.devices, c.change), &o)
			if failed(checks) != c.want || (err == nil) != (c.want == "") || (tok == nil) != (c.want != "") || len(checks) != 9 {
				t.Fatalf("failed %q, want %q: %v", failed(checks), c.want, err)
			}
			for _, id := range strings.Fields(c.want) {
				if !fault.Has(err, id) {
					t.Errorf("%v lacks %s", err, id)
				}
			}
			if tok != nil && (len(tok.Devices) != 2 || tok.Devices[1].Name != "GPU-1" || tok.Devices[0].Driver != "550.90.07" || tok.Version != "3.0" || tok.Devices[0].Mode != "spt") {
				t.Errorf("token %+v", tok)
			}
		})
	}
}

func TestTokensWithoutTheServicesAlgorithmAreRefused(t *testing.T) {
	s := newService(t, kid)
	none := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims(device(0)))
	none.Header["kid"] = kid
	unsigned, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	hs := jwt.NewWithClaims(jwt.SigningMethodHS384, jwt.MapClaims(device(0)))
	hs.Header["kid"] = kid
	raw, err := s.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	mac, err := hs.SignedString(raw)
	if err != nil {
		t.Fatal(err)
	}
	extra := jwt.NewWithClaims(jwt.SigningMethodES384, jwt.MapClaims(device(0)))
	extra.Header = map[string]any{"alg": "ES384", "kid": kid, "crit": []string{"x"}}
	crit, err := extra.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"alg none": unsigned, "HMAC with the public key": mac, "a critical header": crit} {
		b := s.bundle(t, []doc{device(0)}, func(o doc, m map[string]string) {
			m["GPU-0"] = token
			sum := sha256.Sum256([]byte(token))
			o["submods"] = doc{"GPU-0": []any{"DIGEST", []string{"SHA-256", hex.EncodeToString(sum[:])}}}
		})
		_, checks, err := nras.Verify(b, &nras.Options{Keys: s.keys, Nonce: nonce(), Count: 1, Now: rimtest.Now})
		if failed(checks) != nras.CheckSignature {
			t.Errorf("%s: failed %q: %v", name, failed(checks), err)
		}
	}
}

// TestARealTokenHoldsButForItsKey reads what the service really answered. Its
// keys of that day are not at hand: everything but the signature must hold.
func TestARealTokenHoldsButForItsKey(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(vectors.Dir(t), "gpu", "claims", "hopperClaimsv3_detached_eat.json"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")
	if err != nil {
		t.Fatal(err)
	}
	o := &nras.Options{Keys: newService(t, kid).keys, Nonce: want, Count: 1, Now: time.Unix(1749601858+60, 0)}
	tok, checks, err := nras.Verify(raw, o)
	if tok != nil || failed(checks) != nras.CheckSignature || !strings.Contains(err.Error(), "nv-eat-kid-prod-20250609211310110") {
		t.Errorf("failed %q: %v", failed(checks), err)
	}
	o.Now = o.Now.Add(time.Hour)
	if _, checks, _ = nras.Verify(raw, o); failed(checks) != nras.CheckSignature+" "+nras.CheckTime {
		t.Errorf("an hour later: failed %q", failed(checks))
	}
	// The same claims under a key of ours are accepted.
	var decoded map[string]doc
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "gpu", "claims", "hopperClaimsv3_decoded.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &decoded); err != nil {
		t.Fatal(err)
	}
	s := newService(t, kid)
	bundle := s.bundle(t, []doc{decoded["GPU-0"]}, func(o doc, _ map[string]string) {
		for _, k := range []string{"iat", "nbf", "exp", "eat_nonce"} {
			o[k] = decoded["GPU-0"][k]
		}
	})
	tok, _, err = nras.Verify(bundle, &nras.Options{Keys: s.keys, Nonce: want, Count: 1, Now: time.Unix(1749601858+60, 0)})
	if err != nil || tok.Devices[0].UEID != "478176379286082186618948445787393647364802107249" || tok.Devices[0].VBIOS != "96.00.9F.00.01" {
		t.Errorf("the real claims, signed here: %+v, %v", tok, err)
	}
}

func TestKeySetsAreVerified(t *testing.T) {
	ca, err := rimtest.Issue(nil, rimtest.Profile{Name: "CA", CA: true})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := rimtest.Issue(ca, rimtest.Profile{Name: "leaf"})
	if err != nil {
		t.Fatal(err)
	}
	stranger := newService(t, kid)
	roots, foreign := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca.Cert)
	good := jwks(t, kid, &leaf.Key.PublicKey, leaf.Cert.Raw)
	if k, err := nras.ParseJWKS(good, roots, rimtest.Now); err != nil || k.Len() != 1 {
		t.Errorf("a good set: %v", err)
	}
	for name, c := range map[string]struct {
		doc   []byte
		roots *x509.CertPool
		now   time.Time
	}{
		"another root":            {good, foreign, rimtest.Now},
		"expired certificate":     {good, roots, rimtest.Now.AddDate(2, 0, 0)},
		"another key":             {jwks(t, kid, &stranger.key.PublicKey, leaf.Cert.Raw), roots, rimtest.Now},
		"no certificate":          {jwks(t, kid, &leaf.Key.PublicKey), roots, rimtest.Now},
		"no id":                   {jwks(t, "", &leaf.Key.PublicKey), nil, rimtest.Now},
		"no keys":                 {[]byte(`{"keys":[]}`), nil, rimtest.Now},
		"another curve":           {bytes.Replace(good, []byte("P-384"), []byte("P-256"), 1), nil, rimtest.Now},
		"a point not on it":       {bytes.Replace(good, []byte(`"x":"`), []byte(`"x":"AAAA`), 1), nil, rimtest.Now},
		"a duplicate key of JSON": {[]byte(`{"keys":[],"keys":[]}`), nil, rimtest.Now},
	} {
		if _, err := nras.ParseJWKS(c.doc, c.roots, c.now); !fault.Has(err, "nras.keys") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoFlippedByteOfABundleIsAccepted(t *testing.T) {
	s := newService(t, kid)
	b := s.bundle(t, []doc{device(0)}, nil)
	o := &nras.Options{Keys: s.keys, Nonce: nonce(), Count: 1, Now: rimtest.Now}
	if _, _, err := nras.Verify(b, o); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 1
		if _, _, err := nras.Verify(b, o); err == nil {
			t.Errorf("byte %d: accepted", i)
		}
		b[i] ^= 1
	}
}

func FuzzVerify(f *testing.F) {
	s := newService(f, kid)
	good := s.bundle(f, []doc{device(0)}, nil)
	f.Add(good)
	f.Add([]byte(`[["JWT","a.b.c"],{"GPU-0":"a.b.c"}]`))
	o := &nras.Options{Keys: s.keys, Nonce: nonce(), Count: 1, Now: rimtest.Now}
	f.Fuzz(func(t *testing.T, in []byte) {
		tok, checks, err := nras.Verify(in, o)
		if len(checks) != 9 || (tok == nil) == (err == nil) || (tok != nil && tok.Devices[0].UEID != device(0)["ueid"]) {
			t.Fatalf("%+v, %v", tok, err)
		}
	})
}
