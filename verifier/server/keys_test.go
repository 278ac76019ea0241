package server_test

import (
	"context"
	"crypto/ed25519"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/verifier/jwks"
	"cocoon/verifier/result"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func id(k ed25519.PrivateKey) string { return result.KeyID(k.Public().(ed25519.PublicKey)) }

// keys returns what the service says of its keys, and its key set.
func (s *service) keys(t *testing.T) (map[string]string, []ed25519.PublicKey) {
	t.Helper()
	info, err := s.client.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, k := range info.Keys {
		states[k.KeyID] = k.State
	}
	resp, err := http.Get(s.http.URL + wire.PathJWKS)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	set, err := jwks.Parse(b)
	if err != nil || len(set) != len(states) {
		t.Fatalf("the key set has %d keys of %d: %v", len(set), len(states), err)
	}
	return states, set
}

// TestKeysFollowOneAnother goes through a rotation: verdicts are signed by the
// current key, and verify under the published ones as long as they are good.
func TestKeysFollowOneAnother(t *testing.T) {
	old, next, last := newKey(t), newKey(t), newKey(t)
	begin := tpmtest.Now.Add(30 * time.Minute)
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) {
		o.Signer, o.Signers = nil, []server.SigningKey{
			{Signer: last, NotBefore: begin.Add(100 * time.Hour)}, {Signer: old}, {Signer: next, NotBefore: begin, RetireAt: begin.Add(3 * time.Hour)},
		}
	})
	verdict := func(signer ed25519.PrivateKey) string {
		t.Helper()
		ev := s.w.Evidence(t, s.challenge(t))
		v, err := s.client.Verify(context.Background(), ev)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)}, Now: s.clock(), AllowDevelopment: true}); err != nil {
			t.Errorf("the verdict is not the current key's: %v", err)
		}
		return v.EAR
	}
	first := verdict(old)
	states, _ := s.keys(t)
	if diff := cmp.Diff(map[string]string{id(old): wire.KeyCurrent, id(next): wire.KeyNext, id(last): wire.KeyNext}, states); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	s.advance(30 * time.Minute)
	second := verdict(next)
	states, set := s.keys(t)
	if diff := cmp.Diff(map[string]string{id(old): wire.KeyRetiring, id(next): wire.KeyCurrent, id(last): wire.KeyNext}, states); diff != "" {
		t.Errorf("after (-want +got):\n%s", diff)
	}
	for _, token := range []string{first, second} {
		if _, err := result.VerifyEAR(token, result.EAROptions{Keys: set, Now: s.clock(), AllowDevelopment: true}); err != nil {
			t.Errorf("under the published keys: %v", err)
		}
	}
	s.advance(61 * time.Minute)
	if states, _ = s.keys(t); states[id(old)] != "" {
		t.Errorf("a key whose verdicts have expired is %s", states[id(old)])
	}
	// The next one retires before the last begins: nothing is signed, and said so.
	s.advance(2 * time.Hour)
	if _, err := s.client.Verify(context.Background(), s.w.Evidence(t, s.challenge(t))); !fault.Has(err, "verifier.signing_key") {
		t.Errorf("without a key in force: %v", err)
	}
	resp, err := http.Get(s.http.URL + wire.PathReady)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a key in force it is ready: status %d", resp.StatusCode)
	}
}

func TestListsOfKeysThatAreNone(t *testing.T) {
	w := tpmtest.NewWorld(t)
	k := newKey(t)
	at := func(h int) time.Time { return tpmtest.Now.Add(time.Duration(h) * time.Hour) }
	for name, c := range map[string]struct {
		one  ed25519.PrivateKey
		many []server.SigningKey
	}{
		"none":                      {},
		"one and a list":            {k, []server.SigningKey{{Signer: newKey(t)}}},
		"a key twice":               {nil, []server.SigningKey{{Signer: k}, {Signer: k, NotBefore: at(1)}}},
		"two at the same time":      {nil, []server.SigningKey{{Signer: k}, {Signer: newKey(t)}}},
		"one that ends first":       {nil, []server.SigningKey{{Signer: k, NotBefore: at(-1), RetireAt: at(-2)}}},
		"none yet":                  {nil, []server.SigningKey{{Signer: k, NotBefore: at(1)}}},
		"none any more":             {nil, []server.SigningKey{{Signer: k, RetireAt: at(-1)}}},
		"a public key of RSA":       {nil, []server.SigningKey{{Signer: w.AKCA.Key}}},
		"more than anybody rotates": {nil, make([]server.SigningKey, 17)},
	} {
		o := server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signers: c.many}, Clock: func() time.Time { return tpmtest.Now }}
		if c.one != nil {
			o.Signer = c.one
		}
		if _, err := server.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestClockJumpsUseNoChallengeTwice moves the wall clock while the process's
// age goes on.
func TestClockJumpsUseNoChallengeTwice(t *testing.T) {
	w := tpmtest.NewWorld(t)
	s := start(t, w, func(o *server.Options) {
		began := time.Now()
		o.Age = func() time.Duration { return time.Since(began) }
	})
	ev := w.Evidence(t, s.challenge(t))
	if _, err := s.client.Verify(context.Background(), ev); err != nil {
		t.Fatal(err)
	}
	open := s.challenge(t)
	for _, jump := range []time.Duration{10 * time.Minute, -10 * time.Minute, 300 * 24 * time.Hour, -301 * 24 * time.Hour, 24 * time.Hour} {
		s.advance(jump)
		if _, err := s.client.Verify(context.Background(), ev); !fault.Has(err, "nonce.challenge") {
			t.Errorf("after a jump of %s the same evidence got %v", jump, err)
		}
	}
	// A jump costs nobody his challenge, either.
	if _, err := s.client.Verify(context.Background(), w.Evidence(t, open)); err != nil {
		t.Errorf("a challenge of before the jumps: %v", err)
	}
}
