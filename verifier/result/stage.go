package result

import "strings"

// Stage is where in an appraisal a check belongs. Every check is made whatever
// the others say; what is shown is in this order.
type Stage int

// Stages, in order.
const (
	StageParse     Stage = iota // form of the evidence and of its parts
	StageCPU                    // the TEE's evidence: chain, signature, collateral, TCB
	StageClaims                 // that it was made over the claims, and what those speak of
	StageNonce                  // freshness
	StageGPU                    // GPUs' evidence and its binding
	StageLog                    // event logs against registers
	StageReference              // the manifest, the registry, and the registers against them
	StageConfig                 // the config's fields and the model
	StagePolicy                 // what the policy and its rules say
	stages
)

// StageOf returns the stage of a check by its ID; one that is not known comes
// last.
func StageOf(id string) Stage {
	switch id { // those whose first word does not say it
	case "claims.nonce":
		return StageNonce
	case "claims.gpu_evidence_sha256":
		return StageGPU
	case "tdx.report_data", "tdx.mrconfigid", "snp.report_data", "snp.host_data", "sgx.report_data", "tpm.quote.extra_data":
		return StageClaims
	case "tpm.quote.pcr_digest", "tdx.runtime_events", "tpm.runtime_events":
		return StageLog
	case "evidence.cpu.type", "evidence.cpu.refused", "evidence.cpu.unchecked":
		return StageCPU
	}
	word, rest, _ := strings.Cut(id, ".")
	switch word {
	case "evidence":
		return StageParse
	case "dcap", "tdx", "sgx", "snp", "tpm", "azure":
		switch {
		case strings.HasPrefix(rest, "event_log"):
			return StageLog
		case strings.HasSuffix(rest, ".parse") || strings.HasSuffix(rest, ".format"):
			return StageParse
		}
		return StageCPU
	case "claims", "tls", "foreign":
		return StageClaims
	case "nonce":
		return StageNonce
	case "gpu":
		if strings.HasPrefix(rest, "policy.") {
			return StagePolicy
		}
		return StageGPU
	case "manifest", "registry", "firmware", "image", "pcr", "rtmr":
		return StageReference
	case "config", "model":
		return StageConfig
	}
	return StagePolicy
}

// Ordered returns checks by stage, within each as they were. The list that is
// given stays as it is.
func Ordered(checks []Check) []Check {
	var at [stages + 1]int // where each stage begins
	var room [96]Stage     // as many as a submodule has, mostly
	of := room[:0]
	for i := range checks {
		of = append(of, StageOf(checks[i].ID))
		at[of[i]+1]++
	}
	for s := range stages {
		at[s+1] += at[s]
	}
	out := make([]Check, len(checks))
	for i := range checks {
		out[at[of[i]]] = checks[i]
		at[of[i]]++
	}
	return out
}
