// Package nvml asks NVIDIA's management library for what confidential
// computing needs: the driver's state, the devices' attestation reports and
// certificate chains, and the ready state. The library is loaded at run time,
// without cgo; a machine without it gets an error.
//
// Definitions: nvml.h of driver 535 and newer (NVIDIA "NVML API Reference
// Guide", section "Confidential Computing"). Only cmd/cocoon-nvml imports this
// package: the library's code runs in no other process.
package nvml

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"github.com/ebitengine/purego"

	"cocoon/enclave/gpu/wire"
)

// Path of the library, as the dynamic loader finds it.
const Path = "libnvidia-ml.so.1"

// Results (nvmlReturn_t).
const (
	success           = 0
	errUninitialized  = 1
	errInvalid        = 2
	errNotSupported   = 3
	errNoPermission   = 4
	errNotFound       = 6
	errDriverUnloaded = 9
	errTimeout        = 10
	errFunction       = 13
	errGPULost        = 15
	errReset          = 16
	errMismatch       = 18
	errInUse          = 19
)

// Library is the loaded and initialised library. Its methods are called one
// at a time.
type Library struct {
	handle uintptr
	syms   map[string]uintptr
}

// Open loads the library and initialises it. After a failure to initialise
// nothing else of it may be called: there is no Library then.
func Open(path string) (*Library, error) {
	h, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, &wire.Error{Code: wire.CodeLibrary, Call: "dlopen", Text: short(err.Error())}
	}
	l := &Library{handle: h, syms: map[string]uintptr{}}
	if err := l.call("nvmlInit_v2"); err != nil {
		return nil, err
	}
	return l, nil
}

// Close ends the use of the library.
func (l *Library) Close() error { return l.call("nvmlShutdown") }

// call calls a function whose arguments are integers and pointers, and turns
// its result into an error. A function that an older driver's library lacks is
// looked up, not called: the loader would end the process.
//
// The pragma keeps what the arguments point at in place.
//
//go:uintptrescapes
func (l *Library) call(name string, args ...uintptr) error {
	sym, ok := l.syms[name]
	if !ok {
		var err error
		if sym, err = purego.Dlsym(l.handle, name); err != nil {
			return &wire.Error{Code: wire.CodeLibrary, Call: name, Result: errFunction, Text: "the library has no such function: the driver is too old"}
		}
		l.syms[name] = sym
	}
	r, _, _ := purego.SyscallN(sym, args...)
	if res := int32(r); res != success {
		return &wire.Error{Code: codeOf(res), Call: name, Result: int(res), Text: textOf(res)}
	}
	return nil
}

func codeOf(res int32) string {
	switch res {
	case errNoPermission:
		return wire.CodeDenied
	case errDriverUnloaded, errMismatch:
		return wire.CodeDriver
	case errTimeout:
		return wire.CodeTimeout
	case errFunction:
		return wire.CodeLibrary
	case errGPULost, errReset:
		return wire.CodeLost
	case errInvalid, errInUse:
		return wire.CodeState
	}
	return wire.CodeOther
}

// textOf says what a result means; nvmlErrorString would be another call into
// a library that just failed.
func textOf(res int32) string {
	texts := map[int32]string{
		errUninitialized: "not initialised", errInvalid: "invalid argument, or a state that only a reboot leaves",
		errNotSupported: "not supported by this device", errNoPermission: "no permission", errNotFound: "not found",
		errDriverUnloaded: "the driver is not loaded", errTimeout: "timeout", errFunction: "no such function",
		errGPULost: "the GPU has fallen off the bus", errReset: "the GPU needs a reset",
		errMismatch: "library and driver are of different versions", errInUse: "the GPU is in use",
	}
	if t, ok := texts[res]; ok {
		return t
	}
	return "unknown error"
}

// text calls a function that fills a buffer with a C string.
func (l *Library) text(name string, args ...uintptr) (string, error) {
	var buf [96]byte
	if err := l.call(name, append(args, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))...); err != nil {
		return "", err
	}
	n := bytes.IndexByte(buf[:], 0)
	if n < 0 {
		return "", fmt.Errorf("calling %s: %w", name, errUnterminated)
	}
	return string(buf[:n]), nil
}

var errUnterminated = errors.New("a string without an end")

func short(s string) string { return s[:min(len(s), 512)] }
