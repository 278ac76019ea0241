package client

import (
	"bytes"
	"cmp"
	"net/http"
	"testing"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls"
	"cocoon/verifier/evidence"
)

// ofModel returns the world's evidence as that of another model.
func (w *world) ofModel(name string) []byte {
	other := *w.ev
	root := digest.Sum256([]byte(name))
	other.Config.Models = []evidence.ConfigModel{{Name: name, Verity: evidence.Verity{Root: root, DataBlocks: 1}}}
	other.Claims.Model = evidence.Model{Name: name, VerityRoot: root}
	doc, err := other.Marshal()
	if err != nil {
		w.t.Fatal(err)
	}
	return doc
}

// TestAClientGetsTheEvidenceOfItsModel of a worker of two, and with it the
// verdict that releases a job for it.
func TestAClientGetsTheEvidenceOfItsModel(t *testing.T) {
	w := newWorld(t, func(w *world) { w.further = map[string][]byte{"n": w.ofModel("n")} })
	for model, want := range map[string]struct {
		doc  []byte
		cell string
	}{"": {w.doc, "cell"}, "m": {w.doc, "cell"}, "n": {w.further["n"], "cell of n"}} {
		appraised := ""
		c := w.client(Options{Model: model, Appraise: func(ev *evidence.Evidence, _ digest.SHA256) error {
			appraised += ev.Claims.Model.Name
			return nil
		}})
		p, err := c.Connect(t.Context())
		if err != nil {
			t.Fatalf("%q: %v", model, err)
		}
		if !bytes.Equal(p.Document, want.doc) || p.VerdictCell != want.cell {
			t.Errorf("%q: evidence of %s, cell %q", model, p.Evidence.Claims.Model.Name, p.VerdictCell)
		}
		// The certificate's evidence, the first model's, is not held against the
		// policy of who asks for another, which may not want that one.
		if want := cmp.Or(model, "m"); appraised != want {
			t.Errorf("%q: appraised is evidence of %q, want %q", model, appraised, want)
		}
	}
	if _, err := w.client(Options{Model: "x"}).Connect(t.Context()); !fault.Has(err, codeNoWorker) {
		t.Errorf("a model that no worker lists: %v", err)
	}
	if _, err := w.client(Options{Model: "x", Worker: w.key}).Connect(t.Context()); !fault.Has(err, ratls.CodeModel) {
		t.Errorf("a model that the worker does not serve: %v", err)
	}
}

// TestEvidenceOfAnotherModelIsRefused: also from a worker that does not look at
// what was asked for.
func TestEvidenceOfAnotherModelIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.client(Options{Model: "n", Worker: w.key}).Connect(t.Context()); !fault.Has(err, ratls.CodeModel) {
		t.Errorf("got %v", err)
	}
}

// TestNothingIsSentToAWorkerWhoseModelIsRefused, though its certificate was let
// pass: its evidence for the model that was asked for is what counts.
func TestNothingIsSentToAWorkerWhoseModelIsRefused(t *testing.T) {
	w := newWorld(t, func(w *world) { w.further = map[string][]byte{"n": w.ofModel("n")} })
	refusal := fault.New(fault.ExitPolicy, "policy.rule.ours", "", "refused")
	w.mux.HandleFunc("/v1/models", func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	c := w.client(Options{Model: "n", Worker: w.key, Appraise: func(*evidence.Evidence, digest.SHA256) error { return refusal }})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://enclave/v1/models", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Transport().RoundTrip(req); !fault.Has(err, "policy.rule.ours") {
		t.Errorf("got %v", err)
	}
}

// TestACertificateForOtherKeysIsRefused whatever its model is.
func TestACertificateForOtherKeysIsRefused(t *testing.T) {
	w := newWorld(t, func(w *world) { w.ev.Claims.TLSSPKISHA256 = digest.Sum256([]byte("another")) })
	if _, err := w.client(Options{Model: "n", Worker: w.key}).Connect(t.Context()); !fault.Has(err, codeTLSKey) {
		t.Errorf("got %v", err)
	}
}
