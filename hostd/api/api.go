// Package api is the host daemon's interface: HTTP over a UNIX socket, JSON
// in and out, errors as problem details (RFC 9457). Root, the daemon's own user
// and whom the configuration names may do everything the daemon can; the kernel
// says who calls.
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"cocoon/hostd/daemon"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/internal/fault"
)

// MaxBody bounds a request's body in bytes.
const MaxBody = 256 << 10

// Paths. {name} is a VM's or an authority's name.
const (
	PathHealth  = "/v1/health"
	PathIdle    = "/v1/idle"
	PathMetrics = "/metrics" // Prometheus
	PathAccel   = "/v1/accelerator"
	PathCA      = "/v1/tpm-ca/{name}"
	PathVMs     = "/v1/vms"
	PathVM      = "/v1/vms/{name}"
	PathStop    = "/v1/vms/{name}/stop"
	PathUpgrade = "/v1/vms/{name}/upgrade"
	PathCrashes = "/v1/vms/{name}/crashes"
	PathConsole = "/v1/vms/{name}/console" // text; ?follow=1 goes on until the VM ends
	PathStatus  = "/v1/vms/{name}/status"  // status lines; ?follow=1 as above
)

// Health says that the daemon answers.
type Health struct {
	Status    string `json:"status"` // "ok"
	PID       int    `json:"pid"`
	Ephemeral bool   `json:"ephemeral"`
}

// Accel is the accelerator that VMs get.
type Accel struct {
	Accel  string    `json:"accelerator"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// CA is a software-TPM authority.
type CA struct {
	Name    string `json:"name"`
	RootPEM string `json:"root_pem"`
}

// VMs is the list of all VMs.
type VMs struct {
	VMs []*machine.State `json:"vms"`
}

// Stop is how a VM is to be stopped.
type Stop struct {
	PowerOff bool `json:"power_off"` // without time to shut down
}

// Upgrade is to what a VM is to be upgraded.
type Upgrade struct {
	Spec     spec.Spec `json:"spec"`                // of the same name, with absolute paths
	Until    string    `json:"until,omitempty"`     // default "serving"
	TimeoutS int       `json:"timeout_s,omitempty"` // for the new version to get there; default 600
}

// Crashes are the newest failures of a VM.
type Crashes struct {
	Crashes []daemon.Crash `json:"crashes"`
}

// Problem is an error (RFC 9457), with all faults.
type Problem struct {
	Type   string            `json:"type"`
	Title  string            `json:"title"`
	Status int               `json:"status"`
	Detail string            `json:"detail,omitempty"`
	Code   string            `json:"code"`
	Faults []machine.Problem `json:"faults"`
}

// MediaProblem is the media type of Problem.
const MediaProblem = "application/problem+json"

// NewProblem describes err; what is not a fault stays in the daemon's log.
func NewProblem(err error) Problem {
	p := Problem{Status: httpStatus(err), Code: "internal", Faults: []machine.Problem{}}
	for _, f := range fault.All(err) {
		p.Faults = append(p.Faults, machine.Problem{Code: f.Code, Exit: f.Exit, Message: f.Msg, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy})
	}
	if len(p.Faults) > 0 {
		p.Code, p.Detail = p.Faults[0].Code, p.Faults[0].Message
	}
	p.Title, p.Type = http.StatusText(p.Status), "urn:cocoon:problem:"+p.Code
	return p
}

// Err returns the problem as faults.
func (p *Problem) Err() error {
	var errs []error
	for _, f := range p.Faults {
		exit := f.Exit
		if exit < fault.ExitInternal || exit > fault.ExitDevOnly {
			exit = fault.ExitInternal
		}
		errs = append(errs, &fault.Fault{Code: f.Code, Exit: exit, Msg: f.Message, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy})
	}
	if errs == nil {
		return fault.New(fault.ExitInternal, "hostd.internal", "read the daemon's log", "calling the host daemon: %s", p.Title)
	}
	return errors.Join(errs...)
}

func httpStatus(err error) int {
	var tooLarge *http.MaxBytesError
	fs := fault.All(err)
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case len(fs) == 0:
		return http.StatusInternalServerError
	}
	switch fs[0].Code {
	case "hostd.forbidden":
		return http.StatusForbidden
	case "vm.unknown":
		return http.StatusNotFound
	case "vm.running", "vm.busy", "vm.upgrade.pending", "gpu.allocated":
		return http.StatusConflict
	case "vm.disk.full":
		return http.StatusInsufficientStorage
	}
	switch fs[0].Exit {
	case fault.ExitParse:
		return http.StatusBadRequest
	case fault.ExitNotReady:
		return http.StatusServiceUnavailable
	case fault.ExitRefused, fault.ExitPolicy:
		return http.StatusUnprocessableEntity
	}
	return http.StatusInternalServerError
}

func writeJSON(w http.ResponseWriter, status int, media string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the caller has gone; there is nobody to tell
	return nil
}
