package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/hostd/client"
	"cocoon/hostd/spec"
	"cocoon/internal/imagetest"
	"cocoon/internal/jcs"
	"cocoon/internal/toolstree"
	"cocoon/verifier/evidence"
)

const hostdPage = "../../docs/hostd.md"

// buildHostd builds the daemon's program once.
var buildHostd = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cocoon-hostd-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "cocoon-hostd")
	return out, exec.Command("go", "build", "-o", out, "cocoon/cmd/cocoon-hostd").Run()
})

// TestVMScripts runs the stories of "cocoon vm" against a real daemon. Those
// that boot need the built image.
func TestVMScripts(t *testing.T) {
	tools := imagetest.Tools(t)
	program, err := buildHostd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(program)) })
	testscript.Run(t, testscript.Params{
		Dir: "testdata/vm",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOSTD", program)
			env.Setenv(toolstree.EnvDir, tools.Dir)
			// Short: a socket's path has at most 107 bytes.
			dir, err := os.MkdirTemp("", "vm-")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Setenv("STATE", dir)
			env.Setenv("COCOON_HOSTD", filepath.Join(dir, "hostd.sock"))
			page, err := filepath.Abs(hostdPage)
			if err != nil {
				return err
			}
			env.Setenv("PAGE", page)
			if err := setupFetch(env); err != nil {
				return err
			}
			return linkBuild(env.WorkDir)
		},
		Condition: func(cond string) (bool, error) {
			if cond != "image" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			root, err := toolstree.RepoRoot()
			if err != nil {
				return false, err
			}
			_, err = os.Stat(filepath.Join(root, "build", "image", "image.json"))
			return err == nil || os.Getenv(imagetest.EnvRequired) == "1", nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": cmdExits, "page": cmdPage, "answers": cmdAnswers},
	})
}

// linkBuild gives a script the built image and the guest's documents.
func linkBuild(dir string) error {
	root, err := toolstree.RepoRoot()
	if err != nil {
		return err
	}
	if err := os.Symlink(filepath.Join(root, "build"), filepath.Join(dir, "build")); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(root, "build", "packs", "packs.json"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var packs struct {
		Packs []struct {
			Name   string          `json:"name"`
			Verity evidence.Verity `json:"verity"`
		} `json:"packs"`
	}
	if err := json.Unmarshal(b, &packs); err != nil {
		return err
	}
	verity := map[string]evidence.Verity{}
	for _, p := range packs.Packs {
		verity[p.Name] = p.Verity
	}
	cfg := evidence.Config{Version: 1, Role: evidence.RoleWorker, Model: evidence.ConfigModel{Name: "chat", Verity: verity["model"]},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Verity: verity["engine"], Args: []string{}}, GPUs: evidence.ConfigGPUs{Mode: evidence.GPUModeNone}}
	for name, v := range map[string]any{"config.json": cfg, "global.config.json": map[string]any{},
		"operator.json": evidence.Operator{Version: 1, Verifier: "http://10.0.2.100:443", Gateways: []string{}}} {
		doc, err := jcs.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), doc, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// cmdAnswers waits until the daemon answers: "answers".
func cmdAnswers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: answers")
	}
	c := client.New(ts.Getenv("COCOON_HOSTD"))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		_, err := c.Status(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			ts.Fatalf("the daemon does not answer: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// cmdPage writes the documents of docs/hostd.md into the script's directory
// ("page files"), or runs the commands of its sh blocks in order ("page run").
func cmdPage(ts *testscript.TestScript, neg bool, args []string) {
	b, err := os.ReadFile(ts.Getenv("PAGE"))
	ts.Check(err)
	if neg || len(args) != 1 {
		ts.Fatalf("usage: page files|run")
	}
	switch args[0] {
	case "files":
		for _, m := range regexp.MustCompile("(?s)```json (\\S+)\n(.*?)```").FindAllStringSubmatch(string(b), -1) {
			ts.Check(os.WriteFile(ts.MkAbs(m[1]), []byte(m[2]), 0o600))
		}
	case "run":
		n := 0
		for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(b), -1) {
			for _, line := range strings.Split(strings.TrimSpace(m[1]), "\n") {
				f := strings.Fields(line)
				ts.Logf("> %s", line)
				ts.Check(ts.Exec(f[0], f[1:]...))
				n++
			}
		}
		if n == 0 {
			ts.Fatalf("the page has no commands")
		}
	default:
		ts.Fatalf("usage: page files|run")
	}
}

func TestHostdPageNamesEveryFieldOfASpec(t *testing.T) {
	page, err := os.ReadFile(hostdPage)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```json vm.json\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("the page has no spec")
	}
	if _, err := spec.Parse(m[1]); err != nil {
		t.Errorf("the page's spec is refused: %v", err)
	}
	b, err := json.Marshal(spec.Spec{FwCfg: map[string]string{"a": "b"}, Forwards: []spec.Forward{{}}, Firmware: "x", TPMCA: "x", StopGrace: 1})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for f := range fields {
		if f != "version" && !strings.Contains(string(page), "`"+f+"`") {
			t.Errorf("the page does not explain %q", f)
		}
	}
}
