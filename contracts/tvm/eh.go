package tvm

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental/table"
)

// C++ exceptions as Emscripten lowers them without the wasm exception
// proposal: __cxa_throw leaves the module through the host, every call that
// may be unwound goes through a host trampoline invoke_*, which restores the
// stack pointer and sets a flag that the module tests. The header of an
// exception lies before the object:
//
//	-20 type  u32    -16 destructor u32    -12 caught u8    -11 rethrown u8
//	 -8 adjusted pointer u32
const (
	headerType     = 20
	headerDtor     = 16
	headerCaught   = 12
	headerRethrown = 11
	headerAdjusted = 8
)

// errThrown travels as a panic from a throwing host function to the nearest
// invoke trampoline; wazero turns it into an error in between.
var errThrown = errors.New("c++ exception in flight")

// callKey selects a pooled table function: one table entry has one type, but a
// call with another must fail like call_indirect and not hit the pool.
type callKey struct {
	index  uint32
	invoke *invoker
}

// invoker is one invoke_* import.
type invoker struct {
	params  []api.ValueType // of the callee
	results []api.ValueType
}

// call is the trampoline: stack[0] is the table index, the callee's arguments
// follow; the result replaces stack[0].
func (v *invoker) call(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	sp := in.callExport(ctx, exportStackCurrent)
	err := in.callTable(ctx, uint32(stack[0]), v, stack)
	if err == nil {
		return
	}
	if !errors.Is(err, errThrown) {
		panic(err)
	}
	in.callExport(ctx, exportStackRestore, sp)
	in.callExport(ctx, exportSetThrew, 1, 0)
	if len(v.results) > 0 {
		stack[0] = 0
	}
}

// callTable calls a function of the module's table. Table entries that are
// host imports are called directly: the compiler cannot look them up. Wasm
// functions are pooled, because one api.Function must not be re-entered.
func (in *instance) callTable(ctx context.Context, index uint32, v *invoker, stack []uint64) error {
	if fn, ok := in.host.inTable[index]; ok {
		return catchThrown(func() {
			buf := make([]uint64, max(len(v.params), 1))
			copy(buf, stack[1:1+len(v.params)])
			fn(ctx, in.mod, buf)
			if len(v.results) > 0 {
				stack[0] = buf[0]
			}
		})
	}
	key := callKey{index, v}
	var fn api.Function
	if free := in.free[key]; len(free) > 0 {
		fn = free[len(free)-1]
		in.free[key] = free[:len(free)-1]
	} else {
		fn = table.LookupFunction(in.mod, 0, index, v.params, v.results)
	}
	var small [24]uint64
	buf := small[:max(len(v.params), len(v.results))]
	copy(buf, stack[1:1+len(v.params)])
	err := fn.CallWithStack(ctx, buf)
	if err == nil || errors.Is(err, errThrown) {
		in.free[key] = append(in.free[key], fn)
	}
	if err == nil && len(v.results) > 0 {
		stack[0] = buf[0]
	}
	return err
}

func catchThrown(f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case error:
			if !errors.Is(r, errThrown) {
				panic(r)
			}
			err = r
		default:
			panic(r)
		}
	}()
	f()
	return nil
}

func cxaThrow(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	ptr, typ, dtor := uint32(stack[0]), uint32(stack[1]), uint32(stack[2])
	in.put32(ptr-headerAdjusted, 0)
	in.put32(ptr-headerType, typ)
	in.put32(ptr-headerDtor, dtor)
	in.lastException = ptr
	in.uncaught++
	panic(errThrown)
}

func cxaBeginCatch(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	ptr := uint32(stack[0])
	if in.byteAt(ptr-headerCaught) == 0 {
		in.putByte(ptr-headerCaught, 1)
		in.uncaught--
	}
	in.putByte(ptr-headerRethrown, 0)
	in.caught = append(in.caught, ptr)
	in.callExport(ctx, exportIncrementRefcount, uint64(ptr))
	stack[0] = in.callExport(ctx, exportExceptionPtr, uint64(ptr))
}

func cxaEndCatch(ctx context.Context, _ api.Module, _ []uint64) {
	in := instanceOf(ctx)
	in.callExport(ctx, exportSetThrew, 0, 0)
	ptr := in.popCaught()
	in.callExport(ctx, exportDecrementRefcount, uint64(ptr))
	in.lastException = 0
}

func cxaRethrow(ctx context.Context, _ api.Module, _ []uint64) {
	in := instanceOf(ctx)
	ptr := in.popCaught()
	if in.byteAt(ptr-headerRethrown) == 0 {
		in.caught = append(in.caught, ptr)
		in.putByte(ptr-headerRethrown, 1)
		in.putByte(ptr-headerCaught, 0)
		in.uncaught++
	}
	in.lastException = ptr
	panic(errThrown)
}

// cxaFindMatchingCatch tries the n types in its arguments in order and returns
// the exception; the type that matched goes through the module's tempRet0.
func cxaFindMatchingCatch(n int) hostFunc {
	return func(ctx context.Context, _ api.Module, stack []uint64) {
		instanceOf(ctx).findCatch(ctx, stack, stack[:n])
	}
}

func (in *instance) findCatch(ctx context.Context, stack, types []uint64) {
	thrown := in.lastException
	found := func(typ uint32) {
		in.callExport(ctx, exportTempRetSet, uint64(typ))
		stack[0] = uint64(thrown)
	}
	if thrown == 0 {
		found(0)
		return
	}
	in.put32(thrown-headerAdjusted, thrown)
	thrownType := in.get32(thrown - headerType)
	if thrownType == 0 {
		found(0)
		return
	}
	for _, t := range types {
		typ := uint32(t)
		if typ == 0 || typ == thrownType {
			break
		}
		if uint32(in.callExport(ctx, exportCanCatch, uint64(typ), uint64(thrownType), uint64(thrown-headerAdjusted))) != 0 {
			found(typ)
			return
		}
	}
	found(thrownType)
}

func cxaUncaughtExceptions(ctx context.Context, _ api.Module, stack []uint64) {
	stack[0] = uint64(uint32(instanceOf(ctx).uncaught))
}

func resumeException(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	if in.lastException == 0 {
		in.lastException = uint32(stack[0])
	}
	panic(errThrown)
}

// ehTypeidFor is the identity: a type is known by its address.
func ehTypeidFor(context.Context, api.Module, []uint64) {}

func (in *instance) popCaught() uint32 {
	if len(in.caught) == 0 {
		panic(fmt.Errorf("leaving a catch block: %w", errNothingCaught))
	}
	ptr := in.caught[len(in.caught)-1]
	in.caught = in.caught[:len(in.caught)-1]
	return ptr
}

var errNothingCaught = errors.New("no exception was caught")
