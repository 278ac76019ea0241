package serve

import (
	"encoding/json"
	"net/http"
	"strconv"

	"cocoon/internal/fault"
)

// apiError is an answer in OpenAI's error shape.
type apiError struct {
	status  int
	kind    string // OpenAI's "type"
	code    string // stable code
	param   string
	message string
	retry   int // seconds after which to try again, 0 for 1 where that makes sense
}

// Error implements error.
func (e *apiError) Error() string { return e.message + " [" + e.code + "]" }

func badRequest(code, param, message string) *apiError {
	return &apiError{status: http.StatusBadRequest, kind: "invalid_request_error", code: code, param: param, message: message}
}

func unavailable(code, message string) *apiError {
	return &apiError{status: http.StatusServiceUnavailable, kind: "server_error", code: code, message: message}
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
		return &apiError{status: http.StatusInternalServerError, kind: "server_error", code: "internal", message: "the worker failed; try again"}
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
	return &apiError{status: status, kind: kind, code: f.Code, message: msg}
}

// document is the error's JSON.
func (e *apiError) document() []byte {
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
	doc, err := json.Marshal(map[string]any{"error": b})
	if err != nil { // strings always encode
		return []byte(`{"error":{"message":"","type":"server_error","param":null,"code":"internal"}}`)
	}
	return doc
}

// write sends the error.
func (e *apiError) write(w http.ResponseWriter) {
	if e.status == http.StatusTooManyRequests || e.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, e.retry)))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.status)
	// A write error is the client's hang-up; there is no one left to tell.
	_, _ = w.Write(append(e.document(), '\n'))
}
