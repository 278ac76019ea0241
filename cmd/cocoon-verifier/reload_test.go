package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cocoon/enclave/seal"
	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/verifier/wire"
)

// until reads the log until a line has a text.
func (p *process) until(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := p.log.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("the log ends without %q: %v", text, err)
		}
	}
}

// TestReloadsDropNoRequest reloads twenty times under load, every time with
// another signing key, and once with a config that is wrong.
func TestReloadsDropNoRequest(t *testing.T) {
	f := newFleet(t)
	var cfg map[string]any
	dir := installFleet(t, f, func(m map[string]any) {
		cfg = m
		m["limits"].(map[string]any)["concurrent"] = 4 // more than ask: nobody waits for a place
	})
	p := startProcess(t, dir, "--config", "config.yaml")
	c := dial(t, p.url)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var given atomic.Int64
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				doc, err := f.live(t.Context(), c)
				if err == nil {
					_, err = c.VerifyBytes(t.Context(), doc)
				}
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
				given.Add(1)
			}
		})
	}
	keys := map[string]bool{}
	for i := range 20 {
		if i == 10 {
			good := cfg["policy"]
			cfg["policy"] = "absent.json"
			writeConfig(t, dir, cfg)
			if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			p.until(t, "reload failed, everything is as before")
			cfg["policy"] = good
		}
		cfg["signing_key"] = filepath.Join("keys", string(rune('a'+i))+".key")
		writeConfig(t, dir, cfg)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.until(t, "msg=reloaded")
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		keys[info.Keys[0].KeyID] = true
	}
	cancel()
	wg.Wait()
	if len(keys) != 20 || given.Load() == 0 {
		t.Errorf("%d keys in 20 reloads, %d verdicts", len(keys), given.Load())
	}
	resp, err := http.Get(p.url + wire.PathMetrics)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`cocoon_verifier_reloads_total{outcome="ok"} 20`, `cocoon_verifier_reloads_total{outcome="failed"} 1`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	p.stop(t, syscall.SIGTERM)
}

func TestWhatAReloadChangesAndWhatItDoesNot(t *testing.T) {
	var cfg map[string]any
	path := install(t, func(m map[string]any) { cfg = m })
	dir := filepath.Dir(path)
	s := started(t, path)
	change := func(key string, v any) error {
		t.Helper()
		old, had := cfg[key]
		cfg[key] = v
		b, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err = s.reload()
		if err != nil {
			if cfg[key] = old; !had {
				delete(cfg, key)
			}
		}
		return err
	}
	enroller := s.loaded.trust.Enroller
	for key, v := range map[string]any{"listen": "127.0.0.1:1", "archive": "elsewhere", "limits": map[string]any{"burst": 7},
		"journal":  map[string]any{"dir": "j", "origin": "o.example/v", "key": "keys/journal.key"},
		"replicas": 2, "policy": "absent.json", "manifests": []string{"policy.json"}, "signing_key": "absent", "nonsense": true} {
		before := s.loaded
		if err := change(key, v); !fault.Has(err, "verifier.reload") || s.loaded != before {
			t.Errorf("changing %s: %v", key, err)
		}
	}
	if err := change("signing_keys", []any{map[string]any{"file": "keys/verifier.key"}}); err == nil {
		t.Error("two ways to name keys were taken")
	}
	// A rotation: the next key beside the old one, which goes on signing.
	if err := run(t.Context(), []string{"keygen", "--dir", filepath.Join(dir, "keys"), "--next", "2049-01-01T00:00:00Z"}, &bytes.Buffer{}, os.Stderr); err != nil {
		t.Fatal(err)
	}
	delete(cfg, "signing_key")
	if err := change("signing_keys", []any{map[string]any{"file": "keys/verifier.key"},
		map[string]any{"file": "keys/verifier-20490101T000000Z.key", "not_before": "2049-01-01T00:00:00Z"}}); err != nil {
		t.Fatal(err)
	}
	if len(s.loaded.trust.Signers) != 2 || s.loaded.trust.Enroller != enroller {
		t.Errorf("%d keys; the enrolments under way are gone: %v", len(s.loaded.trust.Signers), s.loaded.trust.Enroller != enroller)
	}
	// What a reload would do is what --check says.
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--config", path, "--check"}, &out, io.Discard); err != nil || out.String() != "ok\n" {
		t.Errorf("--check: %q, %v", out.String(), err)
	}
	if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"--config", path, "--check"}, &out, io.Discard); !fault.Has(err, "verifier.manifest") {
		t.Errorf("--check without a manifest: %v", err)
	}
}

// tpmLike is a sealer that releases what it sealed while its state is the same.
// It stands for a TPM, which package enclave/tpmdev tests with a real one.
type tpmLike struct{ state byte }

func (s *tpmLike) Name() string { return "test" }

func (s *tpmLike) Seal(key []byte) ([]byte, error) { return append([]byte{s.state}, key...), nil }

func (s *tpmLike) Unseal(blob []byte) ([]byte, error) {
	if len(blob) == 0 || blob[0] != s.state {
		return nil, seal.Refused(io.ErrUnexpectedEOF)
	}
	return blob[1:], nil
}

func TestASealedKeySignsAfterTheSameBootAlone(t *testing.T) {
	dir := t.TempDir()
	dev := &tpmLike{state: 1}
	opens := 0
	s := &keystore{sealer: func(string) (seal.Sealer, io.Closer, error) {
		opens++
		return dev, closer(func() error { opens--; return nil }), nil
	}}
	var out bytes.Buffer
	if err := sealKey(s, &Sealed{File: filepath.Join(dir, "verifier.sealed")}, &out); err != nil {
		t.Fatal(err)
	}
	if err := sealKey(s, &Sealed{File: filepath.Join(dir, "verifier.sealed")}, &out); err == nil {
		t.Error("a sealed key was replaced")
	}
	c := &Config{Signing: []SigningKey{{Sealed: &Sealed{File: "verifier.sealed"}}}, dir: dir}
	keys, closers, err := s.open(c)
	if err != nil || len(keys) != 1 || len(closers) != 0 {
		t.Fatalf("%v, %v", keys, err)
	}
	public := keys[0].Public().(ed25519.PublicKey)
	if got := strings.TrimSpace(out.String()); !strings.HasPrefix(got, hex.EncodeToString(public)) {
		t.Errorf("keygen printed %s", got)
	}
	dev.state = 2
	if _, _, err := s.open(c); !fault.Has(err, "verifier.signing_key") || !errors.Is(err, seal.ErrRefused) {
		t.Errorf("after another boot: %v", err)
	}
	if opens != 0 {
		t.Errorf("%d devices are still open", opens)
	}
	if err := os.WriteFile(filepath.Join(dir, "verifier.sealed"), []byte{2, 1}, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.open(c); !fault.Has(err, "verifier.signing_key") {
		t.Errorf("what is no key: %v", err)
	}
}

func TestTheNextKeyHasATimeInItsName(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	for _, bad := range []string{"tomorrow", "2020-01-01T00:00:00Z"} {
		if err := run(t.Context(), []string{"keygen", "--dir", dir, "--next", bad}, &out, io.Discard); !fault.Has(err, "verifier.keygen") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	at := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	if err := run(t.Context(), []string{"keygen", "--dir", dir, "--next", at.Format(time.RFC3339)}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	key, err := keyfile.ReadEd25519(filepath.Join(dir, "verifier-"+at.Format("20060102T150405Z")+".key"))
	if err != nil || strings.TrimSpace(out.String()) != hex.EncodeToString(key.Public().(ed25519.PublicKey)) {
		t.Errorf("printed %s, %v", out.String(), err)
	}
}
