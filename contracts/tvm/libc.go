package tvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// The C library's view of the world: no files, no environment, no terminal.
// Results of an emulation depend on none of it: time, logical time and the
// random seed are arguments of each call.

// Error numbers of Emscripten's libc; system calls return them negated, WASI
// calls as they are.
const (
	errnoBadDescriptor = 8
	errnoNoSuchFile    = 44
	errnoNotTerminal   = 59
)

const wasmPage = 64 << 10

func fail(errno int32) uint64 { return uint64(uint32(-errno)) }

func sysBadDescriptor(_ context.Context, _ api.Module, stack []uint64) {
	stack[0] = fail(errnoBadDescriptor)
}

func sysNotTerminal(_ context.Context, _ api.Module, stack []uint64) {
	stack[0] = fail(errnoNotTerminal)
}

func sysNoSuchFile(_ context.Context, _ api.Module, stack []uint64) {
	stack[0] = fail(errnoNoSuchFile)
}

func wasiBadDescriptor(_ context.Context, _ api.Module, stack []uint64) {
	stack[0] = errnoBadDescriptor
}

var errAborted = errors.New("the emulator aborted")

func abortHost(context.Context, api.Module, []uint64) { panic(errAborted) }

// logFormatted is emscripten_log(flags, text).
func logFormatted(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	if s, err := in.cString(uint32(stack[1])); err == nil {
		in.log.DebugContext(ctx, "tvm", "text", string(s))
	}
}

// brokenDownTime is gmtime(i64 seconds, struct tm *) and, because the guest
// lives in UTC, localtime as well.
func brokenDownTime(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	t := time.Unix(int64(stack[0]), 0).UTC()
	fields := []int{t.Second(), t.Minute(), t.Hour(), t.Day(), int(t.Month()) - 1, t.Year() - 1900,
		int(t.Weekday()), t.YearDay() - 1, 0, 0}
	for i, f := range fields {
		in.put32(uint32(stack[1])+uint32(4*i), uint32(int32(f)))
	}
}

// tzset writes UTC: offset 0, no daylight saving, empty names.
func tzset(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	in.put32(uint32(stack[0]), 0)
	in.put32(uint32(stack[1]), 0)
	in.putByte(uint32(stack[2]), 0)
	in.putByte(uint32(stack[3]), 0)
}

// clockTimeGet is clock_time_get(id, precision, u64 *ns): wall clock for id 0,
// time since the instance started for the others.
func clockTimeGet(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	now := uint64(time.Since(in.start))
	if stack[0] == 0 {
		now = uint64(time.Now().UnixNano())
	}
	in.put64(uint32(stack[2]), now)
	stack[0] = 0
}

func dateNow(_ context.Context, _ api.Module, stack []uint64) {
	stack[0] = math.Float64bits(float64(time.Now().UnixMilli()))
}

// asmConst runs one of the three snippets of JavaScript that the build embeds,
// known by their address: a random u32, its set-up, and a throw with a message.
func asmConst(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	switch uint32(stack[0]) {
	case 1842500:
		var b [4]byte
		rand.Read(b[:])
		stack[0] = uint64(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
	case 1842536:
		stack[0] = 0
	case 1843258:
		msg, err := in.cString(in.get32(uint32(stack[2])))
		if err != nil {
			panic(err)
		}
		panic(fmt.Errorf("%w: %s", errAborted, msg))
	default:
		panic(fmt.Errorf("%w: unknown script %d", errAborted, uint32(stack[0])))
	}
}

func heapMax(_ context.Context, _ api.Module, stack []uint64) {
	stack[0] = memoryPages * wasmPage
}

// resizeHeap grows the memory to at least the requested number of bytes.
func resizeHeap(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	want, have := stack[0]&math.MaxUint32, uint64(in.mem.Size())
	if want <= have {
		stack[0] = 1
		return
	}
	target := min(max(want, have+have/5), memoryPages*wasmPage)
	if want > target {
		stack[0] = 0
		return
	}
	_, ok := in.mem.Grow(uint32((target - have + wasmPage - 1) / wasmPage))
	stack[0] = 0
	if ok {
		stack[0] = 1
	}
}

// environGet succeeds: there are no variables to write.
func environGet(_ context.Context, _ api.Module, stack []uint64) { stack[0] = 0 }

func environSizesGet(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	in.put32(uint32(stack[0]), 0)
	in.put32(uint32(stack[1]), 0)
	stack[0] = 0
}

// fdWrite logs what goes to standard output and standard error.
func fdWrite(ctx context.Context, _ api.Module, stack []uint64) {
	in := instanceOf(ctx)
	fd, iov, n, written := uint32(stack[0]), uint32(stack[1]), uint32(stack[2]), uint32(stack[3])
	if fd != 1 && fd != 2 {
		stack[0] = errnoBadDescriptor
		return
	}
	var total uint32
	for i := range n {
		ptr, size := in.get32(iov+8*i), in.get32(iov+8*i+4)
		text, ok := in.mem.Read(ptr, size)
		if !ok {
			panic(errOutOfBounds)
		}
		if size > 0 {
			in.log.DebugContext(ctx, "tvm", "text", string(text))
		}
		total += size
	}
	in.put32(written, total)
	stack[0] = 0
}

func randomGet(ctx context.Context, _ api.Module, stack []uint64) {
	b, ok := instanceOf(ctx).mem.Read(uint32(stack[0]), uint32(stack[1]))
	if !ok {
		panic(errOutOfBounds)
	}
	rand.Read(b)
	stack[0] = 0
}
