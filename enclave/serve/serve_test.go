package serve

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
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
	"cocoon/measurements/digest"
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
	issued    []Delivery
	cancelled int
	issueErr  error
	done      chan struct{} // one for each settled request
}

func (l *ledger) Open(_ context.Context, job string, most Usage) (Account, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		return nil, l.refuse
	}
	l.opened = append(l.opened, most)
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
func (c *counts) Begin()      { c.mu.Lock(); defer c.mu.Unlock(); c.begun++ }
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

func TestAnAnswerInOnePiece(t *testing.T) {
	w := start(t, nil)
	rsp, body := w.do(t, "POST", PathChat, chat, "Authorization", "Bearer key", "X-Other", "y", "Cookie", "c=d")
	if rsp.StatusCode != 200 || body != whole || rsp.Trailer.Get(TrailerReceipt) != "" {
		t.Fatalf("got %s %s", rsp.Status, body)
	}
	last := w.engine.(*engine).last
	if len(last.Header) != 1 || last.Header.Get("Content-Type") != "application/json" {
		t.Errorf("the engine got headers %v", last.Header)
	}
	if fmt.Sprint(w.counts.ended) != "[200 9/12]" {
		t.Errorf("counted %v", w.counts.ended)
	}
}

// No client's request may begin with what the engine has of another's.
func TestEveryRequestHasWhatKeepsClientsApart(t *testing.T) {
	for path, body := range map[string]string{PathChat: chat, PathCompletions: `{"model":"m","prompt":"x"}`, PathEmbeddings: `{"model":"m","input":"x"}`} {
		f, apiErr := filter(path, "m", []byte(body))
		if apiErr != nil {
			t.Fatal(apiErr)
		}
		var before, after map[string]json.RawMessage
		if err := json.Unmarshal(f.body, &before); err != nil {
			t.Fatal(err)
		}
		f.with(`"cache_prompt":false`)
		if err := json.Unmarshal(f.body, &after); err != nil || len(after) != len(before)+1 || string(after["cache_prompt"]) != "false" {
			t.Errorf("%s: the engine gets %s, %v", path, f.body, err)
		}
	}
	w := start(t, func(_ *world, o *Options) { o.Private = `"cache_prompt":false` })
	if rsp, body := w.do(t, "POST", PathChat, chat); rsp.StatusCode != 200 {
		t.Fatalf("got %s %s", rsp.Status, body)
	}
	if got := string(w.engine.(*engine).body); !strings.HasPrefix(got, `{"cache_prompt":false,`) {
		t.Errorf("the engine got %s", got)
	}
}

func TestAStream(t *testing.T) {
	w := start(t, nil)
	rsp, body := w.do(t, "POST", PathChat, stream)
	if rsp.StatusCode != 200 || body != chunkA+chunkB+doneEnd || rsp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %s %q", rsp.Status, body)
	}
	if fmt.Sprint(w.counts.ended) != "[200 9/12]" {
		t.Errorf("counted %v", w.counts.ended)
	}
}

// TestStreamingIsUnbuffered: the first event arrives while the engine has not
// made the second.
func TestStreamingIsUnbuffered(t *testing.T) {
	pr, pw := io.Pipe()
	w := start(t, func(w *world, _ *Options) {
		w.engine = engineFunc(func(*http.Request) (*http.Response, error) { return answer(200, "text/event-stream", pr), nil })
	})
	req, err := http.NewRequest("POST", w.srv.URL+PathChat, strings.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(pw, chunkA) }()
	rsp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	line, err := bufio.NewReader(rsp.Body).ReadString('\n')
	if err != nil || line+"\n" != chunkA {
		t.Errorf("got %q, %v", line, err)
	}
	_, _ = io.WriteString(pw, usageEnd+doneEnd)
	pw.Close()
}

func TestReceiptsCoverTheExactBytes(t *testing.T) {
	for name, c := range map[string]struct{ in, out string }{
		"in one piece": {chat, whole}, "streamed": {stream, chunkA + chunkB + doneEnd},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(w *world, _ *Options) { w.ledger = &ledger{} })
			rsp, body := w.do(t, "POST", PathChat, c.in, HeaderJob, "EQjob")
			if rsp.StatusCode != 200 || body != c.out {
				t.Fatalf("got %s %q", rsp.Status, body)
			}
			if got := rsp.Trailer.Get(TrailerReceipt); got != "receipt-1" {
				t.Errorf("trailer is %q", got)
			}
			if len(w.ledger.issued) != 1 || w.ledger.cancelled != 0 {
				t.Fatalf("issued %d, cancelled %d", len(w.ledger.issued), w.ledger.cancelled)
			}
			d := w.ledger.issued[0]
			if d.Request != digest.Sum256([]byte(c.in)) || d.Response != digest.SHA256(sha256.Sum256([]byte(body))) || d.Cancelled {
				t.Errorf("delivery is %+v", d)
			}
			if d.Usage.Completion != 12 || w.ledger.opened[0].Completion != DefaultMaxTokens {
				t.Errorf("billed %+v, reserved %+v", d.Usage, w.ledger.opened[0])
			}
		})
	}
}

func TestRefusalsOfTheLedger(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   string
	}{
		{"a job that is not released", fault.New(fault.ExitRefused, "job.not_released", "send the verdict", "opening"), 402, "job.not_released"},
		{"no credit left", fault.New(fault.ExitRefused, "job.credit_used", "send a voucher", "opening"), 402, "job.credit_used"},
		{"an address that is none", fault.New(fault.ExitParse, "job.malformed", "", "opening"), 400, "job.malformed"},
		{"a ledger that is away", fault.New(fault.ExitNetwork, "ledger.unreachable", "", "opening"), 503, "ledger.unreachable"},
		{"an error without a code stays inside", errors.New("secret detail"), 500, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t, func(w *world, _ *Options) { w.ledger = &ledger{refuse: c.err} })
			rsp, body := w.do(t, "POST", PathChat, chat, HeaderJob, "EQjob")
			if rsp.StatusCode != c.status || code(t, body) != c.code || strings.Contains(body, "secret") {
				t.Errorf("got %s %s", rsp.Status, body)
			}
			if w.engine.(*engine).last != nil {
				t.Error("the engine was asked")
			}
		})
	}
	t.Run("no job at all", func(t *testing.T) {
		w := start(t, func(w *world, _ *Options) { w.ledger = &ledger{} })
		rsp, body := w.do(t, "POST", PathChat, chat)
		if rsp.StatusCode != 402 || code(t, body) != "job.required" {
			t.Errorf("got %s %s", rsp.Status, body)
		}
	})
}

func TestAFailedRequestGivesItsReservationBack(t *testing.T) {
	w := start(t, func(w *world, _ *Options) {
		w.ledger = &ledger{}
		w.engine = engineFunc(func(*http.Request) (*http.Response, error) { return nil, errors.New("down") })
	})
	rsp, body := w.do(t, "POST", PathChat, chat, HeaderJob, "EQjob")
	if rsp.StatusCode != 503 || code(t, body) != "engine.unreachable" || w.ledger.cancelled != 1 || len(w.ledger.issued) != 0 {
		t.Errorf("got %s %s, cancelled %d, issued %d", rsp.Status, body, w.ledger.cancelled, len(w.ledger.issued))
	}
}

func TestVouchersAndReceipts(t *testing.T) {
	w := start(t, func(w *world, _ *Options) { w.ledger = &ledger{} })
	for _, c := range []struct {
		method, path, in string
		status           int
		want             string
	}{
		{"POST", PathVoucher, "good", 200, `{"ok":true}`},
		{"POST", PathVoucher, "bad", 403, "voucher.signature"},
		{"POST", PathVoucher, strings.Repeat("x", maxVoucher+1), 413, "request.too_large"},
		{"GET", PathVoucher + "?job=EQ", "", 200, `"voucher of EQ"`},
		{"GET", PathReceipt + "?job=EQ", "", 404, "receipt.unknown"},
		{"GET", PathReceipt + "?job=EQ&request=aa", "", 200, `"receipt of EQ"`},
	} {
		rsp, body := w.do(t, c.method, c.path, c.in)
		if rsp.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: got %s %s, want %d %s", c.method, c.path, rsp.Status, body, c.status, c.want)
		}
	}
	without := start(t, nil)
	if rsp, body := without.do(t, "GET", PathVoucher, ""); rsp.StatusCode != 404 || code(t, body) != "request.not_found" {
		t.Errorf("without a ledger: got %s %s", rsp.Status, body)
	}
}

// endless is an engine that streams until its request's context ends, and
// tells when it does.
type endless struct {
	first   string
	stopped chan error // the context's error
}

func (e *endless) RoundTrip(r *http.Request) (*http.Response, error) {
	if e.first == "" { // it does not even begin
		<-r.Context().Done()
		e.stopped <- r.Context().Err()
		return nil, r.Context().Err()
	}
	pr, pw := io.Pipe()
	go func() {
		_, _ = io.WriteString(pw, e.first)
		<-r.Context().Done()
		pw.CloseWithError(r.Context().Err())
		e.stopped <- r.Context().Err()
	}()
	return answer(200, "text/event-stream", pr), nil
}

// TestAClientThatHangsUpStopsTheEngine: the engine's request ends with the
// client's, and what was delivered is billed.
func TestAClientThatHangsUpStopsTheEngine(t *testing.T) {
	for _, c := range []struct {
		name, in, first string
		want            Usage
	}{
		{"in the middle of a stream", stream, chunkA, Usage{Completion: 1}},
		{"before the first event", stream, "", Usage{}},
		{"waiting for an answer in one piece", chat, "", Usage{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			led := &ledger{done: make(chan struct{}, 1)}
			eng := &endless{first: c.first, stopped: make(chan error, 1)}
			asked := make(chan struct{})
			w := start(t, func(w *world, _ *Options) {
				w.ledger = led
				w.engine = engineFunc(func(r *http.Request) (*http.Response, error) { close(asked); return eng.RoundTrip(r) })
			})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "POST", w.srv.URL+PathChat, strings.NewReader(c.in))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(HeaderJob, "EQjob")
			if c.first == "" {
				go func() { <-asked; cancel() }()
			}
			rsp, err := w.client.Do(req)
			if c.first == "" && !errors.Is(err, context.Canceled) || c.first != "" && err != nil {
				t.Fatal(err)
			}
			if err == nil {
				if _, err := bufio.NewReader(rsp.Body).ReadString('\n'); err != nil {
					t.Fatal(err)
				}
				cancel()
				rsp.Body.Close()
			}
			if err := <-eng.stopped; !errors.Is(err, context.Canceled) {
				t.Errorf("the engine's request ended with %v", err)
			}
			<-led.done
			led.mu.Lock()
			defer led.mu.Unlock()
			if d := led.issued[0]; !d.Cancelled || d.Usage != c.want || led.cancelled != 0 {
				t.Errorf("delivery is %+v, %d cancelled", d, led.cancelled)
			}
		})
	}
}

func TestAStreamWithoutUsageIsNotBilledAndSaysSo(t *testing.T) {
	led := &ledger{}
	w := start(t, func(w *world, _ *Options) {
		w.ledger = led
		w.engine = engineFunc(func(*http.Request) (*http.Response, error) {
			return answer(200, "text/event-stream", strings.NewReader(chunkA+doneEnd)), nil
		})
	})
	rsp, body := w.do(t, "POST", PathChat, stream, HeaderJob, "EQjob")
	if rsp.StatusCode != 200 || body != chunkA+notBilled+doneEnd {
		t.Errorf("got %s %q", rsp.Status, body)
	}
	if d := led.issued[0]; d.Cancelled || d.Usage != (Usage{}) || d.Response != digest.Sum256([]byte(body)) {
		t.Errorf("delivery is %+v", d)
	}
	if fmt.Sprint(w.counts.refused) != "[engine.no_usage]" {
		t.Errorf("counted %v", w.counts.refused)
	}
}

func TestAnEngineThatDiesInTheMiddleSaysSoInTheStream(t *testing.T) {
	led := &ledger{}
	w := start(t, func(w *world, _ *Options) {
		w.ledger = led
		w.engine = engineFunc(func(*http.Request) (*http.Response, error) {
			return answer(200, "text/event-stream", strings.NewReader(chunkA)), nil
		})
	})
	rsp, body := w.do(t, "POST", PathChat, stream, HeaderJob, "EQjob")
	if rsp.StatusCode != 200 || !strings.HasPrefix(body, chunkA) || !strings.Contains(body, `"code":"engine.failed"`) {
		t.Errorf("got %s %q", rsp.Status, body)
	}
	d := led.issued[0]
	if !d.Cancelled || d.Usage != (Usage{Completion: 1}) || d.Response != digest.Sum256([]byte(body)) {
		t.Errorf("delivery is %+v, hash of body %s", d, hex.EncodeToString(d.Response[:]))
	}
}

func TestEmbeddingsWhereTheEngineHasThem(t *testing.T) {
	const vectors = `{"data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":3,"total_tokens":3}}`
	led := &ledger{}
	w := start(t, func(w *world, o *Options) {
		w.ledger, o.Endpoints = led, []string{PathEmbeddings}
		w.engine = engineFunc(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != PathEmbeddings {
				t.Errorf("the engine was asked for %s", r.URL.Path)
			}
			return answer(200, "application/json", strings.NewReader(vectors)), nil
		})
	})
	rsp, body := w.do(t, "POST", PathEmbeddings, `{"model":"m","input":"x"}`, HeaderJob, "EQjob")
	if rsp.StatusCode != 200 || body != vectors || led.issued[0].Usage != (Usage{Prompt: 3}) || led.opened[0].Completion != 0 {
		t.Errorf("got %s %s, issued %+v, reserved %+v", rsp.Status, body, led.issued, led.opened)
	}
	if rsp, body := w.do(t, "POST", PathChat, chat, HeaderJob, "EQjob"); rsp.StatusCode != 404 || code(t, body) != "request.not_found" {
		t.Errorf("a chat with an engine for embeddings: %s %s", rsp.Status, body)
	}
	if _, err := New(Options{Model: "m", Engine: &engine{}, Attestation: http.NotFoundHandler(), Gate: func() error { return nil }, Meter: &counts{}, Endpoints: []string{"/slots"}}); err == nil {
		t.Error("a route of the engine was opened")
	}
}

func TestEngineErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		rsp    *http.Response
		in     string
		status int
		code   string
	}{
		{"a refused request", answer(400, "application/json", strings.NewReader(`{"error":{"message":"too long"}}`)), chat, 400, "engine.refused"},
		{"a busy engine", answer(503, "", strings.NewReader("")), chat, 503, "engine.busy"},
		{"an endpoint that the engine has not for its model", answer(501, "application/json", strings.NewReader(`{}`)), chat, 404, "engine.no_endpoint"},
		{"a broken engine", answer(500, "", strings.NewReader("stack trace")), chat, 502, "engine.failed"},
		{"no usage", answer(200, "application/json", strings.NewReader(`{}`)), chat, 503, "engine.protocol"},
		{"no JSON", answer(200, "application/json", strings.NewReader(`<html>`)), chat, 503, "engine.protocol"},
		{"impossible usage", answer(200, "application/json", strings.NewReader(`{"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}}`)), chat, 503, "engine.protocol"},
		{"no stream", answer(200, "application/json", strings.NewReader(whole)), stream, 503, "engine.protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t, func(w *world, _ *Options) {
				w.engine = engineFunc(func(*http.Request) (*http.Response, error) { return c.rsp, nil })
			})
			rsp, body := w.do(t, "POST", PathChat, c.in)
			if rsp.StatusCode != c.status || code(t, body) != c.code || strings.Contains(body, "stack") {
				t.Errorf("got %s %s", rsp.Status, body)
			}
		})
	}
}
