package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu"
	policy "cocoon/verifier/policy/nvgpu"
	"cocoon/verifier/result"
)

// gpuReport is what "cocoon verify gpu" writes; docs/verify-gpu.md describes
// it.
type gpuReport struct {
	Accepted bool            `json:"accepted"`
	Time     time.Time       `json:"time"`  // that was judged at
	Roots    string          `json:"roots"` // "nvidia" or "custom"
	NotAfter *time.Time      `json:"not_after,omitempty"`
	Devices  []*nvgpu.Device `json:"devices"`
	Topology nvgpu.Topology  `json:"topology"`
	NRAS     []result.Check  `json:"nras,omitempty"` // of the service's answer, where one was given

	faults []error
}

// newGPUReport appraises what was found and draws the conclusion. opinion are
// the checks of the service's answer.
func newGPUReport(m *nvgpu.Machine, o *nvgpu.Options, p *policy.Policy, opinion []result.Check) *gpuReport {
	r := &gpuReport{Time: o.Now, Roots: "nvidia", Devices: m.Devices, Topology: m.Topology, NRAS: opinion}
	if o.Roots != nil {
		r.Roots = "custom"
	}
	if !m.NotAfter.IsZero() {
		r.NotAfter = &m.NotAfter
	}
	for _, d := range r.Devices {
		d.Checks = append(d.Checks, p.Appraise(d, nil, o.OCSPNonce != nil)...)
	}
	for _, f := range failures(slices.Concat(r.Topology.Checks, devicesChecks(r.Devices), r.NRAS)) {
		r.faults = append(r.faults, f)
	}
	// Fail closed: nothing but devices with every needed check good accepts.
	if len(r.faults) == 0 && (len(r.Devices) == 0 || !slices.ContainsFunc(devicesChecks(r.Devices), func(c result.Check) bool { return c.ID == "gpu.signature" && c.Status == result.Pass })) {
		r.faults = append(r.faults, fault.New(fault.ExitRefused, "gpu.refused", "report this: a refusal without a failed check", "evidence is not genuine"))
	}
	r.Accepted = len(r.faults) == 0
	for _, d := range r.Devices {
		shorten(d.Checks)
	}
	shorten(r.Topology.Checks)
	return r
}

func devicesChecks(ds []*nvgpu.Device) []result.Check {
	var out []result.Check
	for _, d := range ds {
		out = append(out, d.Checks...)
	}
	return out
}

// failures returns a fault for each failed check.
func failures(checks []result.Check) []*fault.Fault {
	var fs []*fault.Fault
	for _, c := range checks {
		if c.Status == result.Fail {
			fs = append(fs, &fault.Fault{Code: c.ID, Exit: result.ExitOf(c.ID), Msg: c.Reason, Expected: c.Expected, Actual: c.Actual, Remedy: c.Remedy})
		}
	}
	return fs
}

func shorten(checks []result.Check) {
	for i := range checks {
		checks[i].ID = shortID(checks[i].ID)
	}
}

// write writes the report and returns what decides the exit code.
func (r *gpuReport) write(w io.Writer, asJSON bool) error {
	return writeReport(w, asJSON, r, r.text, r.faults)
}

// text is the report for a person: the verdict, what failed and what to do,
// then what was found.
func (r *gpuReport) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	verdict := "accepted"
	if !r.Accepted {
		verdict = "refused"
	}
	mode := ""
	if r.Topology.Mode != "" {
		mode = ", mode " + string(r.Topology.Mode)
	}
	line("%s: %d GPUs, %d switches%s", verdict, len(r.Topology.GPUs), len(r.Topology.Switches), mode)
	if r.Roots != "nvidia" {
		line("warning: trusting custom root certificates, not NVIDIA's")
	}
	writeFailures(&b, r.Topology.Checks)
	writeFailures(&b, r.NRAS)
	for i, d := range r.Devices {
		line("")
		kind := string(d.Kind)
		if kind == "" {
			kind = "unknown device"
		}
		line("device %d: %s %s", i, kind, plain(strings.Join(slices.DeleteFunc([]string{string(d.Arch), d.Model, d.Board, string(d.Mode)}, func(s string) bool { return s == "" }), " ")))
		writeFailures(&b, d.Checks)
		if d.Driver != "" {
			line("  %-14s %s", "driver", plain(d.Driver))
		}
		if d.VBIOS != "" {
			line("  %-14s %s", "vbios", plain(d.VBIOS))
		}
		if d.PDI != "" {
			line("  %-14s %s", "pdi", d.PDI)
		}
		for _, c := range d.Checks {
			switch {
			case c.Status == result.Skip:
				line("  skipped %s: %s", c.ID, plain(c.Reason))
			case c.ID == "measurements" && c.Status == result.Pass:
				line("  %-14s %s", c.ID, plain(c.Actual))
			}
		}
	}
	if len(r.NRAS) > 0 && len(failures(r.NRAS)) == 0 {
		line("")
		line("NVIDIA's attestation service says the same of these GPUs")
	}
	if slices.ContainsFunc(devicesChecks(r.Devices), func(c result.Check) bool { return c.ID == "ocsp" && c.Status == result.Skip }) {
		line("")
		line("warning: revocation was not looked at for every certificate: give --ocsp")
	}
	return b.String()
}
