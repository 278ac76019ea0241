// Package tee appraises evidence of trusted execution environments for package
// appraise: TDX, SEV-SNP, and Azure's confidential VMs on either. In come
// evidence, a policy and a manifest; out come the checks of cryptography,
// binding to the claims, TCB, policy, and event log.
//
// A TEE is accepted where everything that was checked is good, and the
// manifest has reference values for it: without them there is a failed check
// "manifest.<type>".
package tee

import (
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
)

// Options of the appraisers.
type Options struct {
	// DCAP are the options of quote verification: roots and cache. Time, grace
	// and collateral are set for each quote.
	DCAP dcap.Options
	// Collateral returns the collateral for a quote, in place of the evidence's
	// own and of the sources; nil: they are taken.
	Collateral func(quote []byte, now time.Time) (*collateral.Set, error)
	// Sources are asked for what evidence does not bring.
	Sources Sources
	// SNP are the options of report verification: roots, CRL and cache. Time
	// and certificate are the evidence's.
	SNP snp.Options

	fetched *fetched // for one piece of evidence alone
	logs    *logs
	roots   *[]string // what TestRoots finds; nil: not yet looked at
}

// TestRoots names the roots that are not the makers' own.
func (o *Options) TestRoots() []string {
	if o.roots != nil {
		return *o.roots
	}
	var out []string
	if !o.DCAP.Roots.Intel() {
		out = append(out, policy.RootIntel)
	}
	if !o.SNP.Roots.AMD() {
		out = append(out, policy.RootAMD)
	}
	return out
}

// CPUs returns an appraiser for each type of evidence that this package
// reads, for appraise.Options.CPUs.
func CPUs(o Options) map[string]appraise.CPU {
	o.logs = newLogs()
	roots := o.TestRoots()
	o.roots = &roots
	return map[string]appraise.CPU{
		evidence.TypeTDX:   &tdxCPU{o},
		evidence.TypeSNP:   snpCPU{o},
		evidence.TypeSGX:   sgxCPU{o},
		evidence.TypeAzTDX: azureCPU{o},
		evidence.TypeAzSNP: azureCPU{o},
	}
}

// outcome collects what an appraiser finds.
type outcome struct{ appraise.CPUResult }

func (out *outcome) pass(id, actual string) {
	out.CPU = append(out.CPU, result.Check{ID: id, Status: result.Pass, Actual: actual})
}

func (out *outcome) fail(id, expected, actual, reason, remedy string) {
	out.CPU = append(out.CPU, result.Check{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy})
}

// faults takes over failures that no check stands for.
func (out *outcome) faults(err error) {
	for _, f := range fault.All(err) {
		out.fail(f.Code, f.Expected, f.Actual, f.Msg, f.Remedy)
	}
	if err != nil && len(fault.All(err)) == 0 {
		out.fail("evidence.cpu.refused", "evidence that verifies", oneLine(err), "verification failed", "send the evidence as the machine gave it")
	}
}

// policy takes over a policy's checks. What the policy does not ask for it
// skips; that is no gap in the appraisal.
func (out *outcome) policy(checks []result.Check) {
	for i := range checks {
		if checks[i].Status != result.Skip {
			out.CPU = append(out.CPU, checks[i])
		}
	}
}

// until shortens the time that the result is good for.
func (out *outcome) until(t time.Time) {
	if !t.IsZero() && (out.NotAfter.IsZero() || t.Before(out.NotAfter)) {
		out.NotAfter = t
	}
}

// noReference is the check for a manifest without reference values for a TEE:
// what is not published cannot be trusted.
func noReference(m *manifest.Verified, class string) []result.Check {
	if m == nil {
		return nil
	}
	return []result.Check{{ID: "manifest." + class, Status: result.Fail, Expected: "reference values for " + class, Actual: "none",
		Reason: "manifest has no reference values for " + class, Remedy: "publish measurements of the image for this TEE"}}
}

// unread is the check for evidence that does not parse: there is nothing to
// hold against the manifest.
func unread(m *manifest.Verified, class string) []result.Check {
	if m == nil {
		return nil
	}
	return []result.Check{{ID: "manifest." + class, Status: result.Fail, Expected: "measurements of a machine", Actual: "none",
		Reason: "evidence does not parse: there is nothing to hold against the manifest", Remedy: "see the CPU's failed checks"}}
}
