package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// setupAppraise runs three verifiers, whose time stands still at $AT: $V1 and
// $V2 have keys of their own ($KEY1, $KEY2) and one policy, $V3 ($KEY3)
// another; $TWIN has the key of $V1. Evidence 1.json to 8.json answers
// challenges of all.
func setupAppraise(env *testscript.Env) error {
	if filepath.Base(env.WorkDir) != "script-appraise" {
		return nil
	}
	w := tpmtest.NewWorld(env.T())
	env.Setenv("AT", tpmtest.Now.Format(time.RFC3339))
	var clients []*client.Client
	for i, v := range []struct{ name, key string }{{"V1", "1"}, {"V2", "2"}, {"V3", "3"}, {"TWIN", "1"}} {
		p := *w.Policy
		if i == 2 {
			p.Name = "another"
		}
		key := scriptKey("verifier " + v.key)
		srv, err := server.New(server.Options{Trust: server.Trust{Policy: &p, Manifests: w.Manifests(env.T()), Signer: key},
			Clock: func() time.Time { return tpmtest.Now }, Burst: 1000, PerSecond: 1000})
		if err != nil {
			return err
		}
		h := httptest.NewServer(srv)
		env.Defer(h.Close)
		env.Setenv(v.name, h.URL)
		env.Setenv("KEY"+v.key, hex.EncodeToString(key.Public().(ed25519.PublicKey)))
		c, err := client.New(client.Options{BaseURL: h.URL})
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	write := func(name string, b []byte, err error) error {
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(env.WorkDir, name), b, 0o644)
	}
	for n := range 9 {
		var challenges []digest.SHA256
		for _, c := range clients {
			x, err := c.Challenge(context.Background())
			if err != nil {
				return err
			}
			challenges = append(challenges, x.Challenge)
		}
		b, err := w.Evidence(env.T(), challenges...).Marshal()
		if err := write(fmt.Sprintf("%d.json", n+1), b, err); err != nil {
			return err
		}
	}
	foreign := evidence.Foreign{Profile: evidence.ProfileForeign, CPU: &w.Evidence(env.T()).CPU}
	b, err := foreign.Marshal()
	return write("foreign.json", b, err)
}
