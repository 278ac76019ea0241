// Package tvm runs the real TON virtual machine inside this process: the
// emulator that the TON node's own sources compile to WebAssembly, taken from
// the pinned npm package @ton/sandbox and executed by wazero.
//
// In: an account, a message and a blockchain config as cells; out: the
// transaction and the new account, or a get method's stack. Storage phase,
// fees, gas, bounces and exit codes are the emulator's, none are computed here.
//
// The module is Emscripten output with C++ exceptions lowered to host calls
// (invoke_*, __cxa_*); eh.go implements that protocol. Its import and export
// names are minified and belong to one build of the module, so the file is
// accepted by SHA-256 only. `make deps` extracts it
// (contracts/scripts/extract-tvm.mjs).
package tvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// Hashes of the two files that `make deps` extracts from @ton/sandbox 0.41.0.
const (
	WasmSHA256   = "0c17fcac030b6871e96cc34d002223e5fb839af00c5b96cc461fbf9e71b0e75a"
	ConfigSHA256 = "2efd6c8dfeaf42f9d69a5ea8ad2780a6ea469b800cbc02c9cdc1d1e87c28bc58"
)

// EnvDir names the environment variable that overrides the default directory
// of the extracted files.
const EnvDir = "COCOON_TVM_DIR"

const (
	wasmFile   = "emulator.wasm"
	configFile = "config.boc"
	// maxArtefact bounds a read before its hash is known.
	maxArtefact = 16 << 20
	// memoryPages bounds one instance's linear memory: 4096 pages of 64 KiB
	// are 256 MiB; 18 MiB is what it needs in practice.
	memoryPages = 4096
)

// DefaultInstances is how many emulators run side by side; each holds about
// 20 MB once it has run.
const DefaultInstances = 2

// Options configure an Engine.
type Options struct {
	// Dir holds emulator.wasm and config.boc; empty means DefaultDir.
	Dir string
	// CacheDir keeps compiled code between processes (about 17 MB); empty
	// means the folder "cache" under Dir.
	CacheDir string
	// Instances bounds concurrent emulations; 0 means DefaultInstances.
	Instances int
	// Logger receives what the emulator prints; nil discards it.
	Logger *slog.Logger
}

// Engine is a compiled emulator with a pool of instances. It is safe for
// concurrent use.
type Engine struct {
	log      *slog.Logger
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
	host     *hostModule
	cache    wazero.CompilationCache
	slots    chan *instance // nil entries are instances yet to be made

	closeOnce sync.Once
	closeErr  error
}

// DefaultDir returns $COCOON_TVM_DIR, or build/tvm under the nearest parent of
// the working directory that holds a go.mod, or build/tvm.
func DefaultDir() string {
	if dir := os.Getenv(EnvDir); dir != "" {
		return dir
	}
	rel := filepath.Join("build", "tvm")
	dir, err := os.Getwd()
	if err != nil {
		return rel
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, rel)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return rel
		}
		dir = parent
	}
}

// Open checks and compiles the emulator. The first call on a machine takes
// seconds of compilation; later ones read the compilation cache. A missing
// file is ton.tvm.missing, another file than the pinned one
// ton.tvm.hash_mismatch.
func Open(ctx context.Context, o Options) (*Engine, error) {
	dir := o.Dir
	if dir == "" {
		dir = DefaultDir()
	}
	cacheDir := o.CacheDir
	if cacheDir == "" {
		cacheDir = filepath.Join(dir, "cache")
	}
	wasm, err := readPinned(filepath.Join(dir, wasmFile), WasmSHA256)
	if err != nil {
		return nil, err
	}
	hosted, err := tableImports(wasm)
	if err != nil {
		return nil, fmt.Errorf("reading the function table of the TVM: %w", err)
	}
	e := &Engine{log: o.Logger}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if err := e.compile(ctx, wasm, cacheDir); err != nil {
		return nil, errors.Join(err, e.Close(ctx))
	}
	if e.host, err = newHostModule(ctx, e.runtime, e.compiled, hosted); err != nil {
		return nil, errors.Join(err, e.Close(ctx))
	}
	n := o.Instances
	if n <= 0 {
		n = DefaultInstances
	}
	e.slots = make(chan *instance, n)
	for range n {
		e.slots <- nil
	}
	return e, nil
}

// compile holds a lock on the cache, so that processes started together
// compile once: each compilation takes seconds and 400 MB.
func (e *Engine) compile(ctx context.Context, wasm []byte, cacheDir string) error {
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return fmt.Errorf("creating the TVM's compilation cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cacheDir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("opening the lock of the TVM's compilation cache: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking the TVM's compilation cache: %w", err)
	}
	if e.cache, err = wazero.NewCompilationCacheWithDir(cacheDir); err != nil {
		return fmt.Errorf("opening the TVM's compilation cache: %w", err)
	}
	cfg := wazero.NewRuntimeConfig().
		WithCompilationCache(e.cache).
		WithMemoryLimitPages(memoryPages).
		WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesThreads)
	e.runtime = wazero.NewRuntimeWithConfig(ctx, cfg)
	if e.compiled, err = e.runtime.CompileModule(ctx, wasm); err != nil {
		return fmt.Errorf("compiling the TVM: %w", err)
	}
	return nil
}

// Close frees the engine; calls in flight must have returned.
func (e *Engine) Close(ctx context.Context) error {
	e.closeOnce.Do(func() {
		if e.runtime != nil {
			e.closeErr = e.runtime.Close(ctx)
		}
		if e.cache != nil {
			e.closeErr = errors.Join(e.closeErr, e.cache.Close(ctx))
		}
	})
	return e.closeErr
}

// withInstance runs f on a free instance. An instance that failed in any
// other way than by a C++ exception the module handled itself is thrown away:
// its memory may be half written, and later results would not be trustworthy.
func (e *Engine) withInstance(ctx context.Context, f func(*instance) error) (err error) {
	var in *instance
	select {
	case in = <-e.slots:
	case <-ctx.Done():
		return fmt.Errorf("waiting for a free TVM: %w", ctx.Err())
	}
	// The emulation itself is bounded by gas, and a cancelled context must not
	// tear an instance down halfway.
	ctx = context.WithoutCancel(ctx)
	healthy := false
	defer func() {
		if in != nil && !healthy {
			err = errors.Join(err, in.close(ctx))
			in = nil
		}
		e.slots <- in
	}()
	if in == nil {
		if in, err = e.newInstance(ctx); err != nil {
			return err
		}
	}
	if err := f(in); err != nil {
		return fault.New(fault.ExitInternal, "ton.tvm.failed",
			"report the input: the emulator must not fail on any", "running the TVM: %w", err)
	}
	healthy = true
	return nil
}

// readPinned reads a file and refuses any other content than the pinned one.
func readPinned(path, want string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, "ton.tvm.missing",
			"run `make deps` (or name the directory in "+EnvDir+")", "opening the TVM, which `make deps` extracts: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxArtefact))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); got != want {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.tvm.hash_mismatch", path, want, got,
			"remove the file and run `make deps`")
	}
	return b, nil
}
