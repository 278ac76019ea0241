package worker

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"cocoon/enclave/datadisk"
	"cocoon/enclave/fwcfg"
	"cocoon/internal/fault"
)

func TestBootsAreCountedOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	for want := 1; want <= 3; want++ {
		if got, err := countBoot(dir); err != nil || got != want {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	for _, text := range []string{"", "x", "0", "-1", "1 2"} {
		if err := os.WriteFile(filepath.Join(dir, "boots"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := countBoot(dir); err == nil {
			t.Errorf("%q counts as %d", text, got)
		}
	}
}

func TestATicketIsTheHostsToBring(t *testing.T) {
	const name = fwcfg.Ticket + "/raw"
	if b, err := readTicket(fstest.MapFS{}); b != nil || err != nil {
		t.Errorf("none: %q, %v", b, err)
	}
	if b, err := readTicket(fstest.MapFS{name: {Data: []byte("{}")}}); string(b) != "{}" || err != nil {
		t.Errorf("one: %q, %v", b, err)
	}
	if _, err := readTicket(fstest.MapFS{name: {Data: make([]byte, datadisk.MaxTicket+1)}}); !fault.Has(err, "config.parse") {
		t.Errorf("one without end: %v", err)
	}
}
