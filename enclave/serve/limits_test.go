package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestNothingIsServedWhileTheGateIsClosed(t *testing.T) {
	w := start(t, nil)
	w.gate = errors.New("no verdict")
	for _, path := range []string{"GET /v1/models", "GET /healthz", "POST /v1/chat/completions", "POST /v1/completions"} {
		method, p, _ := strings.Cut(path, " ")
		rsp, body := w.do(t, method, p, chat)
		if rsp.StatusCode != 503 || code(t, body) != "worker.paused" {
			t.Errorf("%s: got %s %s", path, rsp.Status, body)
		}
	}
	if w.engine.(*engine).last != nil {
		t.Error("the engine was asked")
	}
}

func TestOnlyTheListedEndpointsExist(t *testing.T) {
	w := start(t, nil)
	for _, path := range []string{"GET /slots", "GET /props", "GET /metrics", "POST /v1/embeddings", "POST /tokenize", "DELETE /v1/models", "GET /v1/chat/completions", "POST /v1/chat/completions/../../slots"} {
		method, p, _ := strings.Cut(path, " ")
		rsp, _ := w.do(t, method, p, chat)
		if rsp.StatusCode != 404 && rsp.StatusCode != 405 {
			t.Errorf("%s: got %s", path, rsp.Status)
		}
	}
	if w.engine.(*engine).last != nil {
		t.Error("the engine was asked")
	}
	rsp, body := w.do(t, "GET", pathModels, "")
	if rsp.StatusCode != 200 || !strings.Contains(body, `"id":"m"`) || !strings.Contains(body, `"created":1000`) {
		t.Errorf("models: got %s %s", rsp.Status, body)
	}
	if rsp, body := w.do(t, "GET", pathHealth, ""); rsp.StatusCode != 200 || body != "ok\n" {
		t.Errorf("health: got %s %s", rsp.Status, body)
	}
}

func TestNoWordOfAConversationReachesTheLog(t *testing.T) {
	w := start(t, nil)
	const prompt = "launch code 4711"
	w.do(t, "POST", PathChat, `{"model":"m","messages":[{"role":"user","content":"`+prompt+`"}]}`)
	w.do(t, "POST", PathChat, `{"model":"m","`+prompt+`":1}`)
	w.do(t, "POST", PathChat, `{"model":"`+prompt+`"}`)
	w.do(t, "POST", PathChat, prompt)
	w.do(t, "GET", "/"+strings.ReplaceAll(prompt, " ", "-"), "")
	if log := w.log.String(); strings.Contains(log, "4711") || strings.Contains(log, "secret answer") || !strings.Contains(log, "status=200") {
		t.Errorf("log is\n%s", log)
	}
	for _, refused := range w.counts.refused {
		if strings.Contains(refused, "4711") {
			t.Errorf("metric label %q", refused)
		}
	}
}

func TestServeStopsInOrder(t *testing.T) {
	s, err := New(Options{Model: "m", Engine: &engine{}, Attestation: http.NotFoundHandler(), Gate: func() error { return nil }, Meter: &counts{}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln, time.Second) }()
	rsp, err := http.Get("http://" + ln.Addr().String() + pathHealth)
	if err != nil {
		t.Fatal(err)
	}
	rsp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a server without an engine was made")
	}
}
