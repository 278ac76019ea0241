package platform

import (
	"context"
	"fmt"

	"cocoon/verifier/evidence"
	"cocoon/verifier/tpm"
)

// Verifier is the part of a verifier service that certifies a TPM's key.
type Verifier interface {
	Enroll(ctx context.Context, in *tpm.EnrollRequest) (*tpm.EnrollResponse, error)
	Activate(ctx context.Context, in *tpm.ActivateRequest) (*tpm.ActivateResponse, error)
}

// Enroller is a platform whose attestation key needs a certificate of a
// verifier before it can make evidence: the TPM's. TEEs bring their own.
type Enroller interface {
	Enrol(ctx context.Context, v Verifier) error
}

// Quoter signs claims with a TPM and proves its key to a verifier.
// *tpmdev.Keys is one.
type Quoter interface {
	EKCertificate() []byte
	EKPublic() []byte
	AKPublic() []byte
	Activate(blob, secret []byte) ([]byte, error)
	Quote(extraData [32]byte) (attest, signature []byte, err error)
}

// Enrol proves to the verifier that the attestation key lives in the TPM of
// the endorsement key, and keeps the certificate that it gets for it.
func (v *vtpm) Enrol(ctx context.Context, verifier Verifier) error {
	if v.quoter == nil {
		keys, err := v.tpm.LoadKeys()
		if err != nil {
			return err
		}
		v.quoter = keys
	}
	rsp, err := verifier.Enroll(ctx, &tpm.EnrollRequest{
		EKChain: [][]byte{v.quoter.EKCertificate()}, EKPublic: v.quoter.EKPublic(), AKPublic: v.quoter.AKPublic(),
	})
	if err != nil {
		return fmt.Errorf("enrolling attestation key: %w", err)
	}
	credential, err := v.quoter.Activate(rsp.CredentialBlob, rsp.Secret)
	if err != nil {
		return fmt.Errorf("enrolling attestation key: %w", err)
	}
	cert, err := verifier.Activate(ctx, &tpm.ActivateRequest{Session: rsp.Session, Credential: credential})
	if err != nil {
		return fmt.Errorf("enrolling attestation key: %w", err)
	}
	if len(cert.CertChain) == 0 {
		return fmt.Errorf("enrolling attestation key: the verifier sent no certificate")
	}
	v.chain = cert.CertChain
	return nil
}

// CPU quotes the registers over the claims' hash.
func (v *vtpm) CPU(_ context.Context, claims *evidence.Claims) (*evidence.CPU, error) {
	if v.quoter == nil || v.chain == nil {
		return nil, fmt.Errorf("quoting: the TPM's key is not enrolled")
	}
	data, err := claims.QualifyingData()
	if err != nil {
		return nil, err
	}
	quote, signature, err := v.quoter.Quote(data)
	if err != nil {
		return nil, err
	}
	return &evidence.CPU{Type: evidence.TypeTPM, Quote: quote, Signature: signature, CertChain: v.chain, EventLog: v.log,
		RuntimeEvents: append([]evidence.RuntimeEvent{}, v.events...)}, nil
}
