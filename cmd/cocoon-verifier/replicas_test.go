package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	redisserver "github.com/alicebob/miniredis/v2/server"

	"cocoon/internal/keyfile"
	"cocoon/verifier/client"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// TestReplicasOfOneConfigShareItsStore starts two services of one config: an
// enrolment begun at one ends at the other, and they hold a caller to one limit.
func TestReplicasOfOneConfigShareItsStore(t *testing.T) {
	store := miniredis.RunT(t)
	store.Server().SetPreHook(func(c *redisserver.Peer, cmd string, _ ...string) bool {
		if strings.EqualFold(cmd, "INFO") { // miniredis has no run id
			c.WriteBulk("# Server\r\nrun_id:one\r\n")
		}
		return strings.EqualFold(cmd, "INFO")
	})
	path := install(t, func(m map[string]any) {
		m["replicas"], m["shared_store"] = 2, map[string]any{"url": "redis://" + store.Addr(), "prefix": "test"}
		m["limits"] = map[string]any{"per_second": 0.001, "burst": 10}
		delete(m, "archive")
		delete(m, "journal") // each replica has its own, and here is one config
	})
	// A world of which the TPM is known.
	w := tpmtest.NewWorld(t)
	dir := filepath.Dir(path)
	ca, err := keyfile.ReadCert(filepath.Join(dir, "keys", akCACertFile))
	if err != nil {
		t.Fatal(err)
	}
	w.Policy.TPM.AKRoots = [][]byte{ca.Raw}
	policy, err := json.Marshal(w.Policy)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"policy.json": policy, "manifest.json": w.Envelope(t)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var replicas []*client.Client
	for range 2 {
		srv := httptest.NewServer(started(t, path))
		t.Cleanup(srv.Close)
		replicas = append(replicas, dial(t, srv.URL))
	}
	m := w.TPM
	rsp, err := replicas[0].Enroll(t.Context(), &tpm.EnrollRequest{EKChain: m.EKChain, EKPublic: m.EKPublic, AKPublic: m.AKPublic})
	if err != nil {
		t.Fatal(err)
	}
	credential, err := m.Activate(rsp.CredentialBlob, rsp.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replicas[1].Activate(t.Context(), &tpm.ActivateRequest{Session: rsp.Session, Credential: credential}); err != nil {
		t.Fatal(err)
	}
	answered := 2
	for i := range 20 {
		if _, err := replicas[i%2].Challenge(t.Context()); err == nil {
			answered++
		}
	}
	if answered != 10 {
		t.Errorf("%d requests were answered, want 10", answered)
	}
}
