package wire

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	hostdv1 "cocoon/api/hostd/v1"
	"cocoon/internal/fault"
)

// Codes of faults that have a status of their own.
const (
	CodeForbidden = "hostd.forbidden"
	CodeBusy      = "hostd.busy"
)

// code maps a failure to a Connect code: its fault's code where that has one,
// else the kind of its exit code.
func code(err error) connect.Code {
	fs := fault.All(err)
	switch fs[0].Code {
	case CodeForbidden:
		return connect.CodePermissionDenied
	case CodeBusy, "vm.disk.full":
		return connect.CodeResourceExhausted
	case "vm.unknown":
		return connect.CodeNotFound
	case "vm.running", "vm.busy", "vm.upgrade.pending", "gpu.allocated":
		return connect.CodeAborted
	}
	switch fs[0].Exit {
	case fault.ExitParse:
		return connect.CodeInvalidArgument
	case fault.ExitNetwork:
		return connect.CodeUnavailable
	case fault.ExitNotReady, fault.ExitRefused, fault.ExitPolicy, fault.ExitDevOnly:
		return connect.CodeFailedPrecondition
	}
	return connect.CodeInternal
}

var errInternal = errors.New("the daemon failed; its log says why")

// Error returns an error as a Connect error with its faults as the detail. The
// text of one without faults stays in the daemon's log.
func Error(err error) *connect.Error {
	var ce *connect.Error
	all := fault.All(err)
	switch {
	case len(all) > 0:
	case errors.As(err, &ce):
		return ce
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded)
	default:
		return connect.NewError(connect.CodeInternal, errInternal)
	}
	out := connect.NewError(code(err), errors.New(all[0].Msg))
	d := &hostdv1.Faults{}
	for _, f := range all {
		d.Faults = append(d.Faults, &hostdv1.Fault{Code: f.Code, Message: f.Msg, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy, Exit: int32(f.Exit)})
	}
	if detail, derr := connect.NewErrorDetail(d); derr == nil {
		out.AddDetail(detail)
	}
	return out
}

// Faults returns the faults that a Connect error carries, or nil.
func Faults(e *connect.Error) error {
	var errs []error
	for _, d := range e.Details() {
		v, err := d.Value()
		if err != nil {
			continue
		}
		fs, ok := v.(*hostdv1.Faults)
		if !ok {
			continue
		}
		for _, f := range fs.Faults {
			exit := int(f.GetExit())
			if exit < fault.ExitInternal || exit > fault.ExitDevOnly {
				exit = fault.ExitInternal
			}
			errs = append(errs, &fault.Fault{Code: f.GetCode(), Exit: exit, Msg: f.GetMessage(), Expected: f.GetExpected(), Actual: f.GetActual(), Remedy: f.GetRemedy()})
		}
	}
	return errors.Join(errs...)
}
