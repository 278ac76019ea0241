package nras_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/nvgpu/nras"
	"cocoon/verifier/nvgpu/nrastest"
	"cocoon/verifier/nvgpu/rimtest"
	"cocoon/verifier/result"
)

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
	s := nrastest.New(t, nrastest.KeyID)
	other := nrastest.New(t, nrastest.KeyID)
	set := func(key string, v any) []nrastest.Doc {
		d := nrastest.Device(0)
		if d[key] = v; v == "absent" {
			delete(d, key)
		}
		return []nrastest.Doc{d, nrastest.Device(1)}
	}
	two := []nrastest.Doc{nrastest.Device(0), nrastest.Device(1)}
	for name, c := range map[string]struct {
		devices []nrastest.Doc
		change  func(nrastest.Doc, map[string]string)
		opts    nras.Options
		want    string
	}{
		"two good devices":            {two, nil, nras.Options{}, ""},
		"unknown keys":                {two, nil, nras.Options{Keys: nrastest.New(t, "another").Keys}, nras.CheckSignature},
		"another key of this id":      {two, nil, nras.Options{Keys: other.Keys}, nras.CheckSignature},
		"a device of another signer":  {two, func(o nrastest.Doc, m map[string]string) { m["GPU-0"] = other.Sign(t, nrastest.Device(0)) }, nras.Options{}, nras.CheckSignature + " " + nras.CheckDigests},
		"another issuer":              {set("iss", "https://nras.attestation.nvidia.com.evil"), nil, nras.Options{}, nras.CheckIssuer},
		"expired":                     {two, nil, nras.Options{Now: rimtest.Now.Add(time.Hour)}, nras.CheckTime},
		"from the future":             {two, nil, nras.Options{Now: rimtest.Now.Add(-2 * time.Minute)}, nras.CheckTime},
		"one device expires late":     {set("exp", rimtest.Now.AddDate(1, 0, 0).Unix()), nil, nras.Options{}, nras.CheckTime},
		"no expiry":                   {set("exp", "absent"), nil, nras.Options{}, nras.CheckTime},
		"another nonce":               {two, nil, nras.Options{Nonce: make([]byte, 32)}, nras.CheckNonce},
		"no nonce wanted":             {two, nil, nras.Options{Nonce: []byte{}}, nras.CheckNonce},
		"one device of another nonce": {set("eat_nonce", strings.Repeat("0", 64)), nil, nras.Options{}, nras.CheckNonce},
		"a false overall result":      {two, func(o nrastest.Doc, _ map[string]string) { o["x-nvidia-overall-att-result"] = false }, nras.Options{}, nras.CheckOverall},
		"no overall result":           {two, func(o nrastest.Doc, _ map[string]string) { delete(o, "x-nvidia-overall-att-result") }, nras.Options{}, nras.CheckOverall},
		"another version":             {two, func(o nrastest.Doc, _ map[string]string) { o["x-nvidia-ver"] = "1.0" }, nras.Options{}, nras.CheckOverall},
		"one device of two":           {two[:1], nil, nras.Options{}, nras.CheckCount},
		"three devices":               {append([]nrastest.Doc{nrastest.Device(2)}, two...), nil, nras.Options{}, nras.CheckCount},
		"one device twice":            {[]nrastest.Doc{nrastest.Device(0), nrastest.Device(0)}, nil, nras.Options{}, nras.CheckCount},
		"a submodule without a token": {two, func(_ nrastest.Doc, m map[string]string) { delete(m, "GPU-1") }, nras.Options{}, nras.CheckCount},
		"a token without a submodule": {two, func(o nrastest.Doc, _ map[string]string) { delete(o["submods"].(nrastest.Doc), "GPU-1") }, nras.Options{}, nras.CheckCount + " " + nras.CheckDigests},
		"tokens changed about":        {two, func(_ nrastest.Doc, m map[string]string) { m["GPU-0"], m["GPU-1"] = m["GPU-1"], m["GPU-0"] }, nras.Options{}, nras.CheckDigests},
		"digests as local tokens have them": {two, func(o nrastest.Doc, _ map[string]string) {
			o["submods"].(nrastest.Doc)["GPU-0"].([]any)[1].([]string)[0] = "SHA256"
		}, nras.Options{}, nras.CheckDigests},
		"a measurement differs":      {set("measres", "fail"), nil, nras.Options{}, nras.CheckDevices},
		"no measurements":            {set("measres", "absent"), nil, nras.Options{}, nras.CheckDevices},
		"debug":                      {set("dbgstat", "enabled"), nil, nras.Options{}, nras.CheckDevices},
		"no secure boot":             {set("secboot", false), nil, nras.Options{}, nras.CheckDevices},
		"a false claim":              {set("x-nvidia-gpu-attestation-report-nonce-match", false), nil, nras.Options{}, nras.CheckDevices},
		"a false claim nobody knows": {set("x-nvidia-gpu-new-check", false), nil, nras.Options{}, nras.CheckDevices},
		"a claim missing":            {set("x-nvidia-gpu-attestation-report-signature-verified", "absent"), nil, nras.Options{}, nras.CheckDevices},
		"a chain revoked":            {set("x-nvidia-gpu-driver-rim-cert-chain", nrastest.Doc{"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "revoked"}), nil, nras.Options{}, nras.CheckDevices},
		"a chain expired":            {set("x-nvidia-gpu-vbios-rim-cert-chain", nrastest.Doc{"x-nvidia-cert-status": "expired", "x-nvidia-cert-ocsp-status": "good"}), nil, nras.Options{}, nras.CheckDevices},
		"an OCSP nonce that differs": {set("x-nvidia-gpu-driver-rim-cert-chain", nrastest.Doc{"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good", "x-nvidia-cert-ocsp-nonce-matches": false}), nil, nras.Options{}, nras.CheckDevices},
		"an error of the service":    {set("x-nvidia-error-details", nrastest.Doc{"code": 4010, "message": "nonce"}), nil, nras.Options{}, nras.CheckDevices},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.opts
			o.Count = 2
			if o.Keys == nil {
				o.Keys = s.Keys
			}
			if o.Nonce == nil {
				o.Nonce = nrastest.Nonce()
			}
			if o.Now.IsZero() {
				o.Now = rimtest.Now
			}
			tok, checks, err := nras.Verify(s.Bundle(t, c.devices, c.change), &o)
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
	s := nrastest.New(t, nrastest.KeyID)
	none := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims(nrastest.Device(0)))
	none.Header["kid"] = nrastest.KeyID
	unsigned, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	hs := jwt.NewWithClaims(jwt.SigningMethodHS384, jwt.MapClaims(nrastest.Device(0)))
	hs.Header["kid"] = nrastest.KeyID
	raw, err := s.Key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	mac, err := hs.SignedString(raw)
	if err != nil {
		t.Fatal(err)
	}
	extra := jwt.NewWithClaims(jwt.SigningMethodES384, jwt.MapClaims(nrastest.Device(0)))
	extra.Header = map[string]any{"alg": "ES384", "kid": nrastest.KeyID, "crit": []string{"x"}}
	crit, err := extra.SignedString(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"alg none": unsigned, "HMAC with the public key": mac, "a critical header": crit} {
		b := s.Bundle(t, []nrastest.Doc{nrastest.Device(0)}, func(o nrastest.Doc, m map[string]string) {
			m["GPU-0"] = token
			sum := sha256.Sum256([]byte(token))
			o["submods"] = nrastest.Doc{"GPU-0": []any{"DIGEST", []string{"SHA-256", hex.EncodeToString(sum[:])}}}
		})
		_, checks, err := nras.Verify(b, &nras.Options{Keys: s.Keys, Nonce: nrastest.Nonce(), Count: 1, Now: rimtest.Now})
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
	o := &nras.Options{Keys: nrastest.New(t, nrastest.KeyID).Keys, Nonce: want, Count: 1, Now: time.Unix(1749601858+60, 0)}
	tok, checks, err := nras.Verify(raw, o)
	if tok != nil || failed(checks) != nras.CheckSignature || !strings.Contains(err.Error(), "nv-eat-kid-prod-20250609211310110") {
		t.Errorf("failed %q: %v", failed(checks), err)
	}
	o.Now = o.Now.Add(time.Hour)
	if _, checks, _ = nras.Verify(raw, o); failed(checks) != nras.CheckSignature+" "+nras.CheckTime {
		t.Errorf("an hour later: failed %q", failed(checks))
	}
	// The same claims under a key of ours are accepted.
	var decoded map[string]nrastest.Doc
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "gpu", "claims", "hopperClaimsv3_decoded.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &decoded); err != nil {
		t.Fatal(err)
	}
	s := nrastest.New(t, nrastest.KeyID)
	bundle := s.Bundle(t, []nrastest.Doc{decoded["GPU-0"]}, func(o nrastest.Doc, _ map[string]string) {
		for _, k := range []string{"iat", "nbf", "exp", "eat_nonce"} {
			o[k] = decoded["GPU-0"][k]
		}
	})
	tok, _, err = nras.Verify(bundle, &nras.Options{Keys: s.Keys, Nonce: want, Count: 1, Now: time.Unix(1749601858+60, 0)})
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
	stranger := nrastest.New(t, nrastest.KeyID)
	roots, foreign := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca.Cert)
	good := nrastest.JWKS(t, nrastest.KeyID, &leaf.Key.PublicKey, leaf.Cert.Raw)
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
		"another key":             {nrastest.JWKS(t, nrastest.KeyID, &stranger.Key.PublicKey, leaf.Cert.Raw), roots, rimtest.Now},
		"no certificate":          {nrastest.JWKS(t, nrastest.KeyID, &leaf.Key.PublicKey), roots, rimtest.Now},
		"no id":                   {nrastest.JWKS(t, "", &leaf.Key.PublicKey), nil, rimtest.Now},
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
	s := nrastest.New(t, nrastest.KeyID)
	b := s.Bundle(t, []nrastest.Doc{nrastest.Device(0)}, nil)
	o := &nras.Options{Keys: s.Keys, Nonce: nrastest.Nonce(), Count: 1, Now: rimtest.Now}
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
	s := nrastest.New(f, nrastest.KeyID)
	good := s.Bundle(f, []nrastest.Doc{nrastest.Device(0)}, nil)
	f.Add(good)
	f.Add([]byte(`[["JWT","a.b.c"],{"GPU-0":"a.b.c"}]`))
	o := &nras.Options{Keys: s.Keys, Nonce: nrastest.Nonce(), Count: 1, Now: rimtest.Now}
	f.Fuzz(func(t *testing.T, in []byte) {
		tok, checks, err := nras.Verify(in, o)
		if len(checks) != 9 || (tok == nil) == (err == nil) || (tok != nil && tok.Devices[0].UEID != nrastest.Device(0)["ueid"]) {
			t.Fatalf("%+v, %v", tok, err)
		}
	})
}
