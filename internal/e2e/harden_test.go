package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/hostd/client"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/internal/imagetest"
)

// engineLimit is the time for a boot up to a running engine on a busy machine
// without acceleration; a quiet one takes a tenth.
const engineLimit = 240 * time.Second

// boot starts the machine and waits for a stage of the guest.
func boot(t *testing.T, c *client.Client, s *spec.Spec, stage string) (*machine.State, string, error) {
	t.Helper()
	st, err := c.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	killAll(t, st)
	return await(t, c, s, stage)
}

// await waits for a stage of the guest.
func await(t *testing.T, c *client.Client, s *spec.Spec, stage string) (*machine.State, string, error) {
	t.Helper()
	return awaitFor(t, c, s, stage, engineLimit)
}

func awaitFor(t *testing.T, c *client.Client, s *spec.Spec, stage string, limit time.Duration) (*machine.State, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	st, err := c.Wait(ctx, s.Name, stage, func(g machine.Stage) {
		t.Logf("%6.1fs %s %s %d ms", float64(g.HostMS)/1000, g.Name, g.Status, g.MS)
	})
	var con bytes.Buffer
	if cerr := c.Console(t.Context(), s.Name, &con, false); cerr != nil {
		t.Errorf("reading the console: %v", cerr)
	}
	return st, con.String(), err
}

// withCmdline returns an image directory with another command line.
func withCmdline(t *testing.T, image string, change func(string) string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{spec.KernelFile, spec.InitrdFile, spec.RootFile} {
		if err := os.Symlink(filepath.Join(image, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(image, spec.CmdlineFile))
	if err != nil {
		t.Fatal(err)
	}
	changed := change(string(b))
	if changed == string(b) {
		t.Fatal("the command line was not changed")
	}
	if err := os.WriteFile(filepath.Join(dir, spec.CmdlineFile), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The verifier refuses such a machine for its PCR 9; this is the guest's own
// half: it does not go on.
func TestAMachineBootedWithoutLockdownStopsItself(t *testing.T) {
	b := imagetest.Find(t)
	_, c := daemon(t, hostd(t), t.TempDir(), b)
	s := worker(t, b)
	s.Image = withCmdline(t, b.Image, func(line string) string {
		line = strings.Replace(line, " lockdown=confidentiality", "", 1)
		return strings.Replace(line, " module.sig_enforce=1", "", 1)
	})
	st, con, err := boot(t, c, s, "containerd")
	if err == nil {
		t.Fatalf("it went on:\n%s", con)
	}
	codes := map[string]bool{}
	for _, g := range st.Guest.Stages {
		for _, f := range g.Faults {
			codes[g.Name+" "+f.Code] = true
		}
	}
	if !codes["latch harden.lockdown"] || !codes["latch harden.modules"] {
		t.Errorf("faults are %v\n%s", codes, con)
	}
}
