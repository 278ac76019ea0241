package jwks_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/verifier/jwks"
)

func key(seed byte) ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)).Public().(ed25519.PublicKey)
}

func doc(t testing.TB, keys ...ed25519.PublicKey) string {
	t.Helper()
	b, err := json.Marshal(jwks.Of(keys...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// rfc8037 is the key of RFC 8037, appendix A.2.
const rfc8037 = `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

func TestKeysComeBack(t *testing.T) {
	want := []ed25519.PublicKey{key(1), key(2)}
	got, err := jwks.Parse([]byte(doc(t, want...)))
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Fatalf("%v\n%s", err, d)
	}
	got, err = jwks.Parse([]byte(rfc8037))
	if err != nil || len(got) != 1 || got[0][0] != 0xd7 || got[0][31] != 0x1a {
		t.Errorf("the key of RFC 8037: %x, %v", got, err)
	}
	other := `{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},` + strings.TrimPrefix(doc(t, key(1)), `{"keys":[`)
	other = strings.Replace(other, `"kty":"OKP"`, `"kty":"OKP","x5t":"AA"`, 1)
	if got, err := jwks.Parse([]byte(other)); err != nil || len(got) != 1 {
		t.Errorf("a set with a key of another type and an unknown member: %v, %v", got, err)
	}
}

func TestKeySetsAreRefused(t *testing.T) {
	good := doc(t, key(1))
	for name, in := range map[string]string{
		"no keys":               `{"keys":[]}`,
		"none of Ed25519":       strings.Replace(good, "Ed25519", "X25519", 1),
		"a key twice":           doc(t, key(1), key(1)),
		"another key's id":      strings.Replace(good, `"kid":"`, `"kid":"00`, 1),
		"a short key":           strings.Replace(rfc8037, "URo", "U", 1),
		"padding":               strings.Replace(rfc8037, "URo", "URo=", 1),
		"a key that encrypts":   strings.Replace(good, `"sig"`, `"enc"`, 1),
		"another algorithm":     strings.Replace(good, `"EdDSA"`, `"RS256"`, 1),
		"a member twice":        strings.Replace(good, `"kty":"OKP"`, `"kty":"OKP","kty":"OKP"`, 1),
		"trailing data":         good + "{}",
		"not JSON":              "keys",
		"too large":             good + strings.Repeat(" ", jwks.MaxSize),
		"too many keys":         `{"keys":[` + strings.Repeat(`{"kty":"EC"},`, jwks.MaxKeys) + `{"kty":"EC"}]}`,
		"keys that are no list": `{"keys":{}}`,
	} {
		if in == good || in == rfc8037 {
			t.Fatalf("%s: the document did not change", name)
		}
		if got, err := jwks.Parse([]byte(in)); err == nil {
			t.Errorf("%s: accepted %x", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(rfc8037))
	f.Add([]byte(doc(f, key(1), key(2))))
	f.Fuzz(func(t *testing.T, in []byte) {
		keys, err := jwks.Parse(in)
		if err != nil {
			return
		}
		again, err := jwks.Parse([]byte(doc(t, keys...)))
		if d := cmp.Diff(keys, again); err != nil || d != "" {
			t.Fatalf("%v\n%s", err, d)
		}
	})
}
