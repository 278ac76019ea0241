// Package attest collects the VM's evidence, gets a verdict on it, and keeps
// both fresh. In come the boot's keys and config, the machine, and how the boot went; out go the evidence
// document, the verdict, and the TLS certificate that carries the evidence.
package attest

import (
	"context"
	"fmt"

	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
)

// Provider makes the CPU's part of evidence. platform.Platform is one.
type Provider interface {
	CPU(ctx context.Context, claims *evidence.Claims) (*evidence.CPU, error)
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
	VerifyBytes(ctx context.Context, ev []byte) (*client.Verdict, error)
}

// Identity is what the claims say of this boot.
type Identity struct {
	Config     *evidence.Config
	SPKI       digest.SHA256 // of the TLS key
	ReceiptKey digest.SHA256
	Payout     string
}

// Collector makes evidence, one piece at a time: Queue sees to that.
type Collector struct {
	Identity
	Provider Provider
	GPUs     GPUs
	Queue    *Queue
	// Stages returns how the boot went until now; nil for no record.
	Stages func() *evidence.Stages

	model *evidence.ConfigModel // that the claims name; nil: the config's first
}

// For returns a collector of evidence whose claims name another model of the
// config. Both wait in the same queue: a machine has one TEE.
func (c *Collector) For(m evidence.ConfigModel) *Collector {
	other := *c
	other.model = &m
	return &other
}

// Collect returns evidence whose nonce is made of the inputs.
func (c *Collector) Collect(ctx context.Context, inputs []digest.SHA256) (*evidence.Evidence, error) {
	inputs = evidence.SortNonceInputs(inputs)
	nonce, err := evidence.NonceOf(inputs)
	if err != nil {
		return nil, fmt.Errorf("collecting evidence: %w", err)
	}
	var ev *evidence.Evidence
	err = c.Queue.Do(ctx, func() error {
		ev, err = c.quote(ctx, nonce)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("collecting evidence: %w", err)
	}
	ev.NonceInputs = inputs
	return ev, nil
}

func (c *Collector) quote(ctx context.Context, nonce digest.SHA256) (*evidence.Evidence, error) {
	var stages *evidence.Stages
	if c.Stages != nil {
		stages = c.Stages()
	}
	claims, gpus, err := c.claims(ctx, nonce, stages)
	if err != nil {
		return nil, err
	}
	cpu, err := c.Provider.CPU(ctx, claims)
	if err != nil {
		return nil, err
	}
	return &evidence.Evidence{Profile: evidence.Profile, Claims: *claims, Config: *c.Config, CPU: *cpu, GPUs: gpus, Stages: stages}, nil
}

// claims binds the GPUs to the claims before the CPU signs them (DESIGN
// section 2, GPU evidence).
func (c *Collector) claims(ctx context.Context, nonce digest.SHA256, stages *evidence.Stages) (*evidence.Claims, []evidence.GPU, error) {
	config, err := c.Config.Hash()
	if err != nil {
		return nil, nil, err
	}
	model := c.model
	if model == nil {
		model = &c.Config.Model
	}
	claims := &evidence.Claims{
		TLSSPKISHA256: c.SPKI, ReceiptKey: c.ReceiptKey, Payout: c.Payout, ConfigSHA256: config,
		Model: evidence.Model{Name: model.Name, VerityRoot: model.Verity.Root},
		Nonce: nonce,
	}
	if stages != nil {
		sum, err := stages.Hash()
		if err != nil {
			return nil, nil, err
		}
		claims.StagesSHA256 = &sum
	}
	gpuNonce, err := claims.GPUNonce()
	if err != nil {
		return nil, nil, err
	}
	gpus, err := c.GPUs.Collect(ctx, gpuNonce)
	if err != nil {
		return nil, nil, fmt.Errorf("attesting GPUs: %w", err)
	}
	// A board in protected PCIe shows its switches' evidence beside its GPUs'.
	switches := c.Config.GPUs.Switches()
	if want := c.Config.GPUs.Count + switches; len(gpus) != want {
		return nil, nil, fmt.Errorf("attesting GPUs: evidence of %d devices, config wants %d GPUs and %d switches", len(gpus), c.Config.GPUs.Count, switches)
	}
	if claims.GPUEvidenceSHA256, err = evidence.GPUHash(gpus); err != nil {
		return nil, nil, err
	}
	return claims, gpus, nil
}
