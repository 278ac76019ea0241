// Package attest collects the VM's evidence, gets a verdict on it, and keeps
// both fresh. In come the boot's keys and config, the TPM and the event log;
// out go the evidence document, the verdict, and the TLS certificate that
// carries the evidence.
package attest

import (
	"context"
	"fmt"

	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
	"cocoon/verifier/tpm"
)

// Quoter signs claims with hardware and proves its key to a verifier.
// *tpmdev.Keys is the TPM's.
type Quoter interface {
	EKCertificate() []byte
	EKPublic() []byte
	AKPublic() []byte
	Activate(blob, secret []byte) ([]byte, error)
	Quote(extraData [32]byte) (attest, signature []byte, err error)
}

// GPUs collects the GPUs' evidence for a nonce. NoGPUs is for machines
// without.
type GPUs interface {
	Collect(ctx context.Context, nonce [32]byte) ([]evidence.GPU, error)
}

// NoGPUs finds no GPU, which is what a config with mode none expects.
type NoGPUs struct{}

// Collect returns an empty list.
func (NoGPUs) Collect(context.Context, [32]byte) ([]evidence.GPU, error) {
	return []evidence.GPU{}, nil
}

// Verifier is the verifier service. *client.Client of verifier/client is one.
type Verifier interface {
	Challenge(ctx context.Context) (*client.Challenge, error)
	Enroll(ctx context.Context, in *tpm.EnrollRequest) (*tpm.EnrollResponse, error)
	Activate(ctx context.Context, in *tpm.ActivateRequest) (*tpm.ActivateResponse, error)
	VerifyBytes(ctx context.Context, ev []byte) (*client.Verdict, error)
}

// Identity is what the claims say of this boot.
type Identity struct {
	Config     *evidence.Config
	SPKI       digest.SHA256 // of the TLS key
	ReceiptKey digest.SHA256
	Payout     string
}

// Collector makes evidence. Its methods are called one at a time.
type Collector struct {
	Identity
	Quoter   Quoter
	GPUs     GPUs
	EventLog []byte

	akChain [][]byte // after Enrol
}

// Enrol proves to the verifier that the attestation key lives in the TPM of
// the endorsement key, and keeps the certificate that it gets for it.
func (c *Collector) Enrol(ctx context.Context, v Verifier) error {
	rsp, err := v.Enroll(ctx, &tpm.EnrollRequest{
		EKChain: [][]byte{c.Quoter.EKCertificate()}, EKPublic: c.Quoter.EKPublic(), AKPublic: c.Quoter.AKPublic(),
	})
	if err != nil {
		return fmt.Errorf("enrolling attestation key: %w", err)
	}
	credential, err := c.Quoter.Activate(rsp.CredentialBlob, rsp.Secret)
	if err != nil {
		return fmt.Errorf("enrolling attestation key: %w", err)
	}
	cert, err := v.Activate(ctx, &tpm.ActivateRequest{Session: rsp.Session, Credential: credential})
	if err != nil {
		return fmt.Errorf("enrolling attestation key: %w", err)
	}
	if len(cert.CertChain) == 0 {
		return fmt.Errorf("enrolling attestation key: the verifier sent no certificate")
	}
	c.akChain = cert.CertChain
	return nil
}

// Collect returns evidence whose nonce is made of the inputs.
func (c *Collector) Collect(ctx context.Context, inputs []digest.SHA256) (*evidence.Evidence, error) {
	inputs = evidence.SortNonceInputs(inputs)
	nonce, err := evidence.NonceOf(inputs)
	if err != nil {
		return nil, fmt.Errorf("collecting evidence: %w", err)
	}
	claims, gpus, err := c.claims(ctx, nonce)
	if err != nil {
		return nil, fmt.Errorf("collecting evidence: %w", err)
	}
	data, err := claims.QualifyingData()
	if err != nil {
		return nil, fmt.Errorf("collecting evidence: %w", err)
	}
	quote, signature, err := c.Quoter.Quote(data)
	if err != nil {
		return nil, fmt.Errorf("collecting evidence: %w", err)
	}
	events, err := evidence.RuntimeEvents(c.Config)
	if err != nil {
		return nil, fmt.Errorf("collecting evidence: %w", err)
	}
	return &evidence.Evidence{
		Profile: evidence.Profile, Claims: *claims, Config: *c.Config, NonceInputs: inputs,
		CPU: evidence.CPU{
			Type: evidence.TypeTPM, Quote: quote, Signature: signature,
			CertChain: c.akChain, EventLog: c.EventLog, RuntimeEvents: events,
		},
		GPUs: gpus,
	}, nil
}

// claims binds the GPUs to the claims before the CPU signs them (DESIGN
// section 2, GPU evidence).
func (c *Collector) claims(ctx context.Context, nonce digest.SHA256) (*evidence.Claims, []evidence.GPU, error) {
	config, err := c.Config.Hash()
	if err != nil {
		return nil, nil, err
	}
	claims := &evidence.Claims{
		TLSSPKISHA256: c.SPKI, ReceiptKey: c.ReceiptKey, Payout: c.Payout, ConfigSHA256: config,
		Model: evidence.Model{Name: c.Config.Model.Name, VerityRoot: c.Config.Model.Verity.Root},
		Nonce: nonce,
	}
	gpuNonce, err := claims.GPUNonce()
	if err != nil {
		return nil, nil, err
	}
	gpus, err := c.GPUs.Collect(ctx, gpuNonce)
	if err != nil {
		return nil, nil, fmt.Errorf("attesting GPUs: %w", err)
	}
	if len(gpus) != c.Config.GPUs.Count {
		return nil, nil, fmt.Errorf("attesting GPUs: found %d, config wants %d", len(gpus), c.Config.GPUs.Count)
	}
	if claims.GPUEvidenceSHA256, err = evidence.GPUHash(gpus); err != nil {
		return nil, nil, err
	}
	return claims, gpus, nil
}
