package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/verifier/appraise"
	"cocoon/verifier/jwks"
	"cocoon/verifier/result"
	"cocoon/verifier/tpmtest"
)

// setupVerdict writes a verdict, good at $AT under the keys of jwks.json and
// of $JWKS_URL: the token, and with its checks verdict.json; other.json has another
// verifier's key, changed.json other checks.
func setupVerdict(env *testscript.Env) error {
	if filepath.Base(env.WorkDir) != "script-verdict" {
		return nil
	}
	w := tpmtest.NewWorld(env.T())
	r := appraise.Appraise(w.Evidence(env.T()), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(env.T()), Now: tpmtest.Now})
	key := scriptKey("verifier")
	v, err := result.Sign(r, key, "script")
	if err != nil {
		return err
	}
	token := v.Token
	answer, err := json.Marshal(verdictText{EAR: token, Checks: v.Checks})
	if err != nil {
		return err
	}
	changed, err := json.Marshal(verdictText{EAR: token, Checks: append(v.Checks, ' ')})
	if err != nil {
		return err
	}
	public := key.Public().(ed25519.PublicKey)
	other := scriptKey("another verifier").Public().(ed25519.PublicKey)
	own, err := json.Marshal(jwks.Of(public))
	if err != nil {
		return err
	}
	others, err := json.Marshal(jwks.Of(other))
	if err != nil {
		return err
	}
	b := []byte(token)
	b[len(b)/2] ^= 1
	for name, doc := range map[string][]byte{"verdict.jwt": []byte(token + "\n"), "verdict.json": answer, "changed.json": changed, "tampered.jwt": b, "jwks.json": own, "other.json": others} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), doc, 0o644); err != nil {
			return err
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != jwks.Path {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(own) // an error here is the peer's hang-up
	}))
	env.Defer(srv.Close)
	env.Setenv("TOKEN", token)
	env.Setenv("VERIFIER_KEY", hex.EncodeToString(public))
	env.Setenv("KEYS_URL", srv.URL)
	env.Setenv("AT", tpmtest.Now.Format("2006-01-02T15:04:05Z07:00"))
	env.Setenv("RECEIPT_KEY", w.ReceiptKey.String())
	return nil
}
