package server_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"cocoon/verifier/evidence"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// TestTheServiceShowsItsOwnEvidence replaces the file as a supervisor does.
func TestTheServiceShowsItsOwnEvidence(t *testing.T) {
	w := tpmtest.NewWorld(t)
	path := filepath.Join(t.TempDir(), "evidence.json")
	s := start(t, w, func(o *server.Options) { o.Own = server.EvidenceFile(path) })
	shown := func() *evidence.Evidence {
		t.Helper()
		info, err := s.client.Info(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if info.Evidence == nil {
			return nil
		}
		ev, err := evidence.Parse(info.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	if shown() != nil {
		t.Error("there is evidence without a file")
	}
	for _, config := range []string{"one", "another-longer"} {
		w.Config.Model.Name = config
		ev := w.Evidence(t)
		b, err := ev.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := evidence.Parse(b); err != nil {
			t.Fatal(err)
		}
		write(b)
		if got := shown(); got == nil || got.Config.Model.Name != config {
			t.Errorf("the service shows %+v", got)
		}
	}
	write([]byte(`{"profile":"x"}`))
	if shown() != nil {
		t.Error("it shows what is no evidence")
	}
}
