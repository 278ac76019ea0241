package tee

import (
	"fmt"
	"time"

	"cocoon/measurements/eventlog"
	"cocoon/verifier/appraise"
	"cocoon/verifier/azure"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/snp"
	"cocoon/verifier/tdx"
)

// AppraiseForeign verifies a recorded TD quote and holds its TCB against the
// policy; where there is a log, it is replayed to the registers. What the quote
// was made over is anyone's.
func (a *tdxCPU) AppraiseForeign(f *evidence.Foreign, p *policy.Policy, now time.Time) appraise.CPUResult {
	out := &outcome{appraise.CPUResult{TrustClass: policy.ClassTDX}}
	d := a.o.DCAP
	d.Now = now
	res := verifyTDX(&a.o, &d, &evidence.Evidence{CPU: *f.CPU, Collateral: f.Collateral}, f.CPU.Quote, p, out)
	if res == nil {
		return out.CPUResult
	}
	out.CPU = append(out.CPU, res.Checks...)
	out.policyTDX(p, res, now)
	if len(f.CPU.EventLog) > 0 {
		foreignLog(f.CPU.EventLog, res, out)
	}
	out.Measurements, out.Facts = res.Measurements(), &res.Result
	return out.CPUResult
}

// foreignLog replays a log to the registers that it speaks of: a CCEL to RTMR0
// to RTMR2, RTMR3 is whatever its guest makes of it; an agent's log to all.
func foreignLog(log []byte, res *tdx.Result, out *outcome) {
	l, err := parseForeignLog(log)
	var traces []eventlog.Trace
	if err == nil {
		traces, err = l.Traces(eventlog.SHA384)
	}
	if err != nil {
		out.fail(checkLog, "a CCEL or a JSON log with a SHA-384 bank", oneLine(err), "event log does not parse", "give the log as the machine handed it over")
		return
	}
	out.pass(checkLog, fmt.Sprintf("%d events", len(l.Events)))
	structure(l.Check(), out)
	registers := firmwareRegisters
	if l.Kind == eventlog.KindJSON {
		registers++ // the agent's own events are in it, too
	}
	replay(l, traces, res, registers, out)
}

// parseForeignLog reads a CCEL, or the JSON log of a guest agent. Binary logs of
// a TPM have other registers.
func parseForeignLog(log []byte) (*eventlog.Log, error) {
	l, err := eventlog.Parse(log)
	if err != nil || l.Kind != eventlog.KindTPM {
		return l, err
	}
	return eventlog.ParseCCEL(log) // says what is wrong
}

// AppraiseForeign verifies a recorded SNP report and holds it against the
// policy.
func (a snpCPU) AppraiseForeign(f *evidence.Foreign, p *policy.Policy, now time.Time) appraise.CPUResult {
	out := &outcome{appraise.CPUResult{TrustClass: policy.ClassSNP}}
	o := a.o.SNP
	o.Now = now
	got := a.o.material(f.CPU, f.Collateral, p, now)
	o.Certificate, o.CRL = got.vcek, got.crl
	out.CPU = append(out.CPU, got.snpChecks...)
	if p.SNP != nil {
		o.RequireCRL, o.CRLMaxAge = p.SNP.RequireCRL, p.SNP.CRLMaxAge()
	}
	res, err := snp.Verify(f.CPU.Quote, &o)
	if res == nil {
		out.faults(err)
		return out.CPUResult
	}
	out.CPU = append(out.CPU, res.Checks...)
	out.policy(p.SNP.Appraise(res))
	out.Measurements = res.Measurements()
	out.until(res.NotAfter)
	return out.CPUResult
}

// AppraiseForeign verifies recorded evidence of an Azure VM, from the
// hardware's report to the quote of its TPM.
func (a azureCPU) AppraiseForeign(f *evidence.Foreign, p *policy.Policy, now time.Time) appraise.CPUResult {
	out := &outcome{appraise.CPUResult{TrustClass: f.CPU.Type}}
	d, s := a.o.DCAP, a.o.SNP
	d.Now = now
	in := &azure.Evidence{HCL: f.CPU.HCLReport, TDQuote: f.CPU.TDQuote, Attest: f.CPU.Quote, Signature: f.CPU.Signature, EventLog: f.CPU.EventLog}
	got := a.o.material(f.CPU, f.Collateral, p, now)
	in.VCEK, s.CRL = got.vcek, got.crl
	if f.CPU.Type == evidence.TypeAzTDX {
		if len(f.CPU.CertChain) > 0 {
			in.VCEK = f.CPU.CertChain[0] // which has no place there
		}
		d.CollateralGrace = tdxGrace(p)
		got.takeIntel(&d, out)
	} else {
		out.CPU = append(out.CPU, got.snpChecks...)
	}
	if p.SNP != nil {
		s.RequireCRL, s.CRLMaxAge = p.SNP.RequireCRL, p.SNP.CRLMaxAge()
	}
	r, err := azure.Verify(in, &azure.Options{Now: now, SNP: &s, TDX: &d, AnyQualifyingData: true, AnySelection: true})
	if r == nil {
		out.faults(err)
		return out.CPUResult
	}
	out.CPU = append(out.CPU, r.Checks...)
	if r.Class != f.CPU.Type {
		out.fail("evidence.cpu.type", f.CPU.Type, r.Class, "the hardware is another than the evidence says", "send the evidence of one machine")
	}
	switch {
	case r.TDX != nil:
		out.policyTDX(p, r.TDX, now)
		out.Measurements = r.TDX.Measurements()
		out.until(r.TDX.NotAfter)
	case r.SNP != nil:
		out.policy(p.SNP.Appraise(r.SNP))
		out.Measurements = r.SNP.Measurements()
		out.until(r.SNP.NotAfter)
	}
	return out.CPUResult
}
