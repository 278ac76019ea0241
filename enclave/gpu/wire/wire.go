// Package wire is what the supervisor and cocoon-nvml, the program that loads
// NVIDIA's libraries, say to each other: one JSON request on standard input,
// one JSON answer on standard output, then the program ends. NVIDIA's code runs
// in the program alone; the supervisor believes nothing of its answer but what
// a device signed, and reads it as it reads any untrusted document.
package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"

	"cocoon/internal/jcs"
)

// Version of the exchange.
const Version = 1

// Operations of a request.
const (
	OpState   = "state"   // what driver and devices say of themselves
	OpCollect = "collect" // attestation reports and certificate chains
	OpReady   = "ready"   // let the GPUs take work
)

// Limits.
const (
	MaxRequest  = 4 << 10
	MaxReply    = 1 << 20
	MaxDevices  = 16       // GPUs and switches of one machine
	MaxReport   = 8 << 10  // NVML_CC_GPU_ATTESTATION_REPORT_SIZE
	MaxChain    = 8        // certificates
	MaxCert     = 4 << 10  // bytes of one
	maxText     = 128      // bytes of a name or version
	maxMessage  = 1 << 10  // bytes of an error's text
	nonceLength = 2 * 0x20 // hex digits
)

// Kinds of devices.
const (
	KindGPU    = "gpu"
	KindSwitch = "switch"
)

// Request is what the supervisor asks.
type Request struct {
	Version  int    `json:"version"`
	Op       string `json:"op"`
	Nonce    string `json:"nonce,omitempty"`    // 32 bytes in hex, for collect
	Switches bool   `json:"switches,omitempty"` // collect from NVSwitches, too
}

// Reply is the answer: an error, or what the operation gives.
type Reply struct {
	Version int      `json:"version"`
	Error   *Error   `json:"error,omitempty"`
	State   *State   `json:"state,omitempty"`   // for state
	Devices []Device `json:"devices,omitempty"` // for collect
}

// Codes of an Error.
const (
	CodeLibrary = "library" // it is not there, or lacks a function
	CodeDriver  = "driver"  // no driver, or not the library's
	CodeLost    = "lost"    // a device is no longer on the bus
	CodeTimeout = "timeout"
	CodeDenied  = "denied"
	CodeState   = "state" // refused in the machine's present state
	CodeOther   = "other"
)

// Error says what failed.
type Error struct {
	Code   string `json:"code"`
	Call   string `json:"call"`   // function of the library
	Result int    `json:"result"` // what it returned
	Text   string `json:"text"`
}

// Error returns the text.
func (e *Error) Error() string {
	return fmt.Sprintf("%s returned %d (%s): %s", e.Call, e.Result, e.Code, e.Text)
}

// Modes of several GPUs (nvmlSystemConfComputeSettings_t.multiGpuMode).
const (
	MultiNone  = 0
	MultiPPCIE = 1
	MultiNVLE  = 2
)

// Environments (nvmlConfComputeSystemState_t.environment).
const (
	EnvironmentNone       = 0
	EnvironmentSimulation = 1
	EnvironmentProduction = 2
)

// State is what the driver says. None of it is signed by a device.
type State struct {
	Driver      string `json:"driver"`
	Environment int    `json:"environment"`
	CC          bool   `json:"cc"`       // the feature is on
	DevTools    bool   `json:"devtools"` // debugging is on: memory is open
	MultiGPU    int    `json:"multi_gpu"`
	Ready       bool   `json:"ready"` // the GPUs take work
	GPUs        []GPU  `json:"gpus"`
}

// GPU is one that the driver has.
type GPU struct {
	UUID   string `json:"uuid"`
	VBIOS  string `json:"vbios"`
	Fabric bool   `json:"fabric"` // part of the NVLink fabric, or none is needed
}

// Device is the evidence of one device.
type Device struct {
	Kind   string   `json:"kind"` // the library's word; the certificates decide
	UUID   string   `json:"uuid"`
	Report []byte   `json:"report"`
	Chain  [][]byte `json:"chain"` // DER, leaf first
}

// ParseRequest reads a request strictly.
func ParseRequest(b []byte) (*Request, error) {
	var r Request
	if err := jcs.Decode(b, MaxRequest, &r); err != nil {
		return nil, fmt.Errorf("reading request: %w", err)
	}
	if r.Version != Version {
		return nil, fmt.Errorf("reading request: version %d, want %d", r.Version, Version)
	}
	switch r.Op {
	case OpState, OpReady:
		if r.Nonce != "" || r.Switches {
			return nil, fmt.Errorf("reading request: %s takes no nonce and no switches", r.Op)
		}
	case OpCollect:
		if _, err := r.NonceBytes(); err != nil {
			return nil, fmt.Errorf("reading request: %w", err)
		}
	default:
		return nil, fmt.Errorf("reading request: operation %.32q is unknown", r.Op)
	}
	return &r, nil
}

// NonceBytes returns the nonce.
func (r *Request) NonceBytes() (n [32]byte, err error) {
	b, err := hex.DecodeString(r.Nonce)
	if err != nil || len(r.Nonce) != nonceLength {
		return n, errors.New("the nonce is not 32 bytes in hex")
	}
	return [32]byte(b), nil
}

var textRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._:/-]*$`)

// ParseReply reads the answer to an operation strictly and within its limits.
// An answer that is an error is returned as *Error.
func ParseReply(b []byte, op string) (*Reply, error) {
	var r Reply
	if err := jcs.Decode(b, MaxReply, &r); err != nil {
		return nil, fmt.Errorf("reading answer: %w", err)
	}
	if r.Version != Version {
		return nil, fmt.Errorf("reading answer: version %d, want %d", r.Version, Version)
	}
	if e := r.Error; e != nil {
		if len(e.Code) > maxText || len(e.Call) > maxText || len(e.Text) > maxMessage || r.State != nil || r.Devices != nil {
			return nil, errors.New("reading answer: an error that is too long or comes with more")
		}
		return nil, e
	}
	if (r.State != nil) != (op == OpState) || (len(r.Devices) > 0 && op != OpCollect) {
		return nil, fmt.Errorf("reading answer: not one to %s", op)
	}
	if r.State != nil {
		if err := r.State.check(); err != nil {
			return nil, fmt.Errorf("reading answer: %w", err)
		}
	}
	if len(r.Devices) > MaxDevices {
		return nil, fmt.Errorf("reading answer: %d devices, at most %d", len(r.Devices), MaxDevices)
	}
	for i := range r.Devices {
		if err := r.Devices[i].check(); err != nil {
			return nil, fmt.Errorf("reading answer: device %d: %w", i, err)
		}
	}
	return &r, nil
}

func (s *State) check() error {
	if len(s.GPUs) > MaxDevices {
		return fmt.Errorf("%d GPUs, at most %d", len(s.GPUs), MaxDevices)
	}
	texts := []string{s.Driver}
	for _, g := range s.GPUs {
		texts = append(texts, g.UUID, g.VBIOS)
	}
	// They end up in logs and remedies.
	for _, t := range texts {
		if len(t) > maxText || !textRE.MatchString(t) {
			return fmt.Errorf("%.40q is no version or name", t)
		}
	}
	return nil
}

func (d *Device) check() error {
	switch {
	case d.Kind != KindGPU && d.Kind != KindSwitch:
		return fmt.Errorf("kind %.16q is unknown", d.Kind)
	case len(d.UUID) > maxText || !textRE.MatchString(d.UUID):
		return fmt.Errorf("%.40q is no name", d.UUID)
	case len(d.Report) == 0 || len(d.Report) > MaxReport:
		return fmt.Errorf("a report of %d bytes", len(d.Report))
	case len(d.Chain) == 0 || len(d.Chain) > MaxChain:
		return fmt.Errorf("%d certificates", len(d.Chain))
	}
	for _, c := range d.Chain {
		if len(c) == 0 || len(c) > MaxCert {
			return fmt.Errorf("a certificate of %d bytes", len(c))
		}
	}
	return nil
}

// Marshal returns the JSON of a request or reply.
func Marshal(v any) ([]byte, error) { return jcs.Marshal(v) }
