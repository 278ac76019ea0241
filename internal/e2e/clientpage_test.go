package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cocoon/internal/heldport"
	"cocoon/internal/syncbuf"
	"cocoon/internal/toolstree"
)

// pageProxy is where the page has the proxy.
const pageProxy = "127.0.0.1:10000"

var (
	pageBlockRE = regexp.MustCompile("(?s)```sh\n(.*?)```")
	pageWordRE  = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
)

// clientsCommands returns the commands of docs/clients.md that need a worker and
// no ledger.
func clientsCommands(t *testing.T) [][]string {
	t.Helper()
	root, err := toolstree.RepoRoot()
	must(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs", "clients.md"))
	must(t, err)
	var all [][]string
	for _, block := range pageBlockRE.FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " # ")
			ofWorker := strings.HasPrefix(line, "cocoon proxy ") || strings.HasPrefix(line, "cocoon chat ") ||
				strings.Contains(line, pageProxy)
			if !ofWorker || strings.Contains(line, "--ton-config") || strings.Contains(line, "verdict_cell") {
				continue
			}
			var words []string
			for _, w := range pageWordRE.FindAllString(line, -1) {
				words = append(words, strings.Trim(w, `"'`))
				if q := w[0]; q == '\'' {
					words[len(words)-1] = w[1 : len(w)-1] // JSON within
				}
			}
			all = append(all, words)
		}
	}
	return all
}

// clientsPage runs them, in the page's order, each proxy until the next.
func (o *owner) clientsPage(t *testing.T, gw, receiptKey string) {
	t.Helper()
	port, err := heldport.Hold("127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = port.Release() })
	must(t, os.Rename(o.path("policy.json"), o.path("verifier-policy.json")))
	must(t, os.Rename(o.path("client-policy.json"), o.path("policy.json"))) // as the page calls the client's
	stop := func() {}
	defer func() { stop() }()
	ran := map[string]int{}
	for _, words := range clientsCommands(t) {
		ran[words[0]]++
		for i, w := range words {
			w = strings.ReplaceAll(w, pageProxy, port.Addr.String())
			words[i] = strings.ReplaceAll(w, "gateway.example:8443", gw)
		}
		if words[0] == "cocoon" && words[1] == "proxy" {
			stop()
			stop = o.proxy(t, append(words[1:], "--listen", port.Addr.String()))
			continue
		}
		out := o.pageCommand(t, words)
		line := strings.Join(words, " ")
		switch {
		case strings.HasSuffix(line, "/v1/models"):
			var list struct{ Data []struct{ ID string } }
			if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Data) != 1 || list.Data[0].ID != "chat" {
				t.Errorf("%s printed %s, %v", line, out, err)
			}
		case strings.Contains(line, "/cocoon/worker"):
			if strings.HasSuffix(line, " worker.json") {
				b, err := os.ReadFile(o.path("worker.json"))
				must(t, err)
				out = string(b)
			}
			if !strings.Contains(out, receiptKey) {
				t.Errorf("%s does not name the worker %s: %s", line, receiptKey, out)
			}
		case strings.Contains(line, "/chat/completions"):
			if !strings.Contains(out, `"delta"`) || !strings.HasSuffix(strings.TrimSpace(out), "data: [DONE]") {
				t.Errorf("%s streamed %s", line, out)
			}
		case words[0] == "cocoon":
			if strings.TrimSpace(out) == "" {
				t.Errorf("%s printed nothing", line)
			}
		}
	}
	for program, least := range map[string]int{"cocoon": 3, "curl": 4} {
		if ran[program] < least {
			t.Errorf("the page has %d commands of %s that need a worker", ran[program], program)
		}
	}
}

// pageCommand runs one command in the owner's directory.
func (o *owner) pageCommand(t *testing.T, words []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), engineLimit)
	defer cancel()
	program := words[0]
	if program == "cocoon" {
		program = o.program
	}
	cmd := exec.CommandContext(ctx, program, words[1:]...)
	cmd.Dir = o.dir
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

// proxy starts a client's proxy, waits until it listens, and returns what ends it.
func (o *owner) proxy(t *testing.T, args []string) (stop func()) {
	t.Helper()
	var said syncbuf.Buffer
	cmd := exec.Command(o.program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.dir, &said, &said
	must(t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for !strings.Contains(said.String(), "OpenAI endpoint at") {
		select {
		case err := <-exited:
			t.Fatalf("the proxy ended with %v\n%s", err, &said)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := <-exited; err != nil {
			t.Errorf("the proxy ended with %v\n%s", err, &said)
		}
	}
}
