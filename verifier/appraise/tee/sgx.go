package tee

import (
	"context"
	"encoding/json"
	"time"

	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/sgx"
)

// sgxCPU appraises evidence of type "sgx". No manifest has reference values for
// an enclave, so that such evidence is read and never a worker's; recorded
// evidence has its TCB.
type sgxCPU struct{ o Options }

// TestRoots names the roots that are not the makers' own.
func (a sgxCPU) TestRoots() []string { return a.o.TestRoots() }

// Prepare fetches what this evidence does not bring.
func (a sgxCPU) Prepare(ctx context.Context, cpu *evidence.CPU, collateral json.RawMessage, p *policy.Policy, now time.Time) appraise.CPU {
	return sgxCPU{a.o.with(ctx, cpu, collateral, p, now)}
}

// AppraiseCPU verifies the quote, binds it to the claims, and holds it against
// the policy.
func (a sgxCPU) AppraiseCPU(ev *evidence.Evidence, m *manifest.Verified, p *policy.Policy, now time.Time) appraise.CPUResult {
	out := &outcome{appraise.CPUResult{TrustClass: policy.ClassSGX}}
	res := a.verify(&ev.CPU, ev.Collateral, p, now, out)
	if res == nil {
		out.Image = unread(m, policy.ClassSGX)
		return out.CPUResult
	}
	want, err := ev.Claims.ReportData()
	if err != nil {
		out.fail("claims.encoding", "claims that can be encoded", oneLine(err), "claims cannot be encoded", appraise.RemedyEncoding)
	} else {
		out.CPU = append(out.CPU, dcappolicy.ReportData("sgx", want, res.Enclave.ReportData))
	}
	out.Image = noReference(m, policy.ClassSGX)
	return out.CPUResult
}

// AppraiseForeign verifies a recorded quote and holds its TCB against the
// policy.
func (a sgxCPU) AppraiseForeign(f *evidence.Foreign, p *policy.Policy, now time.Time) appraise.CPUResult {
	out := &outcome{appraise.CPUResult{TrustClass: policy.ClassSGX}}
	a.verify(f.CPU, f.Collateral, p, now, out)
	return out.CPUResult
}

// verify verifies and appraises a quote; nil where it does not parse.
func (a sgxCPU) verify(cpu *evidence.CPU, brought json.RawMessage, p *policy.Policy, now time.Time, out *outcome) *sgx.Result {
	d := a.o.DCAP
	d.Now, d.CollateralGrace = now, sgxGrace(p)
	a.o.material(cpu, brought, p, now).takeIntel(&d, out)
	res, err := sgx.Verify(cpu.Quote, &d)
	if res == nil {
		out.faults(err)
		return nil
	}
	out.until(res.NotAfter)
	out.CPU = append(out.CPU, res.Checks...)
	if p.DCAP == nil {
		out.CPU = append(out.CPU, result.Check{ID: "policy.sgx.section", Status: result.Fail, Expected: "a dcap section", Actual: "none",
			Reason: "the policy does not say which SGX platforms are accepted", Remedy: "give the policy a dcap section with sgx"})
	} else {
		out.policy(p.DCAP.AppraiseSGX(res, now))
		if p.DCAP.SGX != nil {
			out.until(p.DCAP.SGX.PlatformEnd(&res.Result))
		}
	}
	out.Measurements, out.Facts = res.Measurements(), &res.Result
	return res
}
