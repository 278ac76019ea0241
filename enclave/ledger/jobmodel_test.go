package ledger

import (
	"testing"

	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/enclave/serve"
	"cocoon/internal/fault"
)

// TestAJobPaysForItsModelAlone: of a worker of two, by the price and with the
// root of that one, whichever is asked for first.
func TestAJobPaysForItsModelAlone(t *testing.T) {
	for _, c := range []struct {
		own, other, root string
		price            uint64
	}{{"m", "n", "model", priceCap}, {"n", "m", "other model", 3}} {
		w := newWorld(t, func(w *world, _ *Options) { w.state.Terms.ModelRoot = job.Hash(sum(c.root)) })
		open := func(model string) error {
			a, err := w.Open(t.Context(), w.addr.String(), model, most)
			if err == nil {
				a.Cancel()
			}
			return err
		}
		for range 2 { // before there is a book, and after
			if err := open(c.other); !fault.Has(err, CodeModel) {
				t.Errorf("a job for %s opened for %s: %v", c.own, c.other, err)
			}
			if err := open("x"); !fault.Has(err, CodeModel) {
				t.Errorf("a job for %s opened for a model that is not there: %v", c.own, err)
			}
			if err := open(c.own); err != nil {
				t.Fatal(err)
			}
		}
		a, err := w.Open(t.Context(), w.addr.String(), c.own, most)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Issue(serve.Delivery{Request: sum("q"), Response: sum("r"), Usage: serve.Usage{Prompt: 1, Completion: 1}}); err != nil {
			t.Fatal(err)
		}
		_, b := w.book(w.addr)
		if r := b.Receipt().Receipt; r.ModelRoot != receipt.Hash(sum(c.root)) || r.Price.Max() != c.price {
			t.Errorf("the receipt of a job for %s: %+v", c.own, r)
		}
	}
}
