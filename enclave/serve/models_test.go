package serve

import (
	"net/http"
	"strings"
	"testing"

	"cocoon/internal/fault"
)

// TestARequestGoesToTheEngineOfItsModel and to no other, and the list has all.
func TestARequestGoesToTheEngineOfItsModel(t *testing.T) {
	other := &engine{}
	w := start(t, func(_ *world, o *Options) { o.Further = []Model{{"n", other}} })
	first := w.engine.(*engine)
	if rsp, body := w.do(t, "POST", PathChat, strings.Replace(chat, `"m"`, `"n"`, 1)); rsp.StatusCode != 200 || body != whole {
		t.Fatalf("got %s %s", rsp.Status, body)
	}
	if first.last != nil || other.last == nil || !strings.Contains(string(other.body), `"model":"n"`) {
		t.Errorf("the first engine got %s, the other one %s", first.body, other.body)
	}
	other.last = nil
	if rsp, body := w.do(t, "POST", PathChat, stream); rsp.StatusCode != 200 {
		t.Fatalf("got %s %s", rsp.Status, body)
	}
	if first.last == nil || other.last != nil {
		t.Errorf("a request for the first model went to the other engine")
	}
	rsp, body := w.do(t, "GET", pathModels, "")
	if m, n := strings.Index(body, `"id":"m"`), strings.Index(body, `"id":"n"`); rsp.StatusCode != 200 || m < 0 || n < m {
		t.Errorf("the list is %s", body)
	}
	rsp, body = w.do(t, "POST", PathChat, strings.Replace(chat, `"m"`, `"x"`, 1))
	if rsp.StatusCode != 404 || !strings.Contains(body, codeModel) || !strings.Contains(body, "m") {
		t.Errorf("a model that is not there: %s %s", rsp.Status, body)
	}
}

func TestModelsThatCannotBeServedTogether(t *testing.T) {
	for name, o := range map[string]Options{
		"a name twice": {Further: []Model{{"m", &engine{}}}},
		"no name":      {Further: []Model{{"", &engine{}}}},
		"no engine":    {Further: []Model{{"n", nil}}},
	} {
		o.Model, o.Engine, o.Attestation, o.Gate, o.Meter = "m", &engine{}, http.NotFoundHandler(), func() error { return nil }, &counts{}
		if _, err := New(o); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}

// TestTheLedgerIsAskedForTheModelThatAnswers: the job has to be for that one.
func TestTheLedgerIsAskedForTheModelThatAnswers(t *testing.T) {
	w := start(t, func(w *world, o *Options) {
		o.Further = []Model{{"n", &engine{}}}
		w.ledger = &ledger{}
	})
	for _, model := range []string{"n", "m"} {
		if rsp, body := w.do(t, "POST", PathChat, strings.Replace(chat, `"m"`, `"`+model+`"`, 1), HeaderJob, "job"); rsp.StatusCode != 200 {
			t.Fatalf("%s: %s %s", model, rsp.Status, body)
		}
	}
	if got := strings.Join(w.ledger.models, " "); got != "n m" {
		t.Errorf("the ledger was asked for %s", got)
	}
	w.ledger.refuse = fault.Mismatch(fault.ExitRefused, "job.wrong_model", "the job's model", "m", "n", "open another job")
	if rsp, body := w.do(t, "POST", PathChat, chat, HeaderJob, "job"); rsp.StatusCode != http.StatusPaymentRequired || code(t, body) != "job.wrong_model" {
		t.Errorf("a job for another model: %s %s", rsp.Status, body)
	}
}
