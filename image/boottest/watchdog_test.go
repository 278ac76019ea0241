package boottest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/image/cpio"
	"cocoon/image/info"
	"cocoon/internal/kmod"
)

// TestAStalledSupervisorIsReset boots the image's kernel and modules with a
// process 1 that starts the watchdog and gets nowhere.
func TestAStalledSupervisorIsReset(t *testing.T) {
	m, _ := setup(t)
	init := filepath.Join(m.dir, "stall")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", init, "./testdata/stall")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building process 1: %v\n%s", err, out)
	}
	replaceInit(t, filepath.Join(m.dir, info.Initrd), init)
	console := m.boot(t, "Rebooting")
	for _, want := range []string{"stall: the watchdog runs", "Kernel panic - not syncing: Software Watchdog Timer expired"} {
		if !strings.Contains(console, want) {
			t.Errorf("console lacks %q:\n%s", want, console)
		}
	}
}

// replaceInit writes an initrd of this program and of the root file system's
// modules.
func replaceInit(t *testing.T, initrd, program string) {
	t.Helper()
	init, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	a := cpio.New()
	for _, err := range []error{a.Dir("dev", 0o755), a.Char("dev/console", 0o600, 5, 1), a.Dir("modules", 0o700), a.File("init", 0o755, init)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	modules, err := filepath.Glob(filepath.Join(rootFiles(t), kmod.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range modules {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.File("modules/"+filepath.Base(name), 0o400, data); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if _, err := a.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	// The kernel takes an archive that is not compressed, too.
	if err := os.WriteFile(initrd, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
