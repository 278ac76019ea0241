package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/testfleet"
)

// fleet are machines that the example's verifier accepts now.
type fleet struct {
	*testfleet.Fleet
	machine *testfleet.Machine
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Machine(testfleet.TDX, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{f, m}
}

// installFleet makes a directory with the example's documents and a config that
// accepts the fleet; the config is JSON, to be changed by tests.
func installFleet(t *testing.T, f *fleet, change func(map[string]any)) string {
	t.Helper()
	dir := t.TempDir()
	files, err := f.Files()
	if err != nil {
		t.Fatal(err)
	}
	p := f.Policy(policy.ClassTDX, policy.ClassTest)
	if files[testfleet.FilePolicy], err = json.Marshal(p); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := map[string]any{
		"listen": "127.0.0.1:0", "policy": testfleet.FilePolicy, "manifests": []string{testfleet.FileManifest}, "make_keys": true,
		"signing_key": "keys/verifier.key", "journal": map[string]any{"dir": "journal", "origin": "localhost/verifier", "key": "keys/journal.key"},
		"test_roots": map[string]any{"intel": testfleet.FileIntel, "amd": testfleet.FileAMD, "nvidia": testfleet.FileNVIDIA, "nvidia_rim": testfleet.FileRIM},
		"limits":     map[string]any{"per_second": 1e6, "burst": 1000000},
	}
	if change != nil {
		change(cfg)
	}
	writeConfig(t, dir, cfg)
	return dir
}

func writeConfig(t *testing.T, dir string, cfg map[string]any) {
	t.Helper()
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// live has a machine's evidence for a new challenge.
func (f *fleet) live(ctx context.Context, c *client.Client) ([]byte, error) {
	ch, err := c.Challenge(ctx)
	if err != nil {
		return nil, err
	}
	return f.machine.Evidence(ch.Challenge)
}

// attestation is a request for /attest/TdxVm that answers a new challenge.
func (f *fleet) attestation(t *testing.T, url string) []byte {
	t.Helper()
	c, err := verifierv1connect.NewVerifierServiceClient(http.DefaultClient, url).Challenge(t.Context(),
		connect.NewRequest(&verifierv1.ChallengeRequest{Purpose: verifierv1.Purpose_PURPOSE_ATTEST_TDX}))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := f.machine.Evidence(digest.Sum256(nil))
	if err != nil {
		t.Fatal(err)
	}
	ev, err := evidence.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	data := []byte(`{"nonce":"` + c.Msg.Challenge + `"}`)
	quote, err := f.machine.Quote(func(body []byte) {
		report, sum := body[520:584], sha256.Sum256(data)
		clear(report)
		copy(report, sum[:])
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"quote": base64.RawURLEncoding.EncodeToString(quote), "collateral": ev.Collateral,
		"runtimeData": map[string]string{"data": base64.RawURLEncoding.EncodeToString(data), "dataType": "JSON"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hash is the evidence's, as in its verdict.
func hash(t *testing.T, doc []byte) (out [32]byte) {
	t.Helper()
	ev, err := evidence.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ev.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func dial(t *testing.T, url string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{BaseURL: url, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fetch returns what a document's address answers with.
func fetch(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status %d, %v", url, resp.StatusCode, err)
	}
	return b
}
