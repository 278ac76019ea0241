package serve

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/measurements/digest"
)

// desk is a server in a bubble of package synctest: no sockets, and a clock
// that moves when everybody waits.
type desk struct {
	*Server
	ledger  *ledger
	counts  *counts
	release chan struct{} // an answer of the engine each
	asked   []string      // bodies, as they came to the engine
	mu      sync.Mutex
}

func newDesk(t *testing.T, opt Options) *desk {
	t.Helper()
	d := &desk{ledger: &ledger{}, counts: &counts{}, release: make(chan struct{})}
	opt.Model, opt.Attestation, opt.Meter, opt.Ledger = "m", http.NotFoundHandler(), d.counts, d.ledger
	opt.Gate = func() error { return nil }
	if opt.Engine == nil {
		opt.Engine = engineFunc(func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			d.mu.Lock()
			d.asked = append(d.asked, string(b))
			d.mu.Unlock()
			select {
			case <-d.release:
				return answer(200, "application/json", strings.NewReader(whole)), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})
	}
	var err error
	if d.Server, err = New(opt); err != nil {
		t.Fatal(err)
	}
	return d
}

// ask sends a request in the background; its answer comes on the channel.
func (d *desk) ask(job, body string, header ...string) <-chan *httptest.ResponseRecorder {
	out := make(chan *httptest.ResponseRecorder, 1)
	r := httptest.NewRequest("POST", PathChat, strings.NewReader(body))
	r.Header.Set(HeaderJob, job)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	go func() {
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		out <- w
	}()
	synctest.Wait()
	return out
}

func refused(t *testing.T, w *httptest.ResponseRecorder, status int, want string) {
	t.Helper()
	if got := code(t, w.Body.String()); w.Code != status || got != want {
		t.Errorf("got %d %s, want %d %s", w.Code, got, status, want)
	}
	if retry := w.Header().Get("Retry-After"); (status == 429 || status == 503) != (retry != "") {
		t.Errorf("Retry-After is %q with status %d", retry, status)
	}
}

func TestJobsTakeTurnsAndNoneTakesAllPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Options{MaxRequests: 1, MaxWaiting: 3, MaxPerJob: 2})
		first := d.ask("a", chat)
		a1, a2 := d.ask("a", chat), d.ask("a", chat)
		refused(t, <-d.ask("a", chat), 429, "job.busy")
		b := d.ask("b", `{`+hello+`,"seed":7}`)
		refused(t, <-d.ask("c", chat), 429, "worker.busy")
		if running, waiting := d.Load(); running != 1 || waiting != 3 {
			t.Fatalf("%d run, %d wait", running, waiting)
		}
		if d.ledger.cancelled != 2 {
			t.Errorf("%d reservations were given back, want those of the two that were refused", d.ledger.cancelled)
		}
		for i, next := range []<-chan *httptest.ResponseRecorder{first, a1, b, a2} {
			d.release <- struct{}{}
			if w := <-next; w.Code != 200 {
				t.Fatalf("request %d: %d %s", i, w.Code, w.Body)
			}
			synctest.Wait()
		}
		if !strings.Contains(d.asked[2], `"seed":7`) {
			t.Errorf("job b did not have the third turn: %q", d.asked)
		}
	})
}

func TestRetryAfterGrowsWithWhatIsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Options{MaxRequests: 1, MaxWaiting: 3, MaxPerJob: 3})
		w := d.ask("a", chat)
		time.Sleep(8 * time.Second) // what a request takes here
		d.release <- struct{}{}
		<-w
		d.ask("a", chat)
		for range 3 {
			d.ask("a", chat)
		}
		late := <-d.ask("a", chat)
		refused(t, late, 429, "worker.busy")
		if got := late.Header().Get("Retry-After"); got != "32" {
			t.Errorf("Retry-After is %s with three requests of 8 s in front", got)
		}
		d.Drain()
		d.CutOff()
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Options{MaxRequests: 1, Timeout: time.Minute})
		begin := time.Now()
		first := d.ask("a", chat)
		second := d.ask("a", chat, HeaderTimeout, "5000")
		refused(t, <-second, 504, "request.deadline")
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("the client's 5 s took %s while it waited its turn", took)
		}
		refused(t, <-first, 504, "request.deadline")
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("the worker's minute took %s", took)
		}
		if d.ledger.cancelled != 2 || len(d.ledger.issued) != 0 {
			t.Errorf("%d reservations given back, %d receipts", d.ledger.cancelled, len(d.ledger.issued))
		}
		begin = time.Now()
		refused(t, <-d.ask("a", chat, HeaderTimeout, "4000000000"), 504, "request.deadline")
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("a client got %s", took)
		}
		for _, bad := range []string{"0", "-1", "1.5", "soon", "99999999999"} {
			refused(t, <-d.ask("a", chat, HeaderTimeout, bad), 400, "request.value")
		}
	})
}

// TestADeadlineInTheMiddleOfAStream: what came until then is there, and the
// last event says why there is no more.
func TestADeadlineInTheMiddleOfAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng := &endless{first: chunkA + chunkB, stopped: make(chan error, 1)}
		d := newDesk(t, Options{Engine: eng})
		w := <-d.ask("a", stream, HeaderTimeout, "2000")
		body := w.Body.String()
		if !strings.HasPrefix(body, chunkA+chunkB) || !strings.Contains(body, `"code":"request.deadline"`) {
			t.Errorf("got %q", body)
		}
		if err := <-eng.stopped; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the engine's request ended with %v", err)
		}
		if got := d.ledger.issued[0]; !got.Cancelled || got.Usage != (Usage{Completion: 2}) || got.Response != digest.Sum256([]byte(body)) {
			t.Errorf("delivery is %+v", got)
		}
	})
}

func TestADrainFinishesWhatRunsAndSendsTheRestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Options{MaxRequests: 1})
		running, waiting := d.ask("a", chat), d.ask("b", chat)
		d.Drain()
		refused(t, <-waiting, 503, "worker.draining")
		refused(t, <-d.ask("c", chat), 503, "worker.draining")
		health := httptest.NewRecorder()
		d.ServeHTTP(health, httptest.NewRequest("GET", pathHealth, nil))
		refused(t, health, 503, "worker.draining")
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.Idle(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v while one runs", err)
		}
		d.release <- struct{}{}
		if w := <-running; w.Code != 200 {
			t.Errorf("what ran got %d", w.Code)
		}
		if err := d.Idle(t.Context()); err != nil {
			t.Error(err)
		}
		d.Resume()
		again := d.ask("c", chat)
		d.release <- struct{}{}
		if w := <-again; w.Code != 200 {
			t.Errorf("after the drain: %d", w.Code)
		}
	})
}

func TestWhatRunsIsCutOffAtTheEndOfADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng := &endless{first: chunkA, stopped: make(chan error, 1)}
		d := newDesk(t, Options{Engine: eng})
		out := d.ask("a", stream)
		d.Drain()
		d.CutOff()
		body := (<-out).Body.String()
		if !strings.HasPrefix(body, chunkA) || !strings.Contains(body, `"code":"worker.draining"`) {
			t.Errorf("got %q", body)
		}
		<-eng.stopped
		if got := d.ledger.issued[0]; !got.Cancelled || got.Usage != (Usage{Completion: 1}) {
			t.Errorf("delivery is %+v", got)
		}
		d.Resume()
		out = d.ask("a", stream, HeaderTimeout, "1000")
		if body := (<-out).Body.String(); !strings.Contains(body, "request.deadline") {
			t.Errorf("a request after the drain got %q", body)
		}
		<-eng.stopped
	})
}

func TestBodiesInMemoryAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Options{MaxHeld: 3 * int64(len(chat)) / 2})
		first := d.ask("a", chat)
		refused(t, <-d.ask("b", chat), 429, "worker.busy")
		d.release <- struct{}{}
		<-first
		second := d.ask("b", chat)
		d.release <- struct{}{}
		if w := <-second; w.Code != 200 {
			t.Errorf("got %d", w.Code)
		}
	})
}

// TestAnAnnouncedBodyTakesNoRoom: a client that announces much and sends
// nothing keeps nobody out.
func TestAnAnnouncedBodyTakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, Options{MaxHeld: int64(len(chat)) + 1})
		pr, pw := io.Pipe()
		r := httptest.NewRequest("POST", PathChat, pr)
		r.ContentLength = MaxBody
		ended := make(chan *httptest.ResponseRecorder, 1)
		go func() {
			w := httptest.NewRecorder()
			d.ServeHTTP(w, r)
			ended <- w
		}()
		synctest.Wait()
		other := d.ask("b", chat)
		d.release <- struct{}{}
		if w := <-other; w.Code != 200 {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
		if _, err := io.WriteString(pw, chat+"   "); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		refused(t, <-ended, 429, "worker.busy")
		if d.held != 0 {
			t.Errorf("%d bytes are held", d.held)
		}
	})
}
