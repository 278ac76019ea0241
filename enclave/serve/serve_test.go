package serve

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
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
		f, apiErr := filter(path, []string{"m"}, []byte(body))
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
