package server_test

import (
	"context"
	"crypto/ed25519"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// book is a log that keeps which manifests it was given.
type book struct {
	refusing
	mu        sync.Mutex
	manifests []digest.SHA256
}

func (b *book) Manifest(_ context.Context, m digest.SHA256) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.manifests = append(b.manifests, m)
	return nil
}

func (b *book) has(ms ...digest.SHA256) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Equal(b.manifests, ms)
}

func (*book) Key() log.Key                                          { return log.Key{} }
func (*book) Read(context.Context, string) ([]byte, error)          { return nil, fs.ErrNotExist }
func (*book) Prove(context.Context, *server.Logged) ([]byte, error) { return nil, nil }

// TestOnlyAcceptedManifestsAreInTheLog starts with a manifest of which no proof
// shows what the policy wants: the service's own log is of what it accepts.
func TestOnlyAcceptedManifestsAreInTheLog(t *testing.T) {
	w := tpmtest.NewWorld(t)
	k, err := log.NewKey("log.example/cocoon", make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	p := *w.Policy
	p.Manifests.Log = &policy.Log{Keys: []log.Key{k}}
	refused, err := appraise.OpenManifests(&p, []manifest.Published{{Envelope: w.Envelope(t)}})
	if err != nil {
		t.Fatal(err)
	}
	accepted := *refused[0]
	accepted.Logged = &manifest.Logged{Log: k}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &book{}
	trust := server.Trust{Policy: &p, Manifests: refused, Signer: key}
	s, err := server.New(server.Options{Trust: trust, Journal: b, Clock: func() time.Time { return tpmtest.Now }})
	if err != nil {
		t.Fatal(err)
	}
	if !b.has() {
		t.Errorf("a manifest that is refused is in the log: %v", b.manifests)
	}
	trust.Manifests = []*manifest.Verified{&accepted}
	if err := s.Reload(trust); err != nil || !b.has(accepted.SHA256) {
		t.Errorf("once there is a proof the log has %v, %v", b.manifests, err)
	}
}
