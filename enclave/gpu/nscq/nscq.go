// Package nscq asks NVIDIA's NVSwitch library for the switches' attestation
// reports and certificate chains. The library is loaded at run time, without
// cgo.
//
// Definitions: nscq_attestation.h and nscq_attestation_path.h, API version 2, of
// NVIDIA's attestation SDK. The library must be of the driver's own version.
// Only cmd/cocoon-nvml imports this package.
package nscq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"

	"cocoon/enclave/gpu/nvml"
	"cocoon/enclave/gpu/wire"
)

// Path of the library, as the dynamic loader finds it.
const Path = "libnvidia-nscq.so.2"

// Paths of what is observed; the braces stand for every switch.
const (
	pathReport      = "/{nvswitch}/config/attestation_report\x00"
	pathCertificate = "/{nvswitch}/config/certificate\x00"
)

// mountDevices has a session open every switch (NSCQ_SESSION_CREATE_MOUNT_DEVICES).
const mountDevices = 1

// Sizes of the values, and where their parts are.
const (
	reportBytes      = 4 + 0x2000 // size, report
	certificateBytes = 0x1400 + 4 // chain, size
	certificateChain = 0x1400
)

// observe is the callback, in assembly; observeAddress is its address for C.
func observe()

var _ = observe // C calls it, Go does not

var observeAddress uintptr

// library is the loaded library with a session.
type library struct {
	handle  uintptr
	session uintptr
}

// Collect returns the evidence of every switch for a nonce.
func Collect(path string, nonce [32]byte) (out []wire.Device, err error) {
	h, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, &wire.Error{Code: wire.CodeLibrary, Call: "dlopen", Text: err.Error()[:min(len(err.Error()), 512)]}
	}
	l := &library{handle: h}
	if err := l.open(); err != nil {
		return nil, err
	}
	defer func() {
		if _, _, cerr := l.raw("nscq_session_destroy", l.session); cerr != nil {
			err = errors.Join(err, cerr)
		}
	}()
	input := new([32]byte)
	*input = nonce
	if err := l.call("nscq_session_set_input", l.session, 0, uintptr(unsafe.Pointer(input)), uintptr(len(input))); err != nil {
		return nil, err
	}
	reports, err := l.observe(pathReport, reportBytes)
	if err != nil {
		return nil, err
	}
	certs, err := l.observe(pathCertificate, certificateBytes)
	if err != nil {
		return nil, err
	}
	for uuid, r := range reports {
		d, err := l.device(uuid, r, certs[uuid])
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	// Of a map: let equal devices give equal evidence.
	slices.SortFunc(out, func(a, b wire.Device) int { return strings.Compare(a.UUID, b.UUID) })
	return out, nil
}

// device makes a device of what was observed.
func (l *library) device(uuid [16]byte, r, c []byte) (wire.Device, error) {
	if c == nil {
		return wire.Device{}, fmt.Errorf("reading a switch's certificates: switch %x has none", uuid)
	}
	n := binary.LittleEndian.Uint32(r)
	m := binary.LittleEndian.Uint32(c[certificateChain:])
	if int(n) > len(r)-4 || int(m) > certificateChain {
		return wire.Device{}, fmt.Errorf("reading a switch's report: %d and %d bytes do not fit", n, m)
	}
	chain, err := nvml.Certificates(c[:m])
	if err != nil {
		return wire.Device{}, err
	}
	label, err := l.label(uuid)
	if err != nil {
		return wire.Device{}, err
	}
	return wire.Device{Kind: wire.KindSwitch, UUID: label, Report: bytes.Clone(r[4 : 4+n]), Chain: chain}, nil
}

// open makes the session. Its result is a structure of two eightbytes, which C
// returns in two registers.
func (l *library) open() error {
	r1, r2, err := l.raw("nscq_session_create", mountDevices)
	if err != nil {
		return err
	}
	if err := check("nscq_session_create", r1); err != nil {
		return err
	}
	if r2 == 0 {
		return &wire.Error{Code: wire.CodeOther, Call: "nscq_session_create", Text: "no session"}
	}
	l.session = r2
	return nil
}

// raw calls a function of integers and pointers.
//
//go:uintptrescapes
func (l *library) raw(name string, args ...uintptr) (r1, r2 uintptr, err error) {
	sym, err := purego.Dlsym(l.handle, name)
	if err != nil {
		return 0, 0, &wire.Error{Code: wire.CodeLibrary, Call: name, Text: "the library has no such function"}
	}
	r1, r2, _ = purego.SyscallN(sym, args...)
	return r1, r2, nil
}

//go:uintptrescapes
func (l *library) call(name string, args ...uintptr) error {
	r, _, err := l.raw(name, args...)
	if err != nil {
		return err
	}
	return check(name, r)
}

// check reads a result code of 8 bits: below zero an error, above it a warning.
// The one warning there is means that library and driver differ, which is the
// usual cause of what fails next.
func check(name string, r uintptr) error {
	switch code := int8(r); {
	case code == 0:
		return nil
	case code == 1, code == -6:
		return &wire.Error{Code: wire.CodeDriver, Call: name, Result: int(code), Text: "library and driver are of different versions"}
	case code == -8:
		return &wire.Error{Code: wire.CodeTimeout, Call: name, Result: int(code), Text: "timeout"}
	case code == -7:
		return &wire.Error{Code: wire.CodeDriver, Call: name, Result: int(code), Text: "the switch driver failed"}
	default:
		return &wire.Error{Code: wire.CodeOther, Call: name, Result: int(code), Text: "refused"}
	}
}

// observe asks for a value of every switch, by UUID.
func (l *library) observe(path string, size int) (map[[16]byte][]byte, error) {
	const head, entryHead = 16, 32
	entry := entryHead + size
	buf := make([]byte, head+wire.MaxDevices*entry)
	binary.LittleEndian.PutUint64(buf[8:], uint64(size))
	p := []byte(path)
	if err := l.call("nscq_session_path_observe", l.session, uintptr(unsafe.Pointer(&p[0])), observeAddress, uintptr(unsafe.Pointer(&buf[0])), 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(buf)
	if n > wire.MaxDevices {
		return nil, fmt.Errorf("asking the switches: %d answers, at most %d", n, wire.MaxDevices)
	}
	out := map[[16]byte][]byte{}
	for i := range int(n) {
		e := buf[head+i*entry:][:entry]
		if err := check("nscq_session_path_observe", uintptr(e[16])); err != nil {
			return nil, err
		}
		uuid := [16]byte(e)
		if out[uuid] != nil {
			return nil, fmt.Errorf("asking the switches: %x answers twice", uuid)
		}
		out[uuid] = e[entryHead:]
	}
	return out, nil
}

// label returns the text of a UUID as the library has it.
func (l *library) label(uuid [16]byte) (string, error) {
	id, buf := new([16]byte), new([64]byte)
	*id = uuid
	if err := l.call("nscq_uuid_to_label", uintptr(unsafe.Pointer(id)), uintptr(unsafe.Pointer(buf)), 0); err != nil {
		return "", err
	}
	n := bytes.IndexByte(buf[:], 0)
	if n < 0 {
		return "", errors.New("reading a switch's name: it has no end")
	}
	return string(buf[:n]), nil
}
