package tpm

import (
	"time"

	"cocoon/measurements/digest"
)

// EnrollRequest asks for an attestation key certificate.
type EnrollRequest struct {
	EKChain  [][]byte // DER, endorsement key certificate first
	EKPublic []byte   // TPMT_PUBLIC of the endorsement key
	AKPublic []byte   // TPMT_PUBLIC of the attestation key
}

// EnrollResponse is the challenge that only the TPM with both keys can
// answer: the inputs of TPM2_ActivateCredential, without size prefixes.
type EnrollResponse struct {
	Session        digest.SHA256
	CredentialBlob []byte // contents of TPM2B_ID_OBJECT
	Secret         []byte // contents of TPM2B_ENCRYPTED_SECRET
	ExpiresAt      time.Time
}

// ActivateRequest answers an EnrollResponse.
type ActivateRequest struct {
	Session    digest.SHA256
	Credential []byte // contents of the TPM2B_DIGEST that activation returned
}

// ActivateResponse carries the attestation key's certificate.
type ActivateResponse struct {
	CertChain [][]byte // DER, attestation key certificate first, root last
}
