// Package appraise holds evidence against a policy and published measurements
// and says, check by check, what is good and what is not. The verifier
// service, clients and the command line all decide through it. In come parsed
// evidence and trusted options, out comes a result; there is no other verdict
// than that every check passed.
package appraise

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/result"
)

// Options of an appraisal. They are never written to.
type Options struct {
	// Policy says what is accepted. It is needed.
	Policy *policy.Policy
	// PolicySHA256 is Policy's hash, for who appraises much under one policy;
	// zero: it is computed.
	PolicySHA256 digest.SHA256
	// EvidenceSHA256 is the evidence's hash, as evidence.ParseHashed returned it
	// with the evidence; zero: it is computed.
	EvidenceSHA256 digest.SHA256
	// Manifests are the candidates, opened under the policy's rules (see
	// OpenManifests). Evidence is accepted if it meets one of them in full.
	Manifests []*manifest.Verified
	// Registry is the proven state of the registry that the policy names; nil
	// where it names none.
	Registry *Registry
	// Now is the time of appraisal; zero: Clock's, or the present.
	Now time.Time
	// Clock gives the time where Now is zero; nil: time.Now.
	Clock func() time.Time
	// Challenges are this appraiser's own contributions to the nonce: one of
	// them must be among the evidence's nonce inputs. Without any, the check
	// is skipped unless the policy or RequireChallenge asks for one.
	Challenges []digest.SHA256
	// RequireChallenge refuses evidence that answers no challenge, whatever
	// the policy says.
	RequireChallenge bool
	// NoChallenge says why Challenges is empty, for the reader.
	NoChallenge string
	// TLSSPKI is the SHA-256 of the SubjectPublicKeyInfo of the TLS key that
	// the peer has proven to hold; nil: the check is skipped.
	TLSSPKI *digest.SHA256
	// CPUs appraises CPU evidence of further types by name (evidence.TypeTDX
	// …); TypeTPM is built in. A type without an appraiser is refused.
	CPUs map[string]CPU
	// Rules are the policy's rules, compiled; nil: they are compiled in each
	// appraisal.
	Rules *rules.Set
	// GPUs appraises GPU evidence; nil: evidence with GPUs is refused.
	GPUs GPU
}

// Rooted is an appraiser that knows whom it trusts.
type Rooted interface {
	// TestRoots names the roots that it was given in place of the makers' own
	// (policy.RootIntel …).
	TestRoots() []string
}

// TestRoots returns every root of these appraisers that is not the maker's own,
// sorted. Every appraisal by any of them says so: see policy.Class.
func TestRoots(cpus map[string]CPU, gpus GPU) []string {
	out := make([]string, 0, 4) // as many as there are makers' roots
	add := func(r Rooted) {
		for _, root := range r.TestRoots() { // mostly the same for each
			if !slices.Contains(out, root) {
				out = append(out, root)
			}
		}
	}
	for _, c := range cpus {
		if c != nil {
			add(c)
		}
	}
	if gpus != nil {
		add(gpus)
	}
	if len(out) == 0 {
		return nil
	}
	slices.Sort(out)
	return out
}

// CPU appraises the CPU part of evidence: cryptography, binding to the claims
// (Claims.ReportData), TCB, and the registers against the manifest.
type CPU interface {
	// AppraiseCPU returns the checks of the submodules cpu0 and image.
	AppraiseCPU(ev *evidence.Evidence, m *manifest.Verified, p *policy.Policy, now time.Time) CPUResult
	Rooted
}

// blockingKey is the context's key of a function that stands aside for a wait.
type blockingKey struct{}

// WithBlocking returns a context in which appraisers wait for networks through
// f, which calls the wait that it is given: a service gives its place among the
// appraisals under way to another meanwhile.
func WithBlocking(ctx context.Context, f func(wait func())) context.Context {
	return context.WithValue(ctx, blockingKey{}, f)
}

// Blocking waits for a network.
func Blocking(ctx context.Context, wait func()) {
	if f, ok := ctx.Value(blockingKey{}).(func(func())); ok {
		f(wait)
		return
	}
	wait()
}

// Preparer is a CPU appraiser that may fetch what evidence does not bring along.
type Preparer interface {
	CPU
	// Prepare returns an appraiser for this evidence alone that waits for no
	// network any more. It ends with the context, or within its own bounds.
	Prepare(ctx context.Context, cpu *evidence.CPU, collateral json.RawMessage, p *policy.Policy, now time.Time) CPU
}

// GPUPreparer is the same for GPUs.
type GPUPreparer interface {
	GPU
	Prepare(ctx context.Context, ev *evidence.Evidence, p *policy.Policy, now time.Time) GPU
	// PrepareForeign is Prepare for recorded evidence.
	PrepareForeign(ctx context.Context, ev *evidence.Foreign, p *policy.Policy, now time.Time) GPU
}

// Prepare returns options for one piece of evidence, after fetching what its
// appraisal wants beside it: with them Appraise waits for no network. It is for
// services, which bound how many appraisals run at once.
func Prepare(ctx context.Context, ev *evidence.Evidence, o Options) Options {
	if o.Policy == nil {
		return o
	}
	o.CPUs = prepareCPU(ctx, &ev.CPU, ev.Collateral, &o)
	if p, ok := o.GPUs.(GPUPreparer); ok && len(ev.GPUs) > 0 {
		o.GPUs = p.Prepare(ctx, ev, o.Policy, now(&o))
	}
	return o
}

// PrepareForeign is Prepare for recorded evidence.
func PrepareForeign(ctx context.Context, ev *evidence.Foreign, o Options) Options {
	if o.Policy == nil {
		return o
	}
	if ev.CPU != nil {
		o.CPUs = prepareCPU(ctx, ev.CPU, ev.Collateral, &o)
	}
	if p, ok := o.GPUs.(GPUPreparer); ok && len(ev.GPUs) > 0 {
		o.GPUs = p.PrepareForeign(ctx, ev, o.Policy, now(&o))
	}
	return o
}

func prepareCPU(ctx context.Context, cpu *evidence.CPU, collateral json.RawMessage, o *Options) map[string]CPU {
	p, ok := o.CPUs[cpu.Type].(Preparer)
	if !ok {
		return o.CPUs
	}
	out := maps.Clone(o.CPUs)
	out[cpu.Type] = p.Prepare(ctx, cpu, collateral, o.Policy, now(o))
	return out
}

// CPUResult is what a CPU appraiser found.
type CPUResult struct {
	TrustClass   string            // policy.ClassTDX …; under a test root it becomes policy.ClassTest
	CPU, Image   []result.Check    // checks by submodule; a failed one refuses the evidence
	Measurements map[string]string // registers by name, hex
	Facts        any               // what the verification found, for the policy's rules; see docs/policy.md
	NotAfter     time.Time         // end of what the appraisal rests on: collateral, certificates
}

// GPU appraises the GPUs of evidence under the nonce that the claims give
// (Claims.GPUNonce).
type GPU interface {
	// AppraiseGPUs returns a list of checks for each item of Evidence.GPUs, in
	// order. Whether an item is a GPU or a switch, and so how many GPUs there
	// are, only the appraiser can tell.
	AppraiseGPUs(ev *evidence.Evidence, m *manifest.Verified, p *policy.Policy, now time.Time) GPUResult
	Rooted
}

// GPUResult is what a GPU appraiser found.
type GPUResult struct {
	Machine []result.Check   // of all devices together: count, distinctness, mode, topology
	GPUs    [][]result.Check // of each item
	Facts   []any            // of each item, for the policy's rules
	// Measurements are shown of recorded evidence alone, by name, "gpu0.driver".
	Measurements map[string]string
	NotAfter     time.Time // end of what the appraisal rests on; zero: nothing bounds it
}
