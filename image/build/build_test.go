package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/image/debs"
	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

// TestMain lets the test binary stand in for the builder that the sandbox
// re-executes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandboxVerb {
		if err := enterSandbox(os.Args[2:]); err != nil {
			fault.Print(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// realTree returns a builder on the real tools tree, as root.
func realTree(t *testing.T) *builder {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, as building does")
	}
	tree, err := toolstree.Find()
	if err != nil {
		t.Skipf("make deps has not run: %v", err)
	}
	return &builder{out: t.TempDir(), deps: filepath.Dir(tree.Dir)}
}

func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTheSandboxShowsTheTreeAndLeavesNothingMounted(t *testing.T) {
	b := realTree(t)
	before := mounts(t)
	shown := t.TempDir()
	if err := os.WriteFile(filepath.Join(shown, "in"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `set -e
test "$(cat /build/in)" = hello; echo out >/build/out
test ! -e /build-host; grep -q trixie /etc/os-release
! touch /usr/x 2>/dev/null; ! touch /src/x 2>/dev/null
touch /tmp/x; kill -0 1; test "$(ls -d /proc/[0-9]* | wc -l)" -lt 9; echo fine`
	cmd := b.sandbox(context.Background(), []bind{{from: shown, to: "/build"}, {from: shown, to: "/src", readOnly: true}}, "/bin/sh", "-c", script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil || !strings.Contains(out.String(), "fine") {
		t.Fatalf("error %v, output:\n%s", err, &out)
	}
	if data, err := os.ReadFile(filepath.Join(shown, "out")); err != nil || string(data) != "out\n" {
		t.Errorf("what the sandbox wrote is %q, error %v", data, err)
	}
	if after := mounts(t); after != before {
		t.Errorf("the mount table changed:\n%s\nwas:\n%s", after, before)
	}
}

func TestTheSandboxReportsFailure(t *testing.T) {
	b := realTree(t)
	if err := b.sandbox(context.Background(), nil, "/bin/sh", "-c", "exit 3").Run(); err == nil {
		t.Error("a failed command was reported as done")
	}
}

func TestTheSandboxIsOnlyForTheBuilder(t *testing.T) {
	for _, args := range [][]string{nil, {"/tree"}, {"/tree", "--"}, {"/tree", "bad", "--", "x"}, {"/", "--", "/bin/true"}} {
		if err := enterSandbox(args); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

func TestCleanRefusesToRemoveWhatIsMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	root := t.TempDir()
	b := &builder{root: root, out: filepath.Join(root, "build")}
	dir := filepath.Join(b.out, "x")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	err := b.clean(context.Background())
	if uerr := unix.Unmount(dir, 0); uerr != nil {
		t.Fatal(uerr)
	}
	if !fault.Has(err, "build.mounted") {
		t.Errorf("got %v", err)
	}
	if err := b.clean(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.out); !os.IsNotExist(err) {
		t.Errorf("build directory is still there: %v", err)
	}
}

func TestWithoutRootOneLineSaysWhatToDo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not here")
	}
	bin := filepath.Join(t.TempDir(), "build")
	dir := filepath.Dir(bin)
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "tools.lock"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", bin, "image")
	cmd.Dir = dir
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != fault.ExitNotReady || !strings.Contains(string(out), "sudo make image") {
		t.Errorf("exit code %d, output:\n%s", code, out)
	}
}

func TestForeignListsOnlyWhatIsNotFromTheRelease(t *testing.T) {
	u := used{
		Tools:  []debs.Deb{{Name: "qemu", Source: debs.FromPin, Arch: "amd64"}, {Name: "bash", Source: debs.FromRelease}, {Name: "dash", Source: debs.FromLock}, {Name: "sed", Source: debs.FromNewer}},
		Engine: []debs.Deb{{Name: "llama", Source: debs.FromFallback, Arch: "amd64"}},
	}
	got := u.foreign()
	if len(got) != 2 || got[0].Name != "qemu" || got[1].Name != "llama" {
		t.Errorf("got %+v", got)
	}
}

func TestAFullDiskIsSaidBeforeAnythingStarts(t *testing.T) {
	if err := requireSpace(t.TempDir(), 1<<62); !fault.Has(err, "build.disk_space") {
		t.Errorf("got %v", err)
	}
	if err := requireSpace(t.TempDir(), 1); err != nil {
		t.Error(err)
	}
}
