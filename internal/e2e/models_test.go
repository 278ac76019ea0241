package e2e

import (
	"encoding/json"
	"errors"
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

// TestTwoModelsAreProvenEach boots a machine of two models, the second one from an
// encrypted pack whose owner has a service of its own. A client of either gets
// evidence and a verdict that name its model, and an answer.
func TestTwoModelsAreProvenEach(t *testing.T) {
	b := imagetest.Find(t)
	o := newOwner(t, b, "ours")
	o.beside = true
	s := worker(t, b)
	s.MemoryMiB = 1536
	dir := t.TempDir()
	gw := o.services(t, s, dir)

	var con syncbuf.Buffer
	m := startIn(t, dir, b, b.Tools, s, &con, nil, vsock.User)
	untilFor(t, m, &con, "engine", 2*engineLimit)
	until(t, m, &con, "serve")
	var keys []string
	for _, model := range []string{"chat", "ours"} {
		var answer struct{ Answer, Model string }
		var worker struct {
			ReceiptKey string `json:"receipt_key"`
		}
		out := o.cocoon(t, "chat", "--gateway", gw, "--policy", o.path("client-policy.json"), "--manifest", o.path("manifest.json"), "--model", model, "--max-tokens", "8", "--json", "Hello")
		if err := errors.Join(json.Unmarshal(out, &answer), json.Unmarshal(out, &worker)); err != nil || answer.Model != model || strings.TrimSpace(answer.Answer) == "" {
			t.Errorf("the answer of %s is %s, %v", model, out, err)
		}
		keys = append(keys, worker.ReceiptKey)
	}
	if keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("receipt keys %v of one machine", keys)
	}
	o.checkRelease(t, keys[1])
	if n := strings.Count(con.String(), "cocoon: verdict "); n != 2 {
		t.Errorf("%d verdicts:\n%s", n, &con)
	}
	m.Stop(t.Context(), engineLimit)
}
