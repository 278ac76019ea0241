package client

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

// call makes one request, again where the service turned it away unseen.
func call[In, Out any](ctx context.Context, c *Client, f func(context.Context, *connect.Request[In]) (*connect.Response[Out], error), in *In) (*Out, error) {
	wait := firstBackoff
	for try := 0; ; try++ {
		res, err := f(ctx, connect.NewRequest(in))
		if err == nil {
			return res.Msg, nil
		}
		after := retryAfter(err)
		if err = convert(err); try >= c.retries || !unseen(err) {
			return nil, err
		}
		select {
		case <-time.After(max(wait, after)):
			wait *= 2
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// retryAfter is how long the service wants to be left alone (RFC 9110, section
// 10.2.3, in seconds), within reason.
func retryAfter(err error) time.Duration {
	var e *connect.Error
	if !errors.As(err, &e) {
		return 0
	}
	n, err := strconv.ParseUint(e.Meta().Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}

// unseen reports whether the service turned a request away before it looked at
// it. Only then is it sent again: evidence uses its challenge up.
func unseen(err error) bool {
	return fault.Has(err, wire.CodeBusy) || fault.Has(err, wire.CodeRateLimited)
}

func unreachable(err error) error {
	return fault.New(fault.ExitNetwork, "verifier.unreachable", "check that the verifier runs and that its address is right", "calling verifier: %w", err)
}

func badResponse(err error) error {
	return fault.New(fault.ExitParse, "verifier.response", "check that the address is a verifier's, and of this version", "reading the verifier's answer: %w", err)
}

// convert turns a Connect error into faults.
func convert(err error) error {
	var e *connect.Error
	if !errors.As(err, &e) {
		return unreachable(err)
	}
	if fs := wire.Faults(e); len(fs) > 0 {
		return &ServiceError{Code: e.Code(), faults: fs}
	}
	switch e.Code() {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return unreachable(err)
	}
	return badResponse(err)
}

// ServiceError is an error that the verifier answered with: it decided
// nothing, and its faults say why.
type ServiceError struct {
	Code   connect.Code
	faults []*fault.Fault
}

// Error names the faults.
func (e *ServiceError) Error() string {
	text := make([]string, len(e.faults))
	for i, f := range e.faults {
		text[i] = f.Error()
	}
	return "verifier: " + strings.Join(text, "; ")
}

// Unwrap returns the faults.
func (e *ServiceError) Unwrap() []error {
	out := make([]error, len(e.faults))
	for i, f := range e.faults {
		out[i] = f
	}
	return out
}

// Refusal returns the result of refused evidence that err carries, or nil.
func Refusal(err error) *result.Result {
	var r *result.RefusedError
	if errors.As(err, &r) {
		return r.Result
	}
	return nil
}
