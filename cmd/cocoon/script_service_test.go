package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/enclave/platform"
	"cocoon/enclave/teetest"
	"cocoon/verifier/policy"
	"cocoon/verifier/self"
	"cocoon/verifier/server"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/tpmtest"
)

// shownBy has a TEE sign what a verifier says of itself, or what it is told to say
// instead.
type shownBy struct {
	tee    platform.TEE
	signed func(self.Claims) self.Claims
}

func (s shownBy) Evidence(ctx context.Context, c self.Claims) ([]byte, error) {
	c.At = tpmtest.Now.Format(time.RFC3339)
	signed := s.signed(c)
	data, err := signed.ReportData()
	if err != nil {
		return nil, err
	}
	cpu, err := s.tee.Over(ctx, data)
	if err != nil {
		return nil, err
	}
	return (&self.Document{Profile: self.Profile, Claims: c, CPU: *cpu}).Marshal()
}

// setupService runs verifiers in a simulated TD, at $AT: $V shows evidence of
// itself, $FORGED claims that the TD did not sign, $DEBUG is in a TD under debug,
// $NONE shows nothing. $KEY is their key, and the directory has what verifies it:
// policy.json, hardware.json, which takes no test authorities, intel.pem, collateral.json.
func setupService(env *testscript.Env) error {
	if filepath.Base(env.WorkDir) != "script-verify_service" {
		return nil
	}
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		return err
	}
	files, err := f.Files()
	if err != nil {
		return err
	}
	p := f.Policy(policy.ClassTDX, policy.ClassTest)
	doc, err := json.Marshal(p)
	if err != nil {
		return err
	}
	strict, err := json.Marshal(f.Policy(policy.ClassTDX))
	if err != nil {
		return err
	}
	w, key := tpmtest.NewWorld(env.T()), scriptKey("verifier in a TEE")
	env.Setenv("AT", tpmtest.Now.Format(time.RFC3339))
	env.Setenv("KEY", hex.EncodeToString(key.Public().(ed25519.PublicKey)))
	same := func(c self.Claims) self.Claims { return c }
	var intel []byte
	for name, signed := range map[string]func(self.Claims) self.Claims{
		"V": same, "DEBUG": same, "NONE": nil,
		"FORGED": func(c self.Claims) self.Claims { c.Keys = c.Keys[:0]; return c },
	} {
		td, err := teetest.NewTD(f, tpmtest.Now)
		if err != nil {
			return err
		}
		if intel = td.Collateral; name == "DEBUG" {
			td.Attributes[0] |= 1
		}
		m, err := platform.Open(platform.TDX, td.Sources())
		if err != nil {
			return err
		}
		o := server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(env.T()), Signer: key}, Clock: func() time.Time { return tpmtest.Now }}
		if signed != nil {
			o.Own = shownBy{m.(platform.TEE), signed}
		}
		srv, err := server.New(o)
		if err != nil {
			return err
		}
		h := httptest.NewServer(srv)
		env.Defer(h.Close)
		env.Setenv(name, h.URL)
	}
	for name, b := range map[string][]byte{"policy.json": doc, "hardware.json": strict, "intel.pem": files[testfleet.FileIntel], "collateral.json": intel} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}
