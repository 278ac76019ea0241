package tiles_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/log/tiles"
)

// TestACheckpointWaitsForItsWitness publishes under a policy of one witness,
// which refuses at first.
func TestACheckpointWaitsForItsWitness(t *testing.T) {
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	skey, vkey, err := note.GenerateKey(bytes.NewReader(k.Seed()), "witness.example")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		t.Fatal(err)
	}
	if vkey, err = fnote.VKeyToCosignatureV1(vkey); err != nil {
		t.Fatal(err)
	}
	var willing atomic.Bool
	var refused atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		_, cp, _ := bytes.Cut(body, []byte("\n\n"))
		text, _, ok := bytes.Cut(cp, []byte("\n\n"))
		if !ok || !willing.Load() {
			refused.Add(1)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		sig, err := signer.Sign(append(text, '\n'))
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		h := signer.KeyHash()
		raw := append([]byte{byte(h >> 24), byte(h >> 16), byte(h >> 8), byte(h)}, sig...)
		fmt.Fprintf(w, "— %s %s\n", signer.Name(), base64.StdEncoding.EncodeToString(raw))
	}))
	defer srv.Close()
	w, err := tiles.OpenWriter(tiles.WriterOptions{Dir: filepath.Join(t.TempDir(), "log"), Origin: origin, Key: key("log"), Interval: 100 * time.Millisecond,
		Witnesses: fmt.Appendf(nil, "witness one %s %s\nquorum one\n", vkey, srv.URL)})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(t.Context(), 0, [][]byte{[]byte("an entry")}); err != nil {
		t.Fatal(err)
	}
	size := func() uint64 {
		cp, err := w.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return cp.Size
	}
	for end := time.Now().Add(time.Minute); refused.Load() == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if size() != 0 {
		t.Fatal("a checkpoint was published without its witness")
	}
	willing.Store(true)
	for end := time.Now().Add(time.Minute); size() == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	cp, err := w.Checkpoint(t.Context())
	if err != nil || cp.Size != 1 {
		t.Fatalf("%+v, %v", cp, err)
	}
	if n, err := note.Open(cp.Raw, note.VerifierList(signer.Verifier())); err != nil || len(n.Sigs) != 1 {
		t.Errorf("no cosignature: %v\n%s", err, cp.Raw)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
