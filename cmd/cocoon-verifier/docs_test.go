package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"cocoon/internal/needtool"
)

// TestCurlExamplesOfThePage runs every curl command of the page against the
// example's service, and what looks into an answer.
func TestCurlExamplesOfThePage(t *testing.T) {
	needtool.Find(t, "curl")
	needtool.Find(t, "jq")
	page, err := os.ReadFile(filepath.Join(exampleDir(t), "..", "docs", "verifier-api.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := installFleet(t, newFleet(t), nil)
	p := startProcess(t, dir, "--config", "config.yaml")
	f := newFleet(t)
	doc, err := f.live(t.Context(), dial(t, p.url))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "evidence.json"), doc, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "attest.json"), f.attestation(t, p.url), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		looks := strings.HasPrefix(m[1], "jq ")
		if !looks && !strings.Contains(m[1], "curl ") {
			continue
		}
		n++
		script := strings.ReplaceAll(m[1], "http://127.0.0.1:8443", p.url)
		cmd := exec.CommandContext(t.Context(), "sh", "-euc", script)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v\n%s", m[1], err, out)
			continue
		}
		if looks {
			if hash, _, _ := strings.Cut(string(out), " "); hash == "" || hash != checksHash(t, filepath.Join(dir, "answer.json")) {
				t.Errorf("%s: %s is not what the token names", m[1], out)
			}
			continue
		}
		if strings.Contains(m[1], "/Appraise") {
			if err := os.WriteFile(filepath.Join(dir, "answer.json"), out, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		dec := json.NewDecoder(strings.NewReader(string(out)))
		for dec.More() {
			var answer map[string]any
			if err := dec.Decode(&answer); err != nil {
				t.Errorf("%s: %v\n%s", m[1], err, out)
				break
			}
			if answer["code"] != nil || answer["accepted"] == false {
				t.Errorf("%s: %.2000s", m[1], out)
			}
		}
	}
	if n < 5 {
		t.Errorf("the page has %d blocks with curl", n)
	}
	p.stop(t, syscall.SIGTERM)
}

// checksHash returns what the token of an answer says of the checks beside it.
func checksHash(t *testing.T, answer string) string {
	t.Helper()
	b, err := os.ReadFile(answer)
	if err != nil {
		t.Fatal(err)
	}
	var a struct{ Ear string }
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(a.Ear, ".")
	if len(parts) != 3 {
		t.Fatalf("the answer's token has %d parts", len(parts))
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Checks string `json:"cocoon_checks_sha256"`
	}
	if err := json.Unmarshal(body, &claims); err != nil {
		t.Fatal(err)
	}
	return claims.Checks
}

// TestEverySectionOfThePageIsRead puts each piece of a config that the page
// shows into a config that is whole.
func TestEverySectionOfThePageIsRead(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(exampleDir(t), "..", "docs", "verifier-api.md"))
	if err != nil {
		t.Fatal(err)
	}
	pieces := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(pieces) < 2 {
		t.Errorf("the page has %d pieces", len(pieces))
	}
	for _, m := range pieces {
		text := "listen: 127.0.0.1:0\npolicy: p\nmanifests: [m]\n" + m[1]
		if !strings.Contains(m[1], "signing_keys") {
			text += "signing_key: k\n"
		}
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readConfig(path); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
	}
}
