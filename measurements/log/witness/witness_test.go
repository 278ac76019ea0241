package witness_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/log/witness"
)

const origin = "log.example.org/one"

func key(name string) ed25519.PrivateKey {
	seed := digest.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func logKey(t testing.TB, origin string) log.Key {
	t.Helper()
	k, err := log.NewKey(origin, key(origin).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// history is a log in memory, as its owner might show it.
type history struct {
	origin string
	signer ed25519.PrivateKey
	tree   *testonly.Tree
}

// newHistory has 40 entries, of which the first ones are those of every other.
func newHistory(name string, shared int) *history {
	h := &history{origin: origin, signer: key(origin), tree: testonly.New(rfc6962.DefaultHasher)}
	for i := range 40 {
		entry := fmt.Sprint("entry ", i)
		if i >= shared {
			entry += " of " + name
		}
		h.tree.AppendData([]byte(entry))
	}
	return h
}

func (h *history) checkpoint(t testing.TB, size uint64) []byte {
	t.Helper()
	s, err := log.Signer(h.origin, h.signer)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", h.origin, size, base64.StdEncoding.EncodeToString(h.tree.HashAt(size)))}, s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// request asks for a cosignature of a size after another.
func (h *history) request(t testing.TB, old, size uint64) []byte {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", old)
	if old > 0 && old < size {
		hashes, err := h.tree.ConsistencyProof(old, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range hashes {
			fmt.Fprintln(&b, base64.StdEncoding.EncodeToString(x))
		}
	}
	b.WriteByte('\n')
	b.Write(h.checkpoint(t, size))
	return b.Bytes()
}

func open(t testing.TB, dir string) *witness.Witness {
	t.Helper()
	w, err := witness.Open(witness.Options{Dir: dir, Name: "witness.example.org/w", Key: key("witness"), Logs: []log.Key{logKey(t, origin), logKey(t, "log.example.org/two")}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestOneHistoryIsCosigned asks for cosignatures of two histories that part, of
// the past, and of what is no log's.
func TestOneHistoryIsCosigned(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	good, fork := newHistory("good", 40), newHistory("fork", 10)
	add := func(h *history, old, size uint64) error {
		t.Helper()
		line, err := w.Add(h.request(t, old, size))
		if err == nil {
			cp := append(h.checkpoint(t, size), line...)
			if at, err := witness.Check(cp, w.Key()); err != nil || at.IsZero() {
				t.Errorf("cosignature at %s: %v", at, err)
			}
			if _, err := log.OpenCheckpoint(cp, logKey(t, origin)); err != nil {
				t.Errorf("the log's own signature is gone: %v", err)
			}
		}
		return err
	}
	conflict := func(err error, size uint64) bool {
		c, ok := errors.AsType[*witness.ConflictError](err)
		return ok && c.Size == size
	}
	for i, c := range []struct {
		h         *history
		old, size uint64
		conflict  bool // with the last that was good
	}{
		{h: good, size: 0}, {h: good, size: 5}, {h: good, old: 5, size: 5}, {h: fork, old: 5, size: 9}, // as long as they are one
		{h: good, old: 5, size: 12, conflict: true}, {h: good, old: 9, size: 20},
		{h: good, old: 9, size: 15, conflict: true}, {h: good, old: 0, size: 9, conflict: true}, {h: fork, old: 20, size: 20, conflict: true},
		{h: good, old: 20, size: 20}, {h: good, old: 20, size: 33},
	} {
		err := add(c.h, c.old, c.size)
		if c.conflict && !conflict(err, map[bool]uint64{true: 20, false: 9}[i > 5]) || !c.conflict && err != nil {
			t.Errorf("step %d, from %d to %d: %v", i, c.old, c.size, err)
		}
	}
	if err := add(fork, 33, 40); !errors.Is(err, witness.ErrProof) {
		t.Errorf("a fork: %v", err)
	}
	if err := add(good, 40, 39); !errors.Is(err, witness.ErrForm) {
		t.Errorf("backwards: %v", err)
	}
	// Another process cannot have it meanwhile; after it all is as before.
	if _, err := witness.Open(witness.Options{Dir: dir, Name: "witness.example.org/w", Key: key("witness"), Logs: []log.Key{logKey(t, origin)}}); err == nil {
		t.Error("two witnesses have one state")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = open(t, dir)
	if err := add(good, 0, 40); !conflict(err, 33) {
		t.Errorf("after a restart: %v", err)
	}
	if err := add(good, 33, 40); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// A state that is damaged, or another log's, is none.
	files, err := filepath.Glob(filepath.Join(dir, "*.checkpoint"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	for name, b := range map[string][]byte{"cut": good.checkpoint(t, 33)[:40], "empty": nil, "by another key": bytes.Replace(good.checkpoint(t, 33), []byte("\n33\n"), []byte("\n3\n"), 1)} {
		if err := os.WriteFile(files[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := witness.Open(witness.Options{Dir: dir, Name: "witness.example.org/w", Key: key("witness"), Logs: []log.Key{logKey(t, origin)}}); err == nil {
			t.Errorf("%s: %+v", name, w)
		}
	}
}

// TestRequestsOverHTTPHaveTheirStatus sends what tlog-witness gives a status.
func TestRequestsOverHTTPHaveTheirStatus(t *testing.T) {
	w := open(t, t.TempDir())
	defer w.Close()
	srv := httptest.NewServer(w.Handler(slog.New(slog.DiscardHandler)))
	defer srv.Close()
	good := newHistory("good", 40)
	if _, err := w.Add(good.request(t, 0, 7)); err != nil {
		t.Fatal(err)
	}
	stranger, unsigned := *good, *good
	stranger.origin, unsigned.signer = "log.example.org/three", key("somebody")
	for _, c := range []struct {
		name   string
		body   []byte
		status int
		answer string
	}{
		{"the next", good.request(t, 7, 8), 200, "— witness.example.org/w "},
		{"a conflict", good.request(t, 0, 9), 409, "8\n"},
		{"an unknown log", stranger.request(t, 0, 8), 404, ""},
		{"another's signature", unsigned.request(t, 8, 9), 403, ""},
		{"a proof of another", bytes.Replace(good.request(t, 7, 20), []byte("old 7\n"), []byte("old 8\n"), 1), 422, ""},
		{"nothing", nil, 400, ""},
		{"no size", []byte("old x\n\n"), 400, ""},
		{"a size with a zero", bytes.Replace(good.request(t, 8, 9), []byte("old 8"), []byte("old 08"), 1), 400, ""},
		{"a hash that is none", bytes.Replace(good.request(t, 8, 9), []byte("old 8\n"), []byte("old 8\nAAAA\n"), 1), 400, ""},
		{"more hashes than any", bytes.Replace(good.request(t, 8, 9), []byte("old 8\n"), []byte("old 8\n"+strings.Repeat(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n", 64)), 1), 400, ""},
		{"more than it may have", make([]byte, witness.MaxRequest+1), 413, ""},
	} {
		rsp, err := http.Post(srv.URL+witness.Path, "text/plain", bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rsp.Body)
		if err != nil || rsp.Body.Close() != nil {
			t.Fatal(err)
		}
		if rsp.StatusCode != c.status || !strings.HasPrefix(string(b), c.answer) {
			t.Errorf("%s: status %d, want %d: %s", c.name, rsp.StatusCode, c.status, b)
		}
		if typ := rsp.Header.Get("Content-Type"); c.status == 409 && typ != "text/x.tlog.size" {
			t.Errorf("%s: %s", c.name, typ)
		}
	}
	rsp, err := http.Get(srv.URL + witness.Path)
	if err != nil || rsp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("reading: %v, %v", rsp, err)
	}
}

// TestALogIsPublishedWithItsWitness appends to a log whose policy names the
// witness by its address.
func TestALogIsPublishedWithItsWitness(t *testing.T) {
	w := open(t, t.TempDir())
	defer w.Close()
	srv := httptest.NewServer(w.Handler(slog.New(slog.DiscardHandler)))
	defer srv.Close()
	dir := filepath.Join(t.TempDir(), "log")
	for round := range 2 { // and once more after a restart of the log
		l, err := tiles.OpenWriter(tiles.WriterOptions{Dir: dir, Origin: origin, Key: key(origin), Interval: 100 * time.Millisecond,
			Witnesses: fmt.Appendf(nil, "witness one %s %s\nquorum one\n", w.Key(), srv.URL)})
		if err != nil {
			t.Fatal(err)
		}
		next, err := l.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append(t.Context(), next, [][]byte{fmt.Append(nil, "entry ", round)}); err != nil {
			t.Fatal(err)
		}
		var cp *log.Checkpoint
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if cp, err = l.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			if cp.Size > next {
				break
			}
		}
		if _, err := witness.Check(cp.Raw, w.Key()); err != nil || cp.Size != next+1 {
			t.Errorf("%d entries: %v", cp.Size, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzAdd(f *testing.F) {
	good := newHistory("good", 40)
	f.Add(good.request(f, 0, 7))
	f.Add(good.request(f, 3, 7))
	f.Add([]byte("old 0\n\n"))
	w := open(f, f.TempDir())
	f.Fuzz(func(t *testing.T, body []byte) {
		line, err := w.Add(body)
		if err == nil {
			if !bytes.Contains(body, []byte("\n— "+origin+" ")) || !bytes.HasPrefix(line, []byte("— witness.example.org/w ")) {
				t.Errorf("cosigned: %s", line)
			}
		}
	})
}
