package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cocoon/hostd/console"
	"cocoon/hostd/proc"
	"cocoon/internal/durable"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// Phases of a VM, as the host sees it.
const (
	Starting = "starting"
	Running  = "running"
	Stopping = "stopping"
	Stopped  = "stopped" // ended as asked, or by the guest's own power-off
	Failed   = "failed"  // could not start, or ended otherwise
)

// Names of the files in a VM's directory.
const (
	StateFile   = "state.json"
	ConsoleFile = "console.log"
	StatusFile  = "status.jsonl"
	TPMDir      = "tpm"
	RelayDir    = "relays"
	VouchersDir = "vouchers"
)

// maxState bounds the state file in bytes, maxStages its list.
const (
	maxState  = 1 << 20
	maxStages = 128
)

// State is what is known about a VM. Everything under Guest is the guest's own
// word: it is shown and proves nothing.
type State struct {
	Name     string `json:"name"`
	Phase    string `json:"phase"`
	Accel    string `json:"accelerator"`
	AccelWhy string `json:"accelerator_reason"`
	TEE      string `json:"tee"`
	// Transport is how guest and host talk, and why.
	Transport    string     `json:"transport,omitempty"`
	TransportWhy string     `json:"transport_reason,omitempty"`
	Keeper       proc.ID    `json:"keeper"` // the process that answers for the VM
	QEMU         proc.ID    `json:"qemu"`
	SWTPM        proc.ID    `json:"swtpm"`
	Started      time.Time  `json:"started"`
	Ended        *time.Time `json:"ended,omitempty"`
	Reason       string     `json:"reason,omitempty"` // how it ended
	Faults       []Problem  `json:"faults,omitempty"` // why it failed
	EKSHA256     string     `json:"ek_certificate_sha256,omitempty"`
	Guest        Guest      `json:"guest"`
	BadLines     int        `json:"bad_status_lines,omitempty"` // status lines that could not be read
	// What the daemon knows beside; a keeper writes none of it.
	Restarts   int        `json:"restarts,omitempty"`    // since it last ran for a while
	NextStart  *time.Time `json:"next_start,omitempty"`  // when it is started again
	StartError string     `json:"start_error,omitempty"` // why the last start failed
	Upgrade    string     `json:"upgrade,omitempty"`     // the step of an upgrade that is under way
}

// Guest is what the guest says about itself.
type Guest struct {
	State  string               `json:"state,omitempty"`
	Stages []Stage              `json:"stages"`
	Faults []console.GuestFault `json:"faults,omitempty"`
	Panic  string               `json:"panic,omitempty"` // the console's line, where the kernel panicked
	// Metrics are its newest counters, by Prometheus name and labels. The map
	// is replaced and never changed.
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// Drain is how far it is with the host's last order. It is replaced and
	// never changed.
	Drain *console.Drain `json:"drain,omitempty"`
}

// Stage is one boot stage.
type Stage struct {
	Name     string               `json:"name"`
	Status   string               `json:"status"` // running, ok or failed
	MS       int64                `json:"ms"`
	UptimeMS int64                `json:"uptime_ms"` // of the guest, when it was reported
	HostMS   int64                `json:"host_ms"`   // since Started, when it arrived
	Faults   []console.GuestFault `json:"faults,omitempty"`
}

// Problem is a fault in stored form.
type Problem struct {
	Code     string `json:"code"`
	Exit     int    `json:"exit"`
	Message  string `json:"message"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

// ProblemsOf returns the stored form of every fault in err; an error without
// one becomes an internal one.
func ProblemsOf(err error) []Problem {
	if err == nil {
		return nil
	}
	var ps []Problem
	for _, f := range fault.All(err) {
		ps = append(ps, Problem{Code: f.Code, Exit: f.Exit, Message: f.Msg, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy})
	}
	if ps == nil {
		ps = []Problem{{Code: "internal", Exit: fault.ExitInternal, Message: err.Error()}}
	}
	return ps
}

// Err returns why the VM failed as faults again, or nil.
func (s *State) Err() error {
	var errs []error
	for _, p := range s.Faults {
		errs = append(errs, &fault.Fault{Code: p.Code, Exit: p.Exit, Msg: p.Message, Expected: p.Expected, Actual: p.Actual, Remedy: p.Remedy})
	}
	return errors.Join(errs...)
}

// Over reports whether the VM runs no more.
func (s *State) Over() bool { return s.Phase == Stopped || s.Phase == Failed }

// Reached says how far the VM is from a stage or guest state: true once it is
// reached, an error once it cannot be reached any more.
func (s *State) Reached(stage string) (bool, error) {
	for _, st := range s.Guest.Stages {
		if st.Name == stage && st.Status == "ok" {
			return true, nil
		}
	}
	if s.Guest.State == stage && stage != "" {
		return true, nil
	}
	if s.Guest.Panic != "" {
		return false, fault.New(fault.ExitNotReady, "vm.guest.panic", "read the console: cocoon vm logs "+s.Name,
			"waiting for stage %s: the guest's kernel panicked: %s", stage, s.Guest.Panic)
	}
	for _, st := range s.Guest.Stages {
		if st.Status == "failed" {
			return false, guestFault(s, stage, "stage "+st.Name+" failed", st.Faults)
		}
	}
	if s.Guest.State == "halted" {
		return false, guestFault(s, stage, "the guest halted", s.Guest.Faults)
	}
	if s.Over() {
		return false, errors.Join(fault.New(fault.ExitNotReady, "vm.ended", "read the console: cocoon vm logs "+s.Name,
			"waiting for stage %s: the machine has ended: %s", stage, s.Reason), s.Err())
	}
	return false, nil
}

// guestFault reports a refusal by the guest under the guest's own code.
func guestFault(s *State, stage, what string, fs []console.GuestFault) error {
	base := fault.New(fault.ExitNotReady, "vm.guest.failed", "read the console: cocoon vm logs "+s.Name, "waiting for stage %s: %s", stage, what)
	errs := []error{base}
	for _, g := range fs {
		errs = append(errs, &fault.Fault{Code: g.Code, Exit: fault.ExitNotReady, Msg: "guest: " + g.Message,
			Expected: g.Expected, Actual: g.Actual, Remedy: g.Remedy})
	}
	return errors.Join(errs...)
}

// ReadState reads the state of the VM in dir.
func ReadState(dir string) (*State, error) {
	path := filepath.Join(dir, StateFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading VM state: %w", err)
	}
	var s State
	if err := jcs.Decode(b, maxState, &s); err != nil {
		return nil, fmt.Errorf("reading VM state: %w", err)
	}
	return &s, nil
}

// WriteState replaces the state of the VM in dir in one step.
func WriteState(dir string, s *State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing VM state: %w", err)
	}
	if err := durable.Write(filepath.Join(dir, StateFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing VM state: %w", err)
	}
	return nil
}
