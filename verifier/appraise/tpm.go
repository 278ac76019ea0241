package appraise

import (
	"slices"
	"sort"
	"strings"
	"time"

	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/tpm"
)

// cpu returns the appraiser of the evidence's CPU type, nil if there is none.
func (a *appraisal) cpu() CPU {
	if a.ev.CPU.Type == evidence.TypeTPM {
		return tpmCPU{}
	}
	return a.o.CPUs[a.ev.CPU.Type]
}

// types lists the CPU types that can be appraised.
func (a *appraisal) types() []string {
	out := []string{evidence.TypeTPM}
	for t, c := range a.o.CPUs {
		if c != nil && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	sort.Strings(out)
	return out
}

// tpmCPU appraises evidence of type "tpm": a quote of a TPM beside a virtual
// machine, without a TEE's report. That is the development class, whoever
// made the TPM.
type tpmCPU struct{}

// TestRoots is empty: a policy names the authorities, and no class of hardware
// rests on them.
func (tpmCPU) TestRoots() []string { return nil }

// AppraiseCPU verifies the quote and holds its registers against the manifest.
func (tpmCPU) AppraiseCPU(ev *evidence.Evidence, m *manifest.Verified, p *policy.Policy, now time.Time) CPUResult {
	out := CPUResult{TrustClass: policy.ClassVTPM}
	fail := func(id, expected, actual, reason, remedy string) {
		out.CPU = append(out.CPU, result.Check{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy})
	}
	opts := &tpm.Options{Now: now}
	if p.TPM != nil {
		roots, err := tpm.ParseRoots(p.TPM.AKRoots)
		if err != nil {
			fail("policy.tpm", "AK roots that parse", oneLine(err), "the policy's AK roots do not parse", "correct the policy")
		}
		opts.AKRoots = roots
		if opts.EKRoots, err = tpm.ParseRoots(p.TPM.EKRoots); err == nil {
			opts.DevelopmentEKRoots, err = tpm.ParseRoots(p.TPM.DevelopmentEKRoots)
		}
		if err != nil {
			fail("policy.tpm", "EK roots that parse", oneLine(err), "the policy's EK roots do not parse", "correct the policy")
		}
	}
	q, err := ev.Claims.QualifyingData()
	if err != nil {
		fail("claims.encoding", "claims that can be encoded", oneLine(err), "claims cannot be encoded", RemedyEncoding)
	}
	opts.QualifyingData = q[:]
	in := &tpm.Evidence{Attest: ev.CPU.Quote, Signature: ev.CPU.Signature, CertChain: ev.CPU.CertChain, EventLog: ev.CPU.EventLog}
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		if err != nil {
			fail("tpm.runtime_events", "events that can be encoded", oneLine(err), "a runtime event cannot be encoded", RemedyEncoding)
			continue
		}
		in.RuntimeEvents = append(in.RuntimeEvents, b)
	}
	r := tpm.Verify(in, opts)
	out.CPU = append(out.CPU, r.Checks...)
	out.CPU = append(out.CPU, CheckRuntimeEvents("tpm.runtime_events", ev))
	out.NotAfter = r.NotAfter
	out.Measurements = registers(r.Registers)
	switch {
	case m == nil:
	case m.Manifest.TPM == nil || len(m.Manifest.TPM.Firmwares) == 0:
		out.Image = append(out.Image, result.Check{ID: "manifest.tpm", Status: result.Fail, Expected: "expected values for a TPM", Actual: "none",
			Reason: "the manifest has no section for this kind of machine", Remedy: "publish measurements for it"})
	default:
		out.Image = append(out.Image, firmwareChecks(m.Manifest.TPM, m.Manifest.Boot, r)...)
	}
	return out
}

// CheckRuntimeEvents checks that what the supervisor extended is exactly what this
// config makes it extend: config hash, model root, GPU count and mode, the latch,
// in that order and nothing else (DESIGN section 4). The caller binds the events to
// the quote, through PCR 15 or RTMR3; id is the check's.
func CheckRuntimeEvents(id string, ev *evidence.Evidence) result.Check {
	want, err := evidence.RuntimeEvents(&ev.Config)
	if err != nil {
		return result.Check{ID: id, Status: result.Fail, Expected: "a config whose events can be computed", Actual: oneLine(err),
			Reason: "nothing says what the supervisor had to measure", Remedy: "correct the config"}
	}
	if !slices.Equal(want, ev.CPU.RuntimeEvents) {
		return result.Check{ID: id, Status: result.Fail, Expected: eventText(want), Actual: eventText(ev.CPU.RuntimeEvents),
			Reason: "the supervisor measured something else than this config", Remedy: "show the config that was measured at boot"}
	}
	return result.Check{ID: id, Status: result.Pass, Actual: eventText(want)}
}

func eventText(es []evidence.RuntimeEvent) string {
	if len(es) == 0 {
		return "none"
	}
	var s strings.Builder
	for i, e := range es {
		if i == 8 {
			s.WriteString(" …")
			break
		}
		if i > 0 {
			s.WriteByte(' ')
		}
		s.WriteString(truncate(e.Event, 32))
		s.WriteByte('=')
		s.WriteString(truncate(e.Value, 80))
	}
	return s.String()
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
