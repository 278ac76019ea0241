// Package policy has the typed, strictly parsed document that says what a
// verifier or a client accepts: trust classes, certificate authorities,
// manifests, freshness, and per TEE the rest. In comes JSON, out comes a value
// that is complete: what a policy does not name is refused.
package policy

import (
	"slices"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy/dcap"
	"cocoon/verifier/policy/nvgpu"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/policy/snp"
)

// Format is the version of the policy that this package reads.
const Format = 1

// Limits of a policy document.
const (
	MaxSize    = 1 << 20
	maxEntries = 64
)

// Environments a policy is marked for.
const (
	Production  = "production"
	Development = "development"
)

// Trust classes. ClassVTPM shows measured boot, not confidentiality; it is
// accepted only by a development policy that names it (DESIGN section 2).
const (
	ClassVTPM  = "vtpm"
	ClassTDX   = "tdx"
	ClassSNP   = "snp"
	ClassSGX   = "sgx"
	ClassAzTDX = "az-tdx"
	ClassAzSNP = "az-snp"
	// ClassTest is the class of every TEE that a configured root speaks for,
	// instead of the maker's: it shows that software works, and nothing of
	// hardware. It has no form that contracts read.
	ClassTest = "test"
)

// Roots of trust that a configuration can replace by its own. A verdict names
// those that were.
const (
	RootIntel     = "intel"      // of TDX and SGX quotes, and their collateral
	RootAMD       = "amd"        // of SEV-SNP reports
	RootNVIDIA    = "nvidia"     // of GPUs and switches
	RootNVIDIARIM = "nvidia-rim" // of reference measurements for them
)

// Class returns the trust class of evidence of a CPU type that is appraised
// under a configuration with these test roots. It is the one place that decides
// it: under any root that is not the maker's own nothing is of a hardware class,
// whichever root this evidence leads to. Whoever has the root can make evidence
// of every machine, GPUs included.
func Class(cpuType string, testRoots []string) string {
	class := ClassOf(cpuType)
	if len(testRoots) > 0 && !DevelopmentClass(class) {
		return ClassTest
	}
	return class
}

// DevelopmentClass reports whether a class is for development only.
func DevelopmentClass(class string) bool { return class == ClassVTPM || class == ClassTest }

// ClassOf returns the trust class of a type of CPU evidence: a bare TPM's is
// ClassVTPM, every TEE's its own name.
func ClassOf(cpuType string) string {
	if cpuType == evidence.TypeTPM {
		return ClassVTPM
	}
	return cpuType
}

// Policy is the document.
type Policy struct {
	Format       int           `json:"format"`
	Name         string        `json:"name"`
	Environment  string        `json:"environment"`   // Production or Development
	TrustClasses []string      `json:"trust_classes"` // accepted; at least one
	Manifests    Manifests     `json:"manifests"`
	TPM          *TPM          `json:"tpm,omitempty"`   // needed for ClassVTPM
	DCAP         *dcap.Policy  `json:"dcap,omitempty"`  // TDX and SGX; without it both are refused
	SNP          *snp.Policy   `json:"snp,omitempty"`   // without it SEV-SNP is refused
	NVGPU        *nvgpu.Policy `json:"nvgpu,omitempty"` // NVIDIA GPUs; without it evidence of GPUs is refused
	Freshness    Freshness     `json:"freshness"`
	Rules        []rules.Rule  `json:"rules,omitempty"` // what a site demands beside all that; they can only refuse
}

// Manifests says which published measurements are accepted. A manifest is
// accepted if its hash is listed, if enough of the keys signed it, or if the
// registry lists it. Where a registry is named, it must list manifest and
// model in any case.
type Manifests struct {
	Hashes    []digest.SHA256 `json:"hashes"`
	Keys      []digest.SHA256 `json:"keys"`      // raw Ed25519 public keys
	Threshold int             `json:"threshold"` // distinct keys that must have signed; 0 where Keys is empty
	Revoked   []digest.SHA256 `json:"revoked"`   // hashes that are refused whatever else holds
	Registry  *Registry       `json:"registry,omitempty"`
	// Log is where a manifest must be beside all that: what is not in public is
	// not accepted, whoever signed it.
	Log *Log `json:"log,omitempty"`
}

// Log is a transparency log that a manifest must be in. The proof (C2SP
// tlog-proof) comes with the manifest, from anyone.
type Log struct {
	Keys      []log.Key `json:"keys"`                // verifier keys, with origins; one of these logs must have it
	Witnesses []string  `json:"witnesses,omitempty"` // verifier keys of witnesses (C2SP tlog-cosignature)
	Threshold int       `json:"threshold,omitempty"` // of Witnesses, who must have cosigned the proof's checkpoint
}

// Registry is a registry on a ledger whose proven state an appraisal needs.
type Registry struct {
	Address       string `json:"address"`    // TON address, as in configs
	NetworkID     int32  `json:"network_id"` // TON global id
	MaxAgeSeconds int64  `json:"max_age_seconds"`
}

// TPM says which certificate authorities speak for TPMs. Each root is a DER
// certificate.
type TPM struct {
	// EKRoots are the makers of TPMs: issuers of endorsement key certificates.
	// An attestation key is enrolled by activation beside a key of theirs, and
	// its certificate says of whose.
	EKRoots [][]byte `json:"ek_roots"`
	// AKRoots are issuers of attestation key certificates: verifiers that
	// enrol.
	AKRoots [][]byte `json:"ak_roots"`
	// DevelopmentEKRoots are issuers for TPMs that are programs: a host's own
	// authority for its software TPMs. Production policies have none.
	DevelopmentEKRoots [][]byte `json:"development_ek_roots,omitempty"`
}

// AllEKRoots returns the makers' roots and those of development.
func (t *TPM) AllEKRoots() [][]byte { return slices.Concat(t.EKRoots, t.DevelopmentEKRoots) }

// Freshness bounds ages and lifetimes, in seconds.
type Freshness struct {
	RequireChallenge bool  `json:"require_challenge"` // refuse evidence that holds no challenge of the appraiser
	VerdictSeconds   int64 `json:"verdict_seconds"`   // longest life of a verdict, at most 3600
}

// Marshal returns the policy in RFC 8785 form.
func (p *Policy) Marshal() ([]byte, error) { return jcs.Marshal(p) }

// Hash returns the SHA-256 of the policy's JCS, its identity in verdicts.
func (p *Policy) Hash() (digest.SHA256, error) {
	sum, err := jcs.Hash(p)
	return digest.SHA256(sum), err
}
