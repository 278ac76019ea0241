package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
)

// engineFunc is an engine.
type engineFunc func(*http.Request) (*http.Response, error)

func (f engineFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, contentType string, body io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(body)}
}

const whole = `{"choices":[{"message":{"content":"secret answer"}}],"usage":{"prompt_tokens":9,"completion_tokens":12}}`

// engine answers as an engine does and keeps the last request.
type engine struct {
	mu   sync.Mutex
	last *http.Request
	body []byte
}

func (e *engine) RoundTrip(r *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.last, e.body = r, b
	e.mu.Unlock()
	if bytes.Contains(b, []byte(`"stream":true`)) {
		return answer(200, "text/event-stream", strings.NewReader(chunkA+chunkB+usageEnd+doneEnd)), nil
	}
	return answer(200, "application/json", strings.NewReader(whole)), nil
}

// ledger admits everything but what refuse says.
type ledger struct {
	mu        sync.Mutex
	refuse    error
	opened    []Usage
	models    []string // asked for, with opened
	issued    []Delivery
	cancelled int
	issueErr  error
	done      chan struct{} // one for each settled request
}

func (l *ledger) Open(_ context.Context, job, model string, most Usage) (Account, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		return nil, l.refuse
	}
	l.opened, l.models = append(l.opened, most), append(l.models, model)
	return account{l, job}, nil
}

func (l *ledger) Accept(_ context.Context, doc []byte) ([]byte, error) {
	if string(doc) == "bad" {
		return nil, fault.New(fault.ExitRefused, "voucher.signature", "sign", "checking voucher")
	}
	return []byte(`{"ok":true}`), nil
}

func (l *ledger) Voucher(_ context.Context, job string) ([]byte, error) {
	return []byte(`"voucher of ` + job + `"`), nil
}

func (l *ledger) Receipt(_ context.Context, job, request, _ string) ([]byte, error) {
	if request == "aa" {
		return []byte(`"receipt of ` + job + `"`), nil
	}
	return nil, fault.New(fault.ExitRefused, "receipt.unknown", "", "looking for receipt")
}

type account struct {
	l   *ledger
	job string
}

func (a account) Job() string { return a.job }

func (a account) Issue(d Delivery) (string, error) {
	a.l.mu.Lock()
	defer a.l.mu.Unlock()
	a.l.issued = append(a.l.issued, d)
	if a.l.done != nil {
		a.l.done <- struct{}{}
	}
	return "receipt-1", a.l.issueErr
}

func (a account) Cancel() {
	a.l.mu.Lock()
	defer a.l.mu.Unlock()
	a.l.cancelled++
}

type counts struct {
	mu      sync.Mutex
	begun   int
	ended   []string
	refused []string
}

func (c *counts) Waiting(int) {}

func (c *counts) Begin() { c.mu.Lock(); defer c.mu.Unlock(); c.begun++ }

func (c *counts) End(_ string, status int, u Usage, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, fmt.Sprintf("%d %d/%d", status, u.Prompt, u.Completion))
}

func (c *counts) Refused(code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = append(c.refused, code)
}

type world struct {
	srv    *httptest.Server
	engine http.RoundTripper
	ledger *ledger
	counts *counts
	gate   error
	log    bytes.Buffer
	client *http.Client
}

func start(t *testing.T, change func(*world, *Options)) *world {
	t.Helper()
	w := &world{engine: &engine{}, counts: &counts{}}
	opt := Options{
		Model: "m", Created: time.Unix(1000, 0), Attestation: http.NotFoundHandler(),
		Gate: func() error { return w.gate }, Meter: w.counts, MaxRequests: 2, MaxWaiting: 2, MaxPerJob: 1,
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	if change != nil {
		change(w, &opt)
	}
	opt.Engine = w.engine
	if w.ledger != nil {
		opt.Ledger = w.ledger
	}
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	w.srv = httptest.NewServer(s)
	t.Cleanup(w.srv.Close)
	w.client = w.srv.Client()
	return w
}

func (w *world) do(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, w.srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rsp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	b, err := io.ReadAll(rsp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return rsp, string(b)
}

// code returns the code of an error in OpenAI's shape.
func code(t *testing.T, body string) string {
	t.Helper()
	var v struct {
		Error struct {
			Message, Type, Code string
			Param               *string
		}
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil || v.Error.Message == "" || v.Error.Type == "" {
		t.Fatalf("not OpenAI's error shape: %s (%v)", body, err)
	}
	return v.Error.Code
}

const (
	chat   = `{` + hello + `}`
	stream = `{` + hello + `,"stream":true}`
)
