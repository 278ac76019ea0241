package engine

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/imagetest"
	"cocoon/internal/toolstree"
)

// TestTheRealLlamaServerIsWhatItsAdapterSays runs the engine of build/packs on
// the repository's model, by the adapter's command line, and asks it what the
// supervisor asks.
func TestTheRealLlamaServerIsWhatItsAdapterSays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("entering the pack's root needs root")
	}
	build := imagetest.Find(t)
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	pack := filepath.Join(build.Packs, "engine.img")
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	if out, err := build.Tools.Command(t.Context(), "fsck.erofs", "--extract="+rootfs, pack).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	model, err := os.ReadFile(filepath.Join(root, "image/models/chat.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "models/chat.gguf"), model, 0o600); err != nil {
		t.Fatal(err)
	}
	adapter := llama(t)
	source, err := adapter.Source(os.DirFS(filepath.Join(rootfs, "models")))
	if err != nil {
		t.Fatal(err)
	}
	argv, err := adapter.Argv(config("--ctx-size", "512"), source)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = []string{"HOME=/tmp"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: rootfs, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	api := NewAPI(adapter, unixDial(filepath.Join(rootfs, socketDir, SocketName)))
	ctx, cancel := context.WithTimeout(t.Context(), adapter.Deadline())
	defer cancel()
	for {
		if err = adapter.Ready(ctx, api, "m"); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it was not ready: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := adapter.Alive(ctx, api); err != nil {
		t.Error(err)
	}
	m, err := adapter.Metrics(ctx, api)
	if err != nil || m.Prompt < 1 || m.Generated < 1 || m.KV != -1 {
		t.Errorf("after one answer its figures are %+v, %v", m, err)
	}
	// What it read of a client's prompt serves no other's.
	for _, tc := range []struct {
		private string
		reuses  bool
	}{{`"n_probs":0`, true}, {adapter.Private(), false}} {
		var read [2]int
		for i := range read {
			b, err := api.do(ctx, "POST", "/v1/completions", []byte(`{`+tc.private+`,"model":"m","prompt":"`+strings.Repeat("once upon a time ", 8)+`","max_tokens":1}`))
			if err != nil {
				t.Fatal(err)
			}
			var answer struct {
				Timings struct {
					Prompt int `json:"prompt_n"` // tokens that were computed
				} `json:"timings"`
			}
			if err := json.Unmarshal(b, &answer); err != nil {
				t.Fatal(err)
			}
			read[i] = answer.Timings.Prompt
		}
		if read[1] == 0 || tc.reuses != (read[1] < read[0]) {
			t.Errorf("with %s it read %d tokens of a prompt, then %d of the same", tc.private, read[0], read[1])
		}
	}
}
