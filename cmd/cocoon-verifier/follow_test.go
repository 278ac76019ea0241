package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/registrysource"
	"cocoon/internal/syncbuf"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/testfleet"
)

// register stands for a registry on a ledger: what it lists changes while a
// service runs.
type register struct {
	mu  sync.Mutex
	now appraise.Registry
}

func (r *register) state(context.Context) (*appraise.Registry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.now
	out.Time, out.Manifests = time.Now(), map[digest.SHA256]appraise.ManifestState{}
	for m, s := range r.now.Manifests {
		out.Manifests[m] = s
	}
	return &out, nil
}

func (r *register) list(m digest.SHA256) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Manifests[m] = appraise.ManifestState{Listed: true}
}

// underRegistry starts a service whose policy names a registry, with the
// manifest of other machines than the fleet's, and verifiers to fetch what the
// registry lists. The policy names the log with the key, if there is one.
func underRegistry(t *testing.T, f *fleet, r *register, logKeys []log.Key, out *syncbuf.Buffer, urls ...string) *service {
	t.Helper()
	other, err := testfleet.New("others")
	if err != nil {
		t.Fatal(err)
	}
	env, err := other.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	dir := installFleet(t, f, func(m map[string]any) { m["ledger"] = map[string]any{"config": "network.json"} })
	p := f.Policy(policy.ClassTDX, policy.ClassTest)
	p.Manifests.Registry = &policy.Registry{Address: r.now.Address, NetworkID: r.now.NetworkID, MaxAgeSeconds: 3600}
	if len(logKeys) > 0 {
		p.Manifests.Log = &policy.Log{Keys: logKeys}
	}
	doc, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	zero := base64.StdEncoding.EncodeToString(make([]byte, ed25519.PublicKeySize))
	block := fmt.Sprintf(`{"workchain":-1,"shard":-9223372036854775808,"seqno":0,"root_hash":%[1]q,"file_hash":%[1]q}`, zero)
	network := fmt.Sprintf(`{"liteservers":[{"ip":2130706433,"port":1,"id":{"@type":"pub.ed25519","key":%q}}],"validator":{"zero_state":%s,"init_block":%s}}`, zero, block, block)
	for name, b := range map[string][]byte{testfleet.FilePolicy: doc, testfleet.FileManifest: env, "network.json": []byte(network)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := newService(filepath.Join(dir, "config.yaml"), slog.New(slog.NewTextHandler(out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var from []registrysource.Fetcher
	for _, u := range urls {
		from = append(from, dial(t, u))
	}
	// From here on the ledger is the register.
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded.trust.Registry = r.state
	s.loaded.listed = registrysource.NewCollection(p, []manifest.Published{{Envelope: env}}, from)
	if err := s.server.Reload(s.loaded.trust); err != nil {
		t.Fatal(err)
	}
	return s
}

// registerFor is a registry that lists the models of a fleet's machines and no
// manifest. The verifier at the URL has a challenge for them.
func registerFor(t *testing.T, f *fleet, url string) *register {
	t.Helper()
	doc, err := f.live(t.Context(), dial(t, url))
	if err != nil {
		t.Fatal(err)
	}
	ev, err := evidence.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	r := &register{now: appraise.Registry{Address: "0:" + strings.Repeat("0", 64), NetworkID: -3,
		Manifests: map[digest.SHA256]appraise.ManifestState{}, Models: map[digest.SHA256]bool{}}}
	for _, m := range ev.Config.ServedModels() {
		r.now.Models[m.Verity.Root] = true
	}
	return r
}

// TestAManifestThatIsListedLaterIsTakenIn has a registry list the manifest of
// machines that a running service did not know. Another verifier has it.
func TestAManifestThatIsListedLaterIsTakenIn(t *testing.T) {
	f := newFleet(t)
	source := httptest.NewServer(started(t, filepath.Join(installFleet(t, f, nil), "config.yaml")))
	defer source.Close()
	r := registerFor(t, f, source.URL)
	var says syncbuf.Buffer
	s := underRegistry(t, f, r, nil, &says, source.URL)
	srv := httptest.NewServer(s)
	defer srv.Close()
	c := dial(t, srv.URL)
	verdict := func() error {
		doc, err := f.live(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.VerifyBytes(t.Context(), doc)
		return err
	}
	tick, ctx := make(chan time.Time), t.Context()
	go s.follow(ctx, tick)
	look := func() { // until it is over
		for range 2 {
			tick <- time.Time{}
		}
	}
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Read(env, nil)
	if err != nil {
		t.Fatal(err)
	}
	look()
	if err := verdict(); !fault.Has(err, "manifest.registry") {
		t.Errorf("before it is listed: %v", err)
	}
	r.list(m.SHA256)
	if err := verdict(); err == nil {
		t.Error("accepted by a manifest that is not here")
	}
	look()
	if err := verdict(); err != nil {
		t.Errorf("after it was taken in: %v", err)
	}
	loggedManifest(t, srv.URL, m.SHA256)
	// One that nobody has is said, and hinders nothing.
	r.list(digest.Sum256([]byte("nobody's")))
	look()
	if err := verdict(); err != nil {
		t.Errorf("beside one that nobody has: %v", err)
	}
	if !strings.Contains(says.String(), "is not here yet") {
		t.Errorf("the service says nothing of it: %s", says.String())
	}
}

// loggedManifest waits until the log of the service at an address has a manifest.
func loggedManifest(t *testing.T, url string, m digest.SHA256) {
	t.Helper()
	info, err := dial(t, url).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k, err := log.ParseKey(info.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		l, err := tiles.OpenURL(t.Context(), url, k, http.DefaultClient)
		if err == nil {
			if _, err = l.ProveInclusion(t.Context(), m); err == nil {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the log does not have the manifest: %v", err)
		}
	}
}
