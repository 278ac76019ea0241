package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/toolstree"
	"cocoon/verifier/client"
	"cocoon/verifier/testfleet"
)

var update = flag.Bool("update", false, "write the documents beside examples/verifier.yaml again")

// exampleDocuments returns what lies beside the example's config.
func exampleDocuments(t *testing.T) map[string][]byte {
	t.Helper()
	fleet, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	out, err := fleet.Files()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// authorities returns names and keys of certificates in PEM.
func authorities(t *testing.T, b []byte) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out[c.Subject.String()] = sha256.Sum256(c.RawSubjectPublicKeyInfo)
	}
	return out
}

func exampleDir(t *testing.T) string {
	t.Helper()
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "examples")
}

func TestTheExamplesDocumentsAreUpToDate(t *testing.T) {
	for name, want := range exampleDocuments(t) {
		path := filepath.Join(exampleDir(t), name)
		if *update {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, want, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if name == testfleet.FileAMD { // its signatures have salts
			if diff := cmp.Diff(authorities(t, want), authorities(t, got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			continue
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: run go test ./cmd/cocoon-verifier -update (-want +got):\n%s", name, diff)
		}
	}
}

// process is the program, running.
type process struct {
	cmd *exec.Cmd
	url string
	log *bufio.Reader // what it writes after the address
}

var buildOnce = struct {
	dir  string
	done bool
}{}

// program builds cocoon-verifier once for all tests of this package.
func program(t *testing.T) string {
	t.Helper()
	if !buildOnce.done {
		dir, err := os.MkdirTemp("", "cocoon-verifier-test")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "cocoon/cmd/cocoon-verifier").CombinedOutput(); err != nil {
			t.Fatalf("building: %v\n%s", err, out)
		}
		buildOnce.dir, buildOnce.done = dir, true
	}
	return filepath.Join(buildOnce.dir, "cocoon-verifier")
}

func TestMain(m *testing.M) {
	code := m.Run()
	if buildOnce.dir != "" {
		_ = os.RemoveAll(buildOnce.dir)
	}
	os.Exit(code)
}

var addressRE = regexp.MustCompile(`msg="verifier ready".* url=(\S+)`)

// startProcess runs the program in a directory until its log has the address.
func startProcess(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), program(t), args...)}
	p.cmd.Dir = dir
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.log = bufio.NewReader(stderr)
	var lines strings.Builder
	for {
		line, err := p.log.ReadString('\n')
		lines.WriteString(line)
		if m := addressRE.FindStringSubmatch(line); m != nil {
			p.url = m[1]
			return p
		}
		if err != nil {
			t.Fatalf("the service did not start: %v\n%s", p.cmd.Wait(), lines.String())
		}
	}
}

// stop ends the program by a signal and returns the rest of its log.
func (p *process) stop(t *testing.T, sig os.Signal) string {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(p.log)
	if err != nil {
		t.Error(err)
	}
	if err := p.cmd.Wait(); err != nil && sig == syscall.SIGTERM {
		t.Errorf("the service ended with %v\n%s", err, rest)
	}
	return string(rest)
}

// TestTheExampleStarts runs the example's command in what a fresh clone has of
// it, twice: the second start has the keys of the first.
func TestTheExampleStarts(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS(exampleDir(t))); err != nil {
		t.Fatal(err)
	}
	var keys [2]string
	for i := range keys {
		p := startProcess(t, dir, "--config", "examples/verifier.yaml")
		if !strings.HasPrefix(p.url, "http://127.0.0.1:") {
			t.Errorf("it listens on %s", p.url)
		}
		c, err := client.New(client.Options{BaseURL: p.url})
		if err != nil {
			t.Fatal(err)
		}
		info, err := c.Info(context.Background())
		if err != nil || len(info.Keys) != 1 || len(info.Policies) != 1 || info.Policies[0].Name != "example" {
			t.Fatalf("%+v, %v", info, err)
		}
		keys[i] = info.Keys[0].KeyID
		if _, err := c.Challenge(context.Background()); err != nil {
			t.Error(err)
		}
		if list, err := c.Manifests(context.Background()); err != nil || len(list) != 1 {
			t.Errorf("%v, %v", list, err)
		}
		p.stop(t, syscall.SIGTERM)
	}
	if keys[0] != keys[1] {
		t.Error("the second start made another key")
	}
	st, err := os.Stat(filepath.Join(dir, "build", "verifier", "verifier.key"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", st, err)
	}
	if _, err := exec.CommandContext(t.Context(), program(t), "fsck", filepath.Join(dir, "build", "verifier", "journal")).Output(); err != nil {
		t.Errorf("the journal: %v", err)
	}
}

// TestTheDocumentedConfigIsRead reads the config that the page shows, and
// starts from it but for the ledger, which needs a network.
func TestTheDocumentedConfigIsRead(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(exampleDir(t), "..", "docs", "verifier-api.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml verifier.yaml\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("the page shows no verifier.yaml")
	}
	path := filepath.Join(filepath.Dir(install(t, nil)), "verifier.yaml")
	if err := os.WriteFile(path, m[1], 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := readConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Ledger == nil || cfg.Limits.ArchiveBytes != 8<<30 || cfg.Journal.Origin != "verifier.example/verdicts" {
		t.Errorf("%+v", cfg)
	}
	without := regexp.MustCompile("(?m)^ledger:.*\n").ReplaceAll(m[1], nil)
	if err := os.WriteFile(path, without, 0o600); err != nil {
		t.Fatal(err)
	}
	started(t, path)
}
