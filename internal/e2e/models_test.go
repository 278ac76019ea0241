package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/internal/imagetest"
	"cocoon/internal/jcs"
	"cocoon/internal/toolstree"
	"cocoon/measurements/modelpack"
	"cocoon/verifier/evidence"
)

// withSecondModel adds another revision of the repository's model, from a pack
// of its own, to a worker's documents.
func withSecondModel(t *testing.T, s *spec.Spec) {
	t.Helper()
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "chat2")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile(filepath.Join(root, "image/models/chat.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "second.gguf"), weights, 0o644); err != nil {
		t.Fatal(err)
	}
	pack := filepath.Join(t.TempDir(), "second.pack")
	d, err := modelpack.Make(t.Context(), dir, pack, modelpack.Options{Name: "chat2", Revision: "2"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := evidence.ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	c.Models = []evidence.ConfigModel{{Name: d.Name, Verity: evidence.Verity(d.Verity)}}
	if b, err = jcs.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Config, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Packs.Models = []string{pack}
}

// TestTwoModelsInOneMachine boots a machine with two packs: each is opened by
// its own root and answered for by an engine of its own, which has answered
// when the stage has passed.
func TestTwoModelsInOneMachine(t *testing.T) {
	b := imagetest.Find(t)
	_, c := daemon(t, hostd(t), t.TempDir(), b)
	s := worker(t, b)
	s.MemoryMiB = 1536
	withSecondModel(t, s)
	st, err := c.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	killAll(t, st)
	// One engine comes up after the other.
	st, con, err := awaitFor(t, c, s, "engine", 2*engineLimit)
	if err != nil {
		t.Fatalf("%v\n%s", err, con)
	}
	if st.Phase != machine.Running {
		t.Errorf("phase %s", st.Phase)
	}
	// Each engine reported that its model was read.
	if n := strings.Count(con, "cocoon: loaded model"); n != 2 {
		t.Errorf("%d models were loaded:\n%s", n, con)
	}
	if _, err := c.Stop(t.Context(), s.Name, true); err != nil {
		t.Error(err)
	}
}

// TestSwappedModelPacksAreRefused: each disk has to be the pack of its place.
func TestSwappedModelPacksAreRefused(t *testing.T) {
	b := imagetest.Find(t)
	_, c := daemon(t, hostd(t), t.TempDir(), b)
	s := worker(t, b)
	withSecondModel(t, s)
	s.Packs.Model, s.Packs.Models[0] = s.Packs.Models[0], s.Packs.Model
	st, con, err := boot(t, c, s, "model")
	if err == nil {
		t.Fatal("swapped packs were taken")
	}
	var faults []string
	for _, g := range st.Guest.Stages {
		for _, f := range g.Faults {
			faults = append(faults, g.Name+" "+f.Code)
		}
	}
	if got, _ := json.Marshal(faults); string(got) != `["model pack.root_differs","model pack.root_differs"]` {
		t.Errorf("swapped packs: %s\n%s", got, con)
	}
	if _, err := c.Stop(t.Context(), s.Name, true); err != nil {
		t.Error(err)
	}
}
