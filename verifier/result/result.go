package result

import (
	"time"

	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// Names of the parts of an appraisal: the submodules of an EAR. GPUs are
// "gpu0", "gpu1" and so on.
const (
	SubCPU    = "cpu0"
	SubImage  = "image"
	SubConfig = "config"
	SubModel  = "model"
)

// Result is what one appraisal of evidence found: every check that was made,
// by submodule. It is accepted only if no check failed.
type Result struct {
	Accepted    bool   `json:"accepted"`
	TrustClass  string `json:"trust_class"`
	Development bool   `json:"development"` // measured boot without confidentiality, or a test root
	// TestRoots are the roots of the appraiser that are not the makers' own.
	TestRoots []string `json:"test_roots,omitempty"`
	// Foreign marks recorded evidence of a machine that is none of ours: TCB and
	// registers only. It is never accepted.
	Foreign        bool            `json:"foreign,omitempty"`
	Time           time.Time       `json:"time"`      // of the appraisal
	NotAfter       time.Time       `json:"not_after"` // no verdict on this evidence may live longer
	EvidenceSHA256 digest.SHA256   `json:"evidence_sha256"`
	PolicySHA256   digest.SHA256   `json:"policy_sha256"`
	Manifest       *ManifestRef    `json:"manifest,omitempty"`
	Claims         evidence.Claims `json:"claims"`
	// Stages is how the boot went, in the words of the supervisor that the
	// evidence is of; nil where it gave no record, or another than it claims.
	Stages       *evidence.Stages   `json:"stages,omitempty"`
	Measurements map[string]string  `json:"measurements"` // as shown, by name: "pcr0" …
	Submods      map[string]*Submod `json:"submods"`
}

// ManifestRef names the manifest that the evidence was held against.
type ManifestRef struct {
	SHA256  digest.SHA256 `json:"sha256"` // of the DSSE payload
	Name    string        `json:"name"`
	Version uint64        `json:"version"`
}

// Submod is one part of an appraisal.
type Submod struct {
	Status Status  `json:"status"`
	Vector Vector  `json:"trustworthiness_vector"`
	Checks []Check `json:"checks"`
}
