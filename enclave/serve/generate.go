package serve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"cocoon/measurements/digest"
)

// maxAnswer bounds an answer that is not streamed, in bytes.
const maxAnswer = 32 << 20

// call is one request on its way through.
type call struct {
	endpoint string
	request  digest.SHA256
	account  Account // nil without a ledger
	begin    time.Time
	status   int
	usage    Usage
}

// generate serves a completion.
func (s *Server) generate(w http.ResponseWriter, r *http.Request, endpoint string) {
	c := &call{endpoint: endpoint, begin: s.opt.Clock()}
	s.opt.Meter.Begin()
	defer func() {
		took := s.opt.Clock().Sub(c.begin)
		s.opt.Meter.End(endpoint, c.status, c.usage, took)
		s.opt.Log.Info("request", "endpoint", endpoint, "status", c.status, "prompt_tokens", c.usage.Prompt,
			"completion_tokens", c.usage.Completion, "ms", took.Milliseconds())
	}()
	if apiErr := s.admitAndSend(w, r, c); apiErr != nil {
		c.status = apiErr.status
		s.refuse(w, apiErr)
	}
}

// admitAndSend returns an error only while nothing has been sent.
func (s *Server) admitAndSend(w http.ResponseWriter, r *http.Request, c *call) *apiError {
	if apiErr := s.open(); apiErr != nil {
		return apiErr
	}
	ctx, cancel, apiErr := s.bounded(r)
	if apiErr != nil {
		return apiErr
	}
	defer cancel(nil)
	held := &holding{s: s}
	defer held.release()
	body, apiErr := readBody(w, r, MaxBody, held)
	if apiErr != nil {
		return apiErr
	}
	c.request = digest.Sum256(body)
	f, apiErr := filter(c.endpoint, s.names, body)
	if apiErr != nil {
		return apiErr
	}
	f.with(s.opt.Private)
	if apiErr := s.admit(ctx, r, c, f); apiErr != nil {
		return apiErr
	}
	// After who pays is known, so that nobody gets more turns by names.
	leave, apiErr := s.wait(ctx, c)
	if apiErr != nil {
		s.cancel(c)
		return apiErr
	}
	defer leave()
	begin := time.Now()
	defer func() { s.took(time.Since(begin)) }()
	apiErr = s.forward(ctx, cancel, w, c, f)
	if apiErr != nil {
		if apiErr.status == statusGone {
			// Nobody sees the answer, but whoever asks finds that nothing of
			// it is owed.
			s.settle(w, c, digest.Sum256(nil), true)
		} else {
			s.cancel(c)
		}
	}
	return apiErr
}

// admit has the ledger reserve what the request may cost.
func (s *Server) admit(ctx context.Context, r *http.Request, c *call, f *filtered) *apiError {
	if s.opt.Ledger == nil {
		return nil
	}
	job := r.Header.Get(HeaderJob)
	if job == "" {
		return &apiError{status: http.StatusPaymentRequired, kind: "billing_error", code: "job.required", param: HeaderJob,
			message: "name the job that pays in the header " + HeaderJob}
	}
	account, err := s.opt.Ledger.Open(ctx, job, f.model, f.most)
	if err != nil {
		if ctx.Err() != nil {
			return ended(ctx)
		}
		return fromFault(err)
	}
	c.account = account
	return nil
}

func (s *Server) cancel(c *call) {
	if c.account != nil {
		c.account.Cancel()
	}
}

// forward sends the request to the engine and the answer to the client. The
// engine's request ends with ctx: an engine computes nothing for a client that
// is gone.
func (s *Server) forward(ctx context.Context, cancel context.CancelCauseFunc, w http.ResponseWriter, c *call, f *filtered) *apiError {
	// Made anew: nothing of the client's headers, Authorization least of all,
	// reaches the engine.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine"+c.endpoint, bytes.NewReader(f.body))
	if err != nil {
		return unavailable("engine.request", "the worker failed; try again")
	}
	req.Header.Set("Content-Type", "application/json")
	rsp, err := s.model[f.model].RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			return ended(ctx)
		}
		return unavailable("engine.unreachable", "the engine does not answer; try again")
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		return engineError(rsp)
	}
	if f.stream {
		if !strings.HasPrefix(rsp.Header.Get("Content-Type"), "text/event-stream") {
			return unavailable("engine.protocol", "the engine did not stream")
		}
		s.stream(ctx, cancel, w, c, f, rsp.Body)
		return nil
	}
	return s.whole(ctx, w, c, rsp.Body)
}

// engineError maps an engine's refusal. Of its text only the message of a 400
// is passed on: it says what is wrong with the request.
func engineError(rsp *http.Response) *apiError {
	switch rsp.StatusCode {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		var body struct {
			Error struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		msg := "the engine refused the request"
		if b, err := io.ReadAll(io.LimitReader(rsp.Body, 64<<10)); err == nil && json.Unmarshal(b, &body) == nil && body.Error.Message != "" {
			msg = strings.ToValidUTF8(body.Error.Message[:min(len(body.Error.Message), 500)], "")
		}
		return badRequest("engine.refused", "", msg)
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		// Such as embeddings of a model that only talks.
		return &apiError{status: http.StatusNotFound, kind: "invalid_request_error", code: "engine.no_endpoint", message: "the engine does not offer this with its model"}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return unavailable("engine.busy", "the engine is busy; try again")
	default:
		return &apiError{status: http.StatusBadGateway, kind: "server_error", code: "engine.failed", message: "the engine failed; try again"}
	}
}

// whole sends an answer that is not streamed.
func (s *Server) whole(ctx context.Context, w http.ResponseWriter, c *call, body io.Reader) *apiError {
	b, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err != nil && ctx.Err() != nil {
		return ended(ctx)
	}
	if err != nil || len(b) > maxAnswer {
		return unavailable("engine.protocol", "the engine's answer was cut short")
	}
	var answer struct {
		Usage *usageJSON `json:"usage"`
	}
	if err := json.Unmarshal(b, &answer); err != nil || answer.Usage == nil {
		return unavailable("engine.protocol", "the engine's answer has no usage")
	}
	if c.usage, err = answer.Usage.usage(); err != nil {
		return unavailable("engine.protocol", err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	s.declareTrailer(w, c)
	w.WriteHeader(http.StatusOK)
	c.status = http.StatusOK
	out := &hashing{w: w, sum: sha256.New()}
	_, werr := out.Write(b)
	s.settle(w, c, out.digest(), werr != nil)
	return nil
}

// stream sends an answer event by event.
func (s *Server) stream(ctx context.Context, cancel context.CancelCauseFunc, w http.ResponseWriter, c *call, f *filtered, body io.Reader) {
	rc := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	s.declareTrailer(w, c)
	w.WriteHeader(http.StatusOK)
	c.status = http.StatusOK
	out := &hashing{w: w, sum: sha256.New()}
	m := &meter{keepUsage: f.wantUsage}
	// A client that does not read must not keep its place for ever.
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	err, sendErr := m.copy(body, func(events []byte) error {
		_, err := out.Write(events)
		if err == nil {
			err = rc.Flush()
			_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		}
		if err != nil {
			cancel(errGone)
		}
		return err
	})
	if err == nil && !m.done {
		err = errors.New("the engine's stream ended early")
	}
	if err != nil && sendErr == nil {
		// The status is sent; in a stream an error is an event.
		e := &apiError{kind: "server_error", code: "engine.failed", message: "the engine failed"}
		if ctx.Err() != nil {
			e = ended(ctx)
		}
		_, sendErr = out.Write(append(append([]byte("data: "), e.document()...), "\n\n"...))
		s.opt.Meter.Refused(e.code)
	}
	if m.done && !m.hasUsage {
		s.opt.Meter.Refused("engine.no_usage")
	}
	c.usage = m.billed()
	s.settle(w, c, out.digest(), err != nil || sendErr != nil)
}

// declareTrailer announces the receipt, which makes the body chunked.
func (s *Server) declareTrailer(w http.ResponseWriter, c *call) {
	if c.account != nil {
		w.Header().Set("Trailer", TrailerReceipt)
	}
}

// settle issues the receipt for what was sent.
func (s *Server) settle(w http.ResponseWriter, c *call, response digest.SHA256, cancelled bool) {
	if c.account == nil {
		return
	}
	receipt, err := c.account.Issue(Delivery{
		Request: c.request, Response: response, Usage: c.usage, Cancelled: cancelled, Time: s.opt.Clock().UTC(),
	})
	if err != nil {
		// Without a receipt the client owes nothing; the job's state keeps
		// the reservation until the next request settles it.
		s.opt.Log.Error("receipt not issued", "err", err)
		return
	}
	w.Header().Set(TrailerReceipt, receipt)
}
