package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// TestThePlainFormIsAnsweredAsConnectDoes sends each request twice: so that it is
// read here, and with a timeout, so that package connect does.
func TestThePlainFormIsAnsweredAsConnectDoes(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.PerSecond, o.Burst = 1e6, 1e6 })
	field := func(num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
	}
	good := func() []byte {
		b, err := s.w.Evidence(t, s.challenge(t)).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ask := func(body []byte, timeout string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, s.http.URL+verifierv1connect.VerifierServiceAppraiseProcedure, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/proto")
		if timeout != "" {
			req.Header.Set("Connect-Timeout-Ms", timeout)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, b
	}
	for name, make := range map[string]func() []byte{
		"good evidence":           func() []byte { return field(1, good()) },
		"evidence twice":          func() []byte { return append(field(1, []byte("x")), field(1, good())...) },
		"an unknown field":        func() []byte { return append(field(1, good()), field(99, []byte("x"))...) },
		"foreign":                 func() []byte { return append(field(1, []byte("{}")), 2<<3, 1) },
		"no challenge of ours":    func() []byte { b, _ := s.w.Evidence(t).Marshal(); return field(1, b) },
		"not evidence":            func() []byte { return field(1, []byte(`{"profile":"x"}`)) },
		"nothing":                 func() []byte { return field(1, nil) },
		"a cut field":             func() []byte { return field(1, good())[:500] },
		"not a message":           func() []byte { return []byte{0xff, 0xff, 0xff} },
		"a field of another sort": func() []byte { return []byte{1 << 3, 5} },
	} {
		here, b1 := ask(make(), "")
		there, b2 := ask(make(), "60000")
		if here.StatusCode != there.StatusCode || here.Header.Get("Content-Type") != there.Header.Get("Content-Type") {
			t.Errorf("%s: status %d %s, connect's %d %s", name, here.StatusCode, here.Header.Get("Content-Type"), there.StatusCode, there.Header.Get("Content-Type"))
			continue
		}
		if here.StatusCode != http.StatusOK {
			// What is beside the details: protojson spaces them at random.
			var e1, e2 struct{ Code, Message string }
			if err := errors.Join(json.Unmarshal(b1, &e1), json.Unmarshal(b2, &e2)); err != nil || e1 != e2 || e1.Code == "" {
				t.Errorf("%s: %v: %s, connect's %s", name, err, b1, b2)
			}
			continue
		}
		var m1, m2 verifierv1.AppraiseResponse
		if err := proto.Unmarshal(b1, &m1); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(b2, &m2); err != nil {
			t.Fatal(err)
		}
		if m1.Accepted != m2.Accepted || (m1.Ear == "") != (m2.Ear == "") || len(m1.Result.Submods) != len(m2.Result.Submods) || m1.Result.TrustClass != m2.Result.TrustClass {
			t.Errorf("%s: accepted %v, connect's %v", name, m1.Accepted, m2.Accepted)
		}
		if (name == "good evidence") && !m1.Accepted {
			t.Errorf("%s: was refused", name)
		}
	}
	// Larger ones are connect's.
	resp, b := ask(field(1, bytes.Repeat([]byte("a"), 2<<20)), "")
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("large nonsense: status %d, %s", resp.StatusCode, b)
	}
	s.metric(t, "cocoon_verifier_appraisals_pending 0")
}
