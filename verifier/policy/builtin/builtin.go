// Package builtin has the two policies that the project ships: production and
// development. In comes what only a site can know (whose manifests, which
// registry, which authorities), out comes a complete policy document. They are
// starting points that a site writes to a file and owns: nothing applies a
// built-in policy by itself.
package builtin

import (
	"fmt"
	"slices"

	"cocoon/measurements/digest"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/dcap"
	"cocoon/verifier/policy/nvgpu"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/policy/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/tcb"
)

// VerdictSeconds is the life of verdicts under the built-in policies.
const VerdictSeconds = policy.MaxVerdictSeconds

// Site is what a built-in policy cannot know.
type Site struct {
	Manifests          []digest.SHA256  // hashes of accepted manifests
	ManifestKeys       []digest.SHA256  // raw Ed25519 keys whose manifests are accepted
	Threshold          int              // of ManifestKeys that must have signed; 0: all of them
	Registry           *policy.Registry // a ledger's registry that must list manifest and model
	Log                *policy.Log      // that must have the manifest
	AKRoots            [][]byte         // DER; development: authorities that enrol attestation keys
	EKRoots            [][]byte         // DER; development: makers of TPMs
	DevelopmentEKRoots [][]byte         // DER; development: authorities of software TPMs
	CPUOnly            bool             // production: accept machines without a GPU
}

// Names returns the names of the built-in policies.
func Names() []string { return []string{policy.Production, policy.Development} }

// New returns a built-in policy for a site. It does not validate: what the
// site left out, Policy.Validate names.
func New(name string, s Site) (*policy.Policy, error) {
	p := &policy.Policy{Format: policy.Format, Name: name, Environment: name, Manifests: s.manifests(),
		Freshness: policy.Freshness{RequireChallenge: true, VerdictSeconds: VerdictSeconds}}
	switch name {
	case policy.Production:
		production(p, s.CPUOnly)
	case policy.Development:
		development(p, &s)
	default:
		return nil, fmt.Errorf("there is no built-in policy %.32q, want one of %q", name, Names())
	}
	return p, nil
}

func (s *Site) manifests() policy.Manifests {
	m := policy.Manifests{Hashes: some(s.Manifests), Keys: some(s.ManifestKeys), Threshold: s.Threshold, Revoked: []digest.SHA256{}, Registry: s.Registry, Log: s.Log}
	if m.Threshold == 0 {
		m.Threshold = len(m.Keys)
	}
	return m
}

// some returns a copy that is an empty list in JSON, not null.
func some[T any](in []T) []T { return append([]T{}, in...) }

// production accepts a hardware TEE of this project's own guests, current and
// undebuggable, with GPUs in confidential mode (DESIGN section 2). Azure's
// classes are left to a site: there a paravisor stands between hardware and
// guest.
func production(p *policy.Policy, cpuOnly bool) {
	p.TrustClasses = []string{policy.ClassTDX, policy.ClassSNP}
	p.DCAP = &dcap.Policy{TDX: &dcap.TDX{
		Platform:    dcap.Platform{AcceptedTCBStatus: []tcb.Status{tcb.UpToDate}},
		MRServiceTD: []digest.SHA384{{}}, // no service TD: it could reach into the guest
	}}
	p.SNP = &snp.Policy{
		Products:         []report.Product{report.Milan, report.Genoa, report.Siena, report.Turin},
		MinVersion:       3, // the first whose report names the product
		RequireCRL:       true,
		RequireCommitted: true,
		VMPLs:            []uint32{0},
	}
	p.NVGPU = nvgpu.Default()
	if !cpuOnly {
		p.Rules = []rules.Rule{{
			ID: "gpu.present", Expression: "config.gpus.count > 0", Reason: "the machine attests no GPU",
			Remedy: "use a worker with a GPU in confidential mode, or a policy that accepts machines without one",
		}}
	}
}

// development accepts measured boot into a software TPM, which the machine's
// owner can forge and whose memory he can read: it shows which image booted,
// and nothing of confidentiality.
func development(p *policy.Policy, s *Site) {
	p.TrustClasses = []string{policy.ClassVTPM}
	p.TPM = &policy.TPM{EKRoots: some(s.EKRoots), AKRoots: some(s.AKRoots), DevelopmentEKRoots: slices.Clone(s.DevelopmentEKRoots)}
}
