package serve

import (
	"encoding/json"
	"net/http"

	"cocoon/internal/fault"
)

// apiError is an answer in OpenAI's error shape.
type apiError struct {
	status  int
	kind    string // OpenAI's "type"
	code    string // stable code
	param   string
	message string
}

// Error implements error.
func (e *apiError) Error() string { return e.message + " [" + e.code + "]" }

func badRequest(code, param, message string) *apiError {
	return &apiError{http.StatusBadRequest, "invalid_request_error", code, param, message}
}

func unavailable(code, message string) *apiError {
	return &apiError{http.StatusServiceUnavailable, "server_error", code, "", message}
}

// faultStatus has the statuses of faults whose class alone does not say it.
var faultStatus = map[string]int{
	"voucher.signature": http.StatusForbidden,
	"voucher.mismatch":  http.StatusConflict,
	"voucher.stale":     http.StatusConflict,
	"voucher.unknown":   http.StatusNotFound,
	"receipt.unknown":   http.StatusNotFound,
}

// statusOf maps a fault of the ledger: what it could not read is the request's
// fault, what it could not ask is the ledger's, and everything else about a job
// asks for payment first.
func statusOf(f *fault.Fault) int {
	if status, ok := faultStatus[f.Code]; ok {
		return status
	}
	switch f.Exit {
	case fault.ExitParse:
		return http.StatusBadRequest
	case fault.ExitNetwork, fault.ExitNotReady:
		return http.StatusServiceUnavailable
	case fault.ExitInternal:
		return http.StatusInternalServerError
	default:
		return http.StatusPaymentRequired
	}
}

// fromFault turns a ledger's refusal into an answer. The first fault names
// the code; errors without one stay inside.
func fromFault(err error) *apiError {
	fs := fault.All(err)
	if len(fs) == 0 {
		return &apiError{http.StatusInternalServerError, "server_error", "internal", "", "the worker failed; try again"}
	}
	f := fs[0]
	status := statusOf(f)
	msg := f.Msg
	if f.Expected != "" || f.Actual != "" {
		msg += " (expected " + f.Expected + ", actual " + f.Actual + ")"
	}
	if f.Remedy != "" {
		msg += "; " + f.Remedy
	}
	kind := "billing_error"
	if status >= 500 {
		kind = "server_error"
	}
	return &apiError{status, kind, f.Code, "", msg}
}

// write sends the error.
func (e *apiError) write(w http.ResponseWriter) {
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	b := body{Message: e.message, Type: e.kind, Code: e.code}
	if e.param != "" {
		b.Param = &e.param
	}
	if e.status == http.StatusTooManyRequests || e.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.status)
	// A write error is the client's hang-up; there is no one left to tell.
	_ = json.NewEncoder(w).Encode(map[string]any{"error": b})
}
