package tvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// hostFunc implements one import: arguments come in stack, the result goes
// into stack[0].
type hostFunc func(ctx context.Context, mod api.Module, stack []uint64)

// hostModule is the Go side of the import module, shared by all instances.
type hostModule struct {
	// inTable maps table indexes to the host functions that sit there.
	inTable map[uint32]hostFunc
}

// newHostModule instantiates the import module with exactly the imports that
// the compiled module declares; an import without an implementation is an
// error. hosted maps table indexes to import numbers.
func newHostModule(ctx context.Context, r wazero.Runtime, c wazero.CompiledModule, hosted map[uint32]uint32) (*hostModule, error) {
	impl := hostImports()
	invokes := invokeImports()
	builder := r.NewHostModuleBuilder(importModule)
	byNumber := map[uint32]hostFunc{}
	for i, def := range c.ImportedFunctions() {
		module, name, _ := def.Import()
		if module != importModule {
			return nil, fmt.Errorf("linking the TVM: unknown import module %q", module)
		}
		fn := impl[name]
		if slices.Contains(invokes, name) {
			fn = (&invoker{params: def.ParamTypes()[1:], results: def.ResultTypes()}).call
		}
		if fn == nil {
			return nil, fmt.Errorf("linking the TVM: unknown import %q", name)
		}
		byNumber[uint32(i)] = fn
		builder.NewFunctionBuilder().
			WithGoModuleFunction(api.GoModuleFunc(fn), def.ParamTypes(), def.ResultTypes()).
			Export(name)
	}
	h := &hostModule{inTable: map[uint32]hostFunc{}}
	for index, number := range hosted {
		h.inTable[index] = byNumber[number]
	}
	if _, err := builder.Instantiate(ctx); err != nil {
		return nil, fmt.Errorf("linking the TVM: %w", err)
	}
	return h, nil
}

// instance is one emulator with its own memory; one goroutine at a time.
type instance struct {
	host    *hostModule
	mod     api.Module
	mem     api.Memory
	log     *slog.Logger
	start   time.Time
	free    map[callKey][]api.Function
	exports map[string][]api.Function

	lastException uint32
	caught        []uint32
	uncaught      int

	emulator       uint32 // pointer to the C++ object, 0 before the first use
	emulatorConfig [32]byte
}

type instanceKey struct{}

func instanceOf(ctx context.Context) *instance {
	return ctx.Value(instanceKey{}).(*instance)
}

func (e *Engine) newInstance(ctx context.Context) (*instance, error) {
	in := &instance{
		host:    e.host,
		log:     e.log,
		start:   time.Now(),
		free:    map[callKey][]api.Function{},
		exports: map[string][]api.Function{},
	}
	ctx = context.WithValue(ctx, instanceKey{}, in)
	mod, err := e.runtime.InstantiateModule(ctx, e.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, fmt.Errorf("instantiating the TVM: %w", err)
	}
	in.mod = mod
	if in.mem = mod.ExportedMemory(exportMemory); in.mem == nil {
		return nil, errors.Join(errors.New("instantiating the TVM: it exports no memory"), mod.Close(ctx))
	}
	if _, err := in.call(ctx, exportConstructors); err != nil {
		return nil, errors.Join(fmt.Errorf("initialising the TVM: %w", err), mod.Close(ctx))
	}
	return in, nil
}

func (in *instance) close(ctx context.Context) error {
	if err := in.mod.Close(ctx); err != nil {
		return fmt.Errorf("closing a TVM: %w", err)
	}
	return nil
}

// call runs an exported function and returns its result, or 0 where it has
// none. A C++ exception that nothing caught is an error.
func (in *instance) call(ctx context.Context, name string, args ...uint64) (uint64, error) {
	var fn api.Function
	if free := in.exports[name]; len(free) > 0 {
		fn = free[len(free)-1]
		in.exports[name] = free[:len(free)-1]
	} else if fn = in.mod.ExportedFunction(name); fn == nil {
		return 0, fmt.Errorf("calling the TVM: no export %q", name)
	}
	var buf [8]uint64
	copy(buf[:], args)
	if err := fn.CallWithStack(ctx, buf[:]); err != nil {
		return 0, err
	}
	in.exports[name] = append(in.exports[name], fn)
	return buf[0], nil
}

// callExport is call for use inside host functions, where an error has to
// unwind the module.
func (in *instance) callExport(ctx context.Context, name string, args ...uint64) uint64 {
	res, err := in.call(ctx, name, args...)
	if err != nil {
		panic(err)
	}
	return res
}

var errOutOfBounds = errors.New("memory access out of bounds")

func (in *instance) get32(ptr uint32) uint32 {
	v, ok := in.mem.ReadUint32Le(ptr)
	if !ok {
		panic(errOutOfBounds)
	}
	return v
}

func (in *instance) put32(ptr, v uint32) {
	if !in.mem.WriteUint32Le(ptr, v) {
		panic(errOutOfBounds)
	}
}

func (in *instance) put64(ptr uint32, v uint64) {
	if !in.mem.WriteUint64Le(ptr, v) {
		panic(errOutOfBounds)
	}
}

func (in *instance) byteAt(ptr uint32) byte {
	v, ok := in.mem.ReadByte(ptr)
	if !ok {
		panic(errOutOfBounds)
	}
	return v
}

func (in *instance) putByte(ptr uint32, v byte) {
	if !in.mem.WriteByte(ptr, v) {
		panic(errOutOfBounds)
	}
}

// cString returns the bytes from ptr up to the next NUL.
func (in *instance) cString(ptr uint32) ([]byte, error) {
	if ptr == 0 {
		return nil, errors.New("reading a string of the TVM: null pointer")
	}
	rest, ok := in.mem.Read(ptr, in.mem.Size()-ptr)
	if !ok || ptr >= in.mem.Size() {
		return nil, errOutOfBounds
	}
	n := bytes.IndexByte(rest, 0)
	if n < 0 {
		return nil, errors.New("reading a string of the TVM: no end")
	}
	return bytes.Clone(rest[:n]), nil
}

// newCString copies s into the module's heap; the caller frees it.
func (in *instance) newCString(ctx context.Context, s string) (uint32, error) {
	p, err := in.call(ctx, exportMalloc, uint64(len(s)+1))
	if err != nil {
		return 0, err
	}
	ptr := uint32(p)
	if ptr == 0 || !in.mem.WriteString(ptr, s) || !in.mem.WriteByte(ptr+uint32(len(s)), 0) {
		return 0, errors.New("passing a string to the TVM: out of memory")
	}
	return ptr, nil
}
