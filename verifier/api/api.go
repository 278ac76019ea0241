// Package api has the documents that a verifier service and its clients
// exchange (docs/verifier-api.md). They are strict JSON; byte strings are
// standard base64.
package api

import (
	"time"

	"cocoon/measurements/digest"
	"cocoon/verifier/result"
)

// Paths of the service.
const (
	PathChallenge = "/v1/challenge"
	PathEnroll    = "/v1/tpm/enroll"
	PathActivate  = "/v1/tpm/activate"
	PathVerify    = "/v1/verify"
	PathKeys      = "/v1/keys"
	PathManifests = "/v1/manifests"
	PathHealth    = "/healthz"
	PathMetrics   = "/metrics"
)

// CodeNoManifest is the fault of a verifier that does not have a manifest.
const CodeNoManifest = "manifest.unknown"

// Challenge is a contribution to the nonce of evidence (POST /v1/challenge).
// It is good for one verification before ExpiresAt.
type Challenge struct {
	Challenge digest.SHA256 `json:"challenge"`
	ExpiresAt time.Time     `json:"expires_at"`
}

// EnrollRequest asks for an attestation key certificate (POST
// /v1/tpm/enroll).
type EnrollRequest struct {
	EKChain  [][]byte `json:"ek_chain"`  // DER, endorsement key certificate first
	EKPublic []byte   `json:"ek_public"` // TPMT_PUBLIC of the endorsement key
	AKPublic []byte   `json:"ak_public"` // TPMT_PUBLIC of the attestation key
}

// EnrollResponse is the challenge that only the TPM with both keys can
// answer: the inputs of TPM2_ActivateCredential, without size prefixes.
type EnrollResponse struct {
	Session        digest.SHA256 `json:"session"`
	CredentialBlob []byte        `json:"credential_blob"` // contents of TPM2B_ID_OBJECT
	Secret         []byte        `json:"secret"`          // contents of TPM2B_ENCRYPTED_SECRET
	ExpiresAt      time.Time     `json:"expires_at"`
}

// ActivateRequest answers an EnrollResponse (POST /v1/tpm/activate).
type ActivateRequest struct {
	Session    digest.SHA256 `json:"session"`
	Credential []byte        `json:"credential"` // contents of the TPM2B_DIGEST that activation returned
}

// ActivateResponse carries the attestation key's certificate.
type ActivateResponse struct {
	CertChain [][]byte `json:"cert_chain"` // DER, attestation key certificate first, root last
}

// Verdict is the answer to accepted evidence (POST /v1/verify with the
// evidence as the body). The EAR is the verdict; Result repeats what it says
// for people.
type Verdict struct {
	EAR    string         `json:"ear"`            // JWT
	Cell   string         `json:"cell,omitempty"` // the verdict for contracts, with this verifier's signature; see docs/verifier-api.md
	Result *result.Result `json:"result"`
}

// Keys are the public keys of the service (GET /v1/keys).
type Keys struct {
	Verifier []VerifierKey `json:"verifier"`
	AKRoots  [][]byte      `json:"ak_roots"` // DER
}

// VerifierKey is a key that signs verdicts.
type VerifierKey struct {
	KeyID  string        `json:"kid"`     // SHA-256 of the raw public key, hex
	Public digest.SHA256 `json:"ed25519"` // raw public key
}

// Manifests are the manifests that the service accepts now (GET
// /v1/manifests).
type Manifests struct {
	Manifests []result.ManifestRef `json:"manifests"`
}

// Problem is an error (RFC 9457, application/problem+json).
type Problem struct {
	Type   string         `json:"type"` // "urn:cocoon:problem:" + Code
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail,omitempty"`
	Code   string         `json:"code"`             // the first fault's code
	Faults []Fault        `json:"faults"`           // every fault
	Result *result.Result `json:"result,omitempty"` // of refused evidence: every check
}

// Fault is one failure within a Problem.
type Fault struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
	Exit     int    `json:"exit"` // exit code of a command that meets it
}
