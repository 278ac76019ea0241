package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/vsock"
	"cocoon/internal/imagetest"
	"cocoon/internal/jcs"
	"cocoon/internal/syncbuf"
	"cocoon/verifier/evidence"
)

// TestVsockAndADataDiskThatOutlivesABoot boots one machine with a data disk
// again and again, and with the user-space vsock device instead of a network
// device. The disk is made at the first boot, found at the second, kept from a
// boot with another config, whose PCR 15 differs, and refused once the host has
// changed what is on it. The first boot goes on to the verifier, over vsock.
func TestVsockAndADataDiskThatOutlivesABoot(t *testing.T) {
	b := imagetest.Find(t)
	s := worker(t, b)
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "data.img")
	s.DataDisk = &spec.DataDisk{Path: path, SizeMiB: 64}
	asked := verifier(t, s)
	var lines lineCount
	boot := func() (*machine.Machine, *syncbuf.Buffer) {
		var con syncbuf.Buffer
		return startIn(t, dir, b, b.Tools, s, &con, lines.see, vsock.User), &con
	}
	fails := func(code string) {
		t.Helper()
		m, con := boot()
		<-m.Done()
		st := m.State()
		last := st.Guest.Stages[len(st.Guest.Stages)-1]
		if last.Name != "data" || last.Status != "failed" || len(last.Faults) == 0 || last.Faults[0].Code != code {
			t.Errorf("last stage %+v, want data to fail with %s\n%s", last, code, con)
		}
	}
	for i, want := range []string{"formatted=true boot=1", "formatted=false boot=2"} {
		m, con := boot()
		until(t, m, con, "data")
		if !strings.Contains(con.String(), want) {
			t.Fatalf("boot %d: no %q\n%s", i, want, con)
		}
		if i == 0 {
			talk(t, m, con, asked)
		}
		m.Stop(t.Context(), engineLimit)
		if i == 0 {
			lastWords(t, m, &lines)
		}
		if st := m.State(); st.Reason != "stopped" {
			t.Errorf("boot %d did not shut down by itself: %s\n%s", i, st.Reason, con)
		}
		if strings.Contains(con.String(), "not closed") {
			t.Errorf("boot %d left the disk open:\n%s", i, con)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("lost+found")) {
		t.Error("the host can read the file system")
	}
	if len(raw) != 64<<20 {
		t.Errorf("the disk has %d bytes", len(raw))
	}

	doc, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := evidence.ParseConfig(doc)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Model.Name = "other"
	changed, err := jcs.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Config, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	fails("seal.key_not_released")
	if err := os.WriteFile(s.Config, doc, 0o600); err != nil {
		t.Fatal(err)
	}

	// One bit in every encrypted block: whichever the file system reads first
	// fails to authenticate.
	for at := 3 << 20; at < len(raw); at += 4096 {
		raw[at] ^= 1
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	fails("data.mount")
}
