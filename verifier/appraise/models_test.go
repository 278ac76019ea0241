package appraise_test

import (
	"testing"

	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// TestEachOfSeveralModelsMayBeClaimed: the verdict is then for that one.
func TestEachOfSeveralModelsMayBeClaimed(t *testing.T) {
	w := tpmtest.NewWorld(t)
	more := evidence.ConfigModel{Name: "more", Verity: evidence.Verity{Root: d("more"), DataBlocks: 1}}
	w.Manifest.Models = append(w.Manifest.Models, manifest.Model{Name: more.Name, VerityRoot: more.Verity.Root})
	w.Config.Models = []evidence.ConfigModel{more}
	for _, m := range w.Config.ServedModels() {
		ev := w.Evidence(t)
		ev.Claims.Model = evidence.Model{Name: m.Name, VerityRoot: m.Verity.Root}
		w.Requote(t, ev)
		r := resulttest.Complete(t, appraise.Appraise(ev, options(t, w)))
		if !r.Accepted || r.Claims.Model.Name != m.Name {
			t.Errorf("%s: accepted %v, %v", m.Name, r.Accepted, r.Err())
		}
	}
}
