package tee

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/snp"
)

// IDs of the checks of an SNP guest's binding.
const (
	checkHostData = "snp.host_data" // HOST_DATA is the config's hash
	checkNoLog    = "snp.event_log" // there is no log: nothing would vouch for it
)

// snpCPU appraises evidence of type "snp".
type snpCPU struct{ o Options }

// TestRoots names the roots that are not the makers' own.
func (a snpCPU) TestRoots() []string { return a.o.TestRoots() }

// Prepare fetches what this evidence does not bring.
func (a snpCPU) Prepare(ctx context.Context, cpu *evidence.CPU, collateral json.RawMessage, p *policy.Policy, now time.Time) appraise.CPU {
	return snpCPU{a.o.with(ctx, cpu, collateral, p, now)}
}

// AppraiseCPU verifies the report, binds it to the claims and to the config,
// and holds it against the policy. SNP has no runtime registers: what the
// guest runs is the launch digest, and its config is HOST_DATA, which the host
// fixed at launch and the guest compared with what it read (DESIGN section 4).
func (a snpCPU) AppraiseCPU(ev *evidence.Evidence, m *manifest.Verified, p *policy.Policy, now time.Time) appraise.CPUResult {
	out := &outcome{appraise.CPUResult{TrustClass: policy.ClassSNP}}
	o := a.o.SNP
	o.Now = now
	got := a.o.material(&ev.CPU, ev.Collateral, p, now)
	o.Certificate, o.CRL = got.vcek, got.crl
	out.CPU = append(out.CPU, got.snpChecks...)
	if p.SNP != nil {
		o.RequireCRL, o.CRLMaxAge = p.SNP.RequireCRL, p.SNP.CRLMaxAge()
	}
	res, err := snp.Verify(ev.CPU.Quote, &o)
	if res == nil {
		out.faults(err)
		out.Image = unread(m, policy.ClassSNP)
		return out.CPUResult
	}
	out.Image = imageSNP(m, res)
	out.CPU = append(out.CPU, drop(res.Checks, p)...)
	out.policy(p.SNP.Appraise(res))
	want, err := ev.Claims.ReportData()
	if err != nil {
		out.fail("claims.encoding", "claims that can be encoded", oneLine(err), "claims cannot be encoded", appraise.RemedyEncoding)
	} else {
		out.CPU = append(out.CPU, dcappolicy.ReportData("snp", want, res.Report.ReportData))
	}
	hostData(ev, res, out)
	if n := len(ev.CPU.RuntimeEvents); len(ev.CPU.EventLog) > 0 || n > 0 {
		out.fail(checkNoLog, "neither event log nor runtime events", fmt.Sprintf("%d bytes, %d events", len(ev.CPU.EventLog), n),
			"evidence has a log that nothing vouches for", "send the report without it")
	} else {
		out.pass(checkNoLog, "")
	}
	out.Measurements, out.Facts = res.Measurements(), res
	out.until(res.NotAfter)
	return out.CPUResult
}

// hostData checks that the guest was launched with this config.
func hostData(ev *evidence.Evidence, res *snp.Result, out *outcome) {
	want, err := ev.Config.Hash()
	if err != nil {
		out.fail(checkHostData, "a config that can be hashed", oneLine(err), "config cannot be hashed", "correct the config")
		return
	}
	if got := digest.SHA256(res.Report.HostData); got != want {
		out.fail(checkHostData, want.String(), hex.EncodeToString(got[:]), "the guest was launched with another config", "launch the guest with the hash of this config as HOST_DATA")
		return
	}
	out.pass(checkHostData, want.String())
}
