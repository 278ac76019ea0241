package toolstree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/fault"
)

// fakeTree makes a tree with one program.
func fakeTree(t *testing.T) Tree {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"usr/bin/qemu-system-x86_64": 0o755, "usr/bin/data": 0o644, StampFile: 0o644} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := At(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestAnIncompleteTreeIsNotReady(t *testing.T) {
	_, err := At(t.TempDir())
	if !fault.Has(err, "tools.missing") || fault.ExitCode(err) != fault.ExitNotReady {
		t.Errorf("got %v", err)
	}
}

func TestFindGoesByTheEnvironmentFirst(t *testing.T) {
	tree := fakeTree(t)
	t.Setenv(EnvDir, tree.Dir)
	got, err := Find()
	if err != nil || got.Dir != tree.Dir {
		t.Errorf("got %q, error %v", got.Dir, err)
	}
}

func TestCommandRunsThroughTheTreesOwnLoader(t *testing.T) {
	tree := fakeTree(t)
	cmd := tree.Command(context.Background(), "qemu-system-x86_64", "-version")
	if cmd.Err != nil {
		t.Fatal(cmd.Err)
	}
	args := strings.Join(cmd.Args, " ")
	for _, want := range []string{tree.Dir + "/usr/lib64/ld-linux-x86-64.so.2 --inhibit-cache --library-path ", " --argv0 qemu-system-x86_64 " + tree.Dir + "/usr/bin/qemu-system-x86_64 -L ", " -version"} {
		if !strings.Contains(args, want) {
			t.Errorf("command %q lacks %q", args, want)
		}
	}
	env := strings.Join(cmd.Env, "\n")
	if !strings.Contains(env, "QEMU_MODULE_DIR="+tree.Dir) || !strings.Contains(env, "PATH="+tree.WrapperDir()+":") {
		t.Errorf("environment lacks the tree's own: %s", env)
	}
}

func TestCommandRefusesWhatTheTreeDoesNotHold(t *testing.T) {
	tree := fakeTree(t)
	for _, name := range []string{"absent", "data", "../bin/qemu-system-x86_64", ""} {
		cmd := tree.Command(context.Background(), name)
		if err := cmd.Run(); !errors.Is(err, ErrNoProgram) || !fault.Has(err, "tools.program") {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

// The real tools must start on this host, whatever its C library is.
func TestTheRealToolsStart(t *testing.T) {
	tree, err := Find()
	if err != nil {
		t.Skipf("make deps has not run: %v", err)
	}
	for name, want := range map[string]string{
		"qemu-system-x86_64": "QEMU emulator version", "swtpm": "TPM emulator version",
		"mkfs.erofs": "erofs-utils", "veritysetup": "veritysetup", "certtool": "certtool",
	} {
		out, err := tree.Command(context.Background(), name, "--version").CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: error %v, output %q", name, err, out)
		}
	}
	if st, err := os.Stat(tree.OVMF()); err != nil || st.Size() == 0 {
		t.Errorf("firmware: %v", err)
	}
}
