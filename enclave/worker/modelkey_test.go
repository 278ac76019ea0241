package worker

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cocoon/enclave/attest"
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

// TestEachEncryptedModelHasItsKeyAskedFor at the service that is named for it.
func TestEachEncryptedModelHasItsKeyAskedFor(t *testing.T) {
	w := newWorker()
	w.config = &evidence.Config{Models: []evidence.ConfigModel{{Name: "plain"}, {Name: "b", KeySHA256: &digest.SHA256{2}}}}
	w.config.Model = evidence.ConfigModel{Name: "a", KeySHA256: &digest.SHA256{1}}
	if s := w.modelKeyStages(); len(s) != 2 || s[1].Timeout != 2*modelKeyFor {
		t.Errorf("stages of two encrypted models: %v", s)
	}
	w.config.Model.KeySHA256 = nil
	if s := w.modelKeyStages(); len(s) != 2 || s[1].Timeout != modelKeyFor {
		t.Errorf("stages where a further model is encrypted: %v", s)
	}
}

// TestAModelKeyThatIsNotReleasedEndsTheBoot with what the owner's service says,
// whichever of several models it is; what others have released is wiped.
func TestAModelKeyThatIsNotReleasedEndsTheBoot(t *testing.T) {
	asked := ""
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked += r.URL.Path + " "
		rw.WriteHeader(http.StatusForbidden)
		_, _ = rw.Write([]byte(`{"type":"x","title":"x","status":403,"code":"policy.class","faults":[{"code":"policy.class","message":"no","remedy":"be another","exit":4}]}`))
	}))
	defer srv.Close()
	w := newWorker()
	var err error
	if w.keys, err = keys.New(rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.collector = &attest.Collector{}
	w.config, w.operator = &evidence.Config{Models: []evidence.ConfigModel{{Name: "b", KeySHA256: &digest.SHA256{1}}}}, &evidence.Operator{}
	if err := w.askModelKeys(t.Context()); !fault.Has(err, modelkey.CodeNone) {
		t.Errorf("without an address: %v", err)
	}
	for path, o := range map[string]evidence.Operator{
		"/":      {ModelKeys: srv.URL},
		"/of-b/": {ModelKeys: "http://127.0.0.1:1", Models: map[string]evidence.OperatorModel{"b": {ModelKeys: srv.URL + "/of-b"}}},
	} {
		asked, w.operator = "", &o
		if err := w.askModelKeys(t.Context()); !fault.Has(err, modelkey.CodeRefused) || !fault.Has(err, "policy.class") || w.modelKeys != nil {
			t.Errorf("refused: %v", err)
		}
		if !strings.HasPrefix(asked, path) {
			t.Errorf("asked %s, want %s", asked, path)
		}
	}
}
