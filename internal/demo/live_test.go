package demo

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/client"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// The host keeps evidence back on its way; its challenge is still open then.
func TestEvidenceKeptBackIsStillGood(t *testing.T) {
	w := tpmtest.NewWorld(t)
	s, err := server.New(server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signer: w.ManifestKey}, Clock: func() time.Time { return tpmtest.Now }})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	l, before := startRelay(srv.Listener.Addr().String())
	t.Cleanup(before.Close)
	dial := func(url string) *client.Client {
		t.Helper()
		c, err := client.New(client.Options{BaseURL: url})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	guest := dial(before.URL)
	ch, err := guest.Challenge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ev := w.Evidence(t, ch.Challenge)
	for range 2 { // it tries again
		if _, err := guest.Verify(t.Context(), ev); err == nil || fault.ExitCode(err) != fault.ExitNetwork {
			t.Fatalf("the guest was told %v", err)
		}
	}
	doc := <-l.kept
	v, err := dial(srv.URL).VerifyBytes(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}

	// What the command says of it has to be about it.
	answer := func(change func(m map[string]any)) []byte {
		t.Helper()
		a := map[string]any{"ear": v.EAR, "checks": v.Checks, "agreed": map[string]any{"trust_class": v.Result.TrustClass, "evidence_sha256": v.Result.EvidenceSHA256}}
		m := map[string]any{"accepted": true, "answers": []any{a}}
		if change != nil {
			change(m)
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if a, err := readAppraised(answer(nil), doc); err != nil || a.EAR != v.EAR || !bytes.Equal(a.Checks, v.Checks) {
		t.Errorf("%+v, %v", a, err)
	}
	for name, change := range map[string]func(m map[string]any){
		"refused":          func(m map[string]any) { m["accepted"] = false },
		"by nobody":        func(m map[string]any) { m["answers"] = []any{} },
		"another evidence": func(m map[string]any) { agreedOf(m)["evidence_sha256"] = hex.EncodeToString(make([]byte, 32)) },
		"another class":    func(m map[string]any) { agreedOf(m)["trust_class"] = "tdx" },
	} {
		if _, err := readAppraised(answer(change), doc); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func agreedOf(m map[string]any) map[string]any {
	return m["answers"].([]any)[0].(map[string]any)["agreed"].(map[string]any)
}
