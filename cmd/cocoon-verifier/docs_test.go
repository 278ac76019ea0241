package main

import (
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
// example's service.
func TestCurlExamplesOfThePage(t *testing.T) {
	needtool.Find(t, "curl")
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
		if !strings.Contains(m[1], "curl ") {
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
