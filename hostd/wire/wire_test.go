package wire

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/daemon"
	"cocoon/hostd/idle"
	"cocoon/hostd/machine"
	"cocoon/internal/fault"
)

// fill gives every field of a value one that is not zero.
func fill(v reflect.Value, n *int64) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1764000000+*n, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]float64{fmt.Sprint(*n): float64(*n)}))
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Float64:
		v.SetFloat(float64(*n))
	default:
		panic("no value of " + v.Type().String())
	}
}

// sample returns a value none of whose fields is zero, so that one that a
// message forgets shows.
func sample[T any]() *T {
	var v T
	n := int64(0)
	fill(reflect.ValueOf(&v).Elem(), &n)
	return &v
}

func TestNothingIsLostInAMessage(t *testing.T) {
	vm, crash, st, gpu := sample[machine.State](), sample[daemon.Crash](), sample[idle.Status](), sample[daemon.GPU]()
	// A guest has no exit codes, and a state none of the guest's.
	if diff := cmp.Diff(vm, ReadVM(VM(vm))); diff != "" {
		t.Errorf("a VM (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(*crash, ReadCrash(Crash(crash))); diff != "" {
		t.Errorf("a crash report (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(st, ReadIdle(Idle(st))); diff != "" {
		t.Errorf("the idle mode (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(*gpu, ReadGPU(GPU(gpu))); diff != "" {
		t.Errorf("a GPU (-want +got):\n%s", diff)
	}
	empty := &machine.State{Guest: machine.Guest{Stages: []machine.Stage{}}}
	if diff := cmp.Diff(empty, ReadVM(VM(empty))); diff != "" {
		t.Errorf("an empty VM (-want +got):\n%s", diff)
	}
	if got := ReadVM(nil); got.Name != "" || got.Guest.Stages == nil {
		t.Errorf("no VM at all: %+v", got)
	}
}

func TestErrorsCarryEveryFault(t *testing.T) {
	err := errors.Join(&fault.Fault{Code: "vm.disk.full", Exit: fault.ExitNotReady, Msg: "m", Expected: "a", Actual: "b", Remedy: "r"},
		fmt.Errorf("wrapped: %w", fault.New(fault.ExitParse, "vm.spec.invalid", "r2", "m2")))
	ce := Error(err)
	if ce.Code() != connect.CodeResourceExhausted {
		t.Errorf("code %s", ce.Code())
	}
	back := fault.All(Faults(ce))
	if len(back) != 2 || *back[0] != (fault.Fault{Code: "vm.disk.full", Exit: fault.ExitNotReady, Msg: "m", Expected: "a", Actual: "b", Remedy: "r"}) || back[1].Code != "vm.spec.invalid" || back[1].Exit != fault.ExitParse {
		t.Errorf("faults %+v", back)
	}
	for err, want := range map[error]connect.Code{
		errors.New("a path of the daemon's"):                       connect.CodeInternal,
		context.Canceled:                                           connect.CodeCanceled,
		fault.New(fault.ExitNotReady, "vm.unknown", "", "m"):       connect.CodeNotFound,
		fault.New(fault.ExitNotReady, "vm.busy", "", "m"):          connect.CodeAborted,
		fault.New(fault.ExitNotReady, CodeForbidden, "", "m"):      connect.CodePermissionDenied,
		fault.New(fault.ExitParse, "vm.spec.invalid", "", "m"):     connect.CodeInvalidArgument,
		fault.New(fault.ExitNotReady, "gpu.mode", "", "m"):         connect.CodeFailedPrecondition,
		fault.New(fault.ExitNetwork, "image.fetch.x", "", "m"):     connect.CodeUnavailable,
		fault.New(fault.ExitInternal, "vm.qemu.died", "", "m"):     connect.CodeInternal,
		connect.NewError(connect.CodeInvalidArgument, errInternal): connect.CodeInvalidArgument,
	} {
		if got := Error(err); got.Code() != want {
			t.Errorf("%v: %s, want %s", err, got.Code(), want)
		}
	}
	if got := Error(errors.New("a path of the daemon's")); got.Message() != errInternal.Error() {
		t.Errorf("the text of an internal error left the daemon: %s", got.Message())
	}
}
