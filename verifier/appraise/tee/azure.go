package tee

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/azure"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// azureCPU appraises evidence of types "az-snp" and "az-tdx".
type azureCPU struct{ o Options }

// TestRoots names the roots that are not the makers' own.
func (a azureCPU) TestRoots() []string { return a.o.TestRoots() }

// Prepare fetches what this evidence does not bring.
func (a azureCPU) Prepare(ctx context.Context, cpu *evidence.CPU, collateral json.RawMessage, p *policy.Policy, now time.Time) appraise.CPU {
	return azureCPU{a.o.with(ctx, cpu, collateral, p, now)}
}

// AppraiseCPU verifies the chain from the hardware's report to the virtual
// TPM's quote, which carries the claims' hash and with it freshness (DESIGN
// section 2), and holds the hardware's result against the policy.
func (a azureCPU) AppraiseCPU(ev *evidence.Evidence, m *manifest.Verified, p *policy.Policy, now time.Time) appraise.CPUResult {
	out := &outcome{appraise.CPUResult{TrustClass: ev.CPU.Type}}
	d, s := a.o.DCAP, a.o.SNP
	d.Now = now
	in := &azure.Evidence{HCL: ev.CPU.HCLReport, TDQuote: ev.CPU.TDQuote, Attest: ev.CPU.Quote, Signature: ev.CPU.Signature, EventLog: ev.CPU.EventLog}
	got := a.o.material(&ev.CPU, ev.Collateral, p, now)
	in.VCEK, s.CRL = got.vcek, got.crl
	if ev.CPU.Type == evidence.TypeAzTDX {
		if len(ev.CPU.CertChain) > 0 {
			in.VCEK = ev.CPU.CertChain[0] // which has no place there
		}
		d.CollateralGrace = tdxGrace(p)
		got.takeIntel(&d, out)
	} else {
		out.CPU = append(out.CPU, got.snpChecks...)
	}
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		if err != nil {
			out.fail("tpm.runtime_events", "events that can be encoded", oneLine(err), "a runtime event cannot be encoded", appraise.RemedyEncoding)
			continue
		}
		in.RuntimeEvents = append(in.RuntimeEvents, b)
	}
	q, err := ev.Claims.QualifyingData()
	if err != nil {
		out.fail("claims.encoding", "claims that can be encoded", oneLine(err), "claims cannot be encoded", appraise.RemedyEncoding)
	}
	if p.SNP != nil {
		s.RequireCRL, s.CRLMaxAge = p.SNP.RequireCRL, p.SNP.CRLMaxAge()
	}
	r, err := azure.Verify(in, &azure.Options{Now: now, SNP: &s, TDX: &d, QualifyingData: q[:]})
	if r == nil {
		out.faults(err)
		out.Image = unread(m, ev.CPU.Type)
		return out.CPUResult
	}
	out.CPU = append(out.CPU, drop(r.Checks, p)...)
	if r.Class != ev.CPU.Type {
		out.fail("evidence.cpu.type", ev.CPU.Type, r.Class, "the hardware is another than the evidence says", "send the evidence of one machine")
	}
	out.CPU = append(out.CPU, appraise.CheckRuntimeEvents("tpm.runtime_events", ev))
	out.Measurements = map[string]string{}
	switch {
	case r.TDX != nil:
		out.policyTDX(p, r.TDX, now)
		floor(m, r.TDX, out)
		out.Measurements, out.Facts = r.TDX.Measurements(), &r.TDX.Result
		out.until(r.TDX.NotAfter)
	case r.SNP != nil:
		out.policy(p.SNP.Appraise(r.SNP))
		out.Measurements, out.Facts = r.SNP.Measurements(), r.SNP
		out.until(r.SNP.NotAfter)
	}
	for n, v := range r.TPM.Registers {
		out.Measurements[fmt.Sprintf("pcr%d", n)] = v.String()
	}
	out.Image = imageAzure(m, r)
	return out.CPUResult
}

// drop leaves out checks that were skipped rightly: a VLEK has no chip, and
// without a CRL there is none to ask where the policy wants none.
func drop(checks []result.Check, p *policy.Policy) []result.Check {
	var out []result.Check
	for _, c := range checks {
		if c.Status == result.Skip && (c.ID == "snp.cert.chip_id" || c.ID == "snp.cert.revoked" && p.SNP != nil && !p.SNP.RequireCRL) {
			continue
		}
		out = append(out, c)
	}
	return out
}

// imageAzure holds a VM's measurements, those of the hardware and those of
// the virtual TPM, against the manifest's reference values.
func imageAzure(m *manifest.Verified, r *azure.Result) []result.Check {
	return noReference(m, r.Class)
}
