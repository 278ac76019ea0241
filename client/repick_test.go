package client

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
)

// another is a second worker of a world's gateway.
func another(t *testing.T, w *world) *world {
	return newWorld(t, func(o *world) { o.gw, o.gwAddr = w.gw, w.gwAddr })
}

// side returns the worker that a client has picked, and the other.
func side(c *Client, a, b *world) (picked, other *world) {
	if c.picked() == a.key {
		return a, b
	}
	return b, a
}

func post(t *testing.T, h http.Handler) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("POST", "http://127.0.0.1/v1/echo", strings.NewReader("hello")))
	return rec.Code, rec.Body.String()
}

func TestAnotherWorkerIsPickedWhenOneLeaves(t *testing.T) {
	a := newWorld(t, nil)
	b := another(t, a)
	c := a.client(Options{Model: "m"})
	tr := c.Transport()
	h := NewProxy(c, tr, nil)
	if code, body := post(t, h); code != http.StatusOK {
		t.Fatalf("the first worker answered %d %s", code, body)
	}
	gone, left := side(c, a, b)
	gone.leave()
	tr.CloseIdleConnections()
	if code, body := post(t, h); code != http.StatusOK || c.picked() != left.key {
		t.Errorf("after it left: %d %s from %s, want the answer of %s", code, body, c.picked(), left.key)
	}
	left.leave()
	tr.CloseIdleConnections()
	if code, body := post(t, h); code < 500 || !strings.Contains(body, "gateway.worker_absent") {
		t.Errorf("without a worker: %d %s", code, body)
	}
}

func TestAnotherWorkerIsPickedWhenOneDrains(t *testing.T) {
	a := newWorld(t, nil)
	b := another(t, a)
	for _, w := range []*world{a, b} {
		w.mux.HandleFunc("/v1/drained", func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(rw, `{"error":{"code":"worker.draining","message":"choose another one"}}`)
		})
		w.mux.HandleFunc("/v1/paused", func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(rw, `{"error":{"code":"worker.paused"}}`+strings.Repeat(" ", maxErrorBody))
		})
	}
	c := a.client(Options{})
	tr := c.Transport()
	get := func(path string) string {
		t.Helper()
		req, _ := http.NewRequest("GET", "https://enclave"+path, nil)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return string(body)
	}
	if body := get("/v1/paused"); len(body) != len(`{"error":{"code":"worker.paused"}}`)+maxErrorBody {
		t.Errorf("the answer of a paused worker has %d bytes", len(body))
	}
	first := c.picked()
	if get("/v1/paused"); c.picked() != first {
		t.Error("a paused worker was left")
	}
	drained, other := side(c, a, b)
	if body := get("/v1/drained"); !strings.Contains(body, "choose another one") {
		t.Errorf("the answer of a draining worker is %s", body)
	}
	if !c.picked().IsZero() {
		t.Error("a draining worker was not left")
	}
	drained.leave() // gateways list it no more
	if get("/v1/echo"); c.picked() != other.key {
		t.Errorf("picked %s, want %s", c.picked(), other.key)
	}
}

func TestAPinnedWorkerIsNotLeft(t *testing.T) {
	a := newWorld(t, nil)
	another(t, a)
	for name, c := range map[string]*Client{"named": a.client(Options{Worker: a.key}), "paid": a.client(Options{})} {
		if _, err := c.Connect(context.Background()); err != nil {
			t.Fatal(err)
		}
		c.Pin()
		if key := c.picked(); c.leave(key) || c.picked() != key {
			t.Errorf("%s: it was left", name)
		}
	}
	c := a.client(Options{Worker: digest.Sum256([]byte("nobody"))})
	if _, err := c.Connect(context.Background()); !fault.Has(err, "gateway.worker_absent") {
		t.Errorf("a named worker that is absent: %v", err)
	}
}

func TestTheOnlyWorkerLeaves(t *testing.T) {
	w := newWorld(t, nil)
	c := w.client(Options{})
	if _, err := c.Connect(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.leave()
	if _, err := c.Connect(context.Background()); !fault.Has(err, "gateway.worker_absent") || !fault.Has(err, codeNoWorker) {
		t.Errorf("the only worker left: %v", err)
	}
	if !c.picked().IsZero() {
		t.Error("it stays picked")
	}
}
