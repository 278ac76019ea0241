package wire

import (
	"connectrpc.com/connect"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/internal/fault"
)

// code maps the kind of a failure to a Connect code.
func code(err error) connect.Code {
	if fault.Has(err, CodeNoManifest) || fault.Has(err, CodeNoVerdict) {
		return connect.CodeNotFound
	}
	if fault.Has(err, CodeRateLimited) || fault.Has(err, CodeBusy) {
		return connect.CodeResourceExhausted // HTTP 429
	}
	switch fault.ExitCode(err) {
	case fault.ExitParse:
		return connect.CodeInvalidArgument
	case fault.ExitNetwork:
		return connect.CodeUnavailable
	case fault.ExitRefused, fault.ExitPolicy:
		return connect.CodeFailedPrecondition
	}
	return connect.CodeInternal
}

// Codes of faults that have a status of their own.
const (
	CodeNoVerdict   = "verdict.unknown"
	CodeRateLimited = "verifier.rate_limited"
	CodeBusy        = "verifier.busy"
)

// Error returns an error as a Connect error with its faults as the detail. One
// without faults is internal: its text does not leave this process.
func Error(err error) *connect.Error {
	all := fault.All(err)
	if len(all) == 0 {
		return connect.NewError(connect.CodeInternal, errInternal{})
	}
	out := connect.NewError(code(err), err)
	d := &verifierv1.Faults{}
	for _, f := range all {
		w := FaultOf(f)
		d.Faults = append(d.Faults, &verifierv1.Fault{Code: w.Code, Message: w.Message, Expected: w.Expected, Actual: w.Actual, Remedy: w.Remedy, Exit: int32(w.Exit), Document: w.Document, Section: w.Section})
	}
	if detail, derr := connect.NewErrorDetail(d); derr == nil {
		out.AddDetail(detail)
	}
	if c := out.Code(); c == connect.CodeResourceExhausted || c == connect.CodeUnavailable {
		out.Meta().Set("Retry-After", "1")
	}
	return out
}

type errInternal struct{}

// Error says no more than that: what happened is not the caller's business.
func (errInternal) Error() string { return "internal error" }

// Faults returns the faults that a Connect error carries. The service is not
// trusted to call a failure a success.
func Faults(e *connect.Error) []*fault.Fault {
	var out []*fault.Fault
	for _, d := range e.Details() {
		v, err := d.Value()
		if err != nil {
			continue
		}
		fs, ok := v.(*verifierv1.Faults)
		if !ok {
			continue
		}
		for _, f := range fs.Faults {
			if f.GetCode() == "" {
				continue
			}
			exit := int(f.GetExit())
			if exit < fault.ExitInternal || exit > fault.ExitDevOnly {
				exit = fault.ExitRefused
			}
			out = append(out, &fault.Fault{Code: f.GetCode(), Exit: exit, Msg: f.GetMessage(), Expected: f.GetExpected(), Actual: f.GetActual(), Remedy: f.GetRemedy()})
		}
	}
	return out
}
