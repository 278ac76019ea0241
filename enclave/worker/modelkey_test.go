package worker

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"testing"

	"cocoon/enclave/keys"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls/modelkey"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
)

// TestOnlyAnEncryptedModelHasItsKeyAskedFor, and evidence is ready for that: the
// enrolment comes first, and once.
func TestOnlyAnEncryptedModelHasItsKeyAskedFor(t *testing.T) {
	w := newWorker()
	w.config = &evidence.Config{}
	if s := w.modelKeyStages(); len(s) != 0 {
		t.Errorf("stages of a plain model: %v", s)
	}
	if s := w.enrolStages(); len(s) != 1 || s[0].Name != "enrol" {
		t.Errorf("stages of the enrolment: %v", s)
	}
	w.config.Model.KeySHA256 = &digest.SHA256{1}
	s := w.modelKeyStages()
	if len(s) != 2 || s[0].Name != "enrol" || s[1].Name != "model-key" || s[1].Timeout != modelKeyFor {
		t.Fatalf("stages of an encrypted model: %v", s)
	}
	w.verifier = new(client.Client) // as the stage leaves it
	if s := w.enrolStages(); len(s) != 0 {
		t.Errorf("the enrolment is done twice: %v", s)
	}
}

// TestAModelKeyThatIsNotReleasedEndsTheBoot with what the owner's service says.
func TestAModelKeyThatIsNotReleasedEndsTheBoot(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusForbidden)
		_, _ = rw.Write([]byte(`{"type":"x","title":"x","status":403,"code":"policy.class","faults":[{"code":"policy.class","message":"no","remedy":"be another","exit":4}]}`))
	}))
	defer srv.Close()
	w := newWorker()
	var err error
	if w.keys, err = keys.New(rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.config, w.operator = &evidence.Config{}, &evidence.Operator{}
	w.config.Model.KeySHA256 = &digest.SHA256{1}
	if err := w.askModelKey(t.Context()); !fault.Has(err, modelkey.CodeNone) {
		t.Errorf("without an address: %v", err)
	}
	w.operator.ModelKeys = srv.URL
	if err := w.askModelKey(t.Context()); !fault.Has(err, modelkey.CodeRefused) || !fault.Has(err, "policy.class") || w.modelKey != nil {
		t.Errorf("refused: %v", err)
	}
}
