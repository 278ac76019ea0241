package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"cocoon/internal/fault"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/pck"
	"cocoon/verifier/policy"
	"cocoon/verifier/snp/vek"
)

// TestRoots are authorities that are believed instead of the makers'. What they
// vouch for has the class "test", whatever it says that it is.
type TestRoots struct {
	Intel     string `json:"intel,omitempty"`      // PEM: of TDX and SGX
	AMD       string `json:"amd,omitempty"`        // PEM: ARKs with their ASKs
	NVIDIA    string `json:"nvidia,omitempty"`     // PEM: of devices
	NVIDIARIM string `json:"nvidia_rim,omitempty"` // PEM: of the signers of reference measurements
}

const maxRoots = 64 << 10

// testRoots puts the config's roots in place of the makers'.
func (c *Config) testRoots(p *policy.Policy, cpus *tee.Options, devices *gpus.Options) error {
	if c.TestRoots == nil {
		return nil
	}
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.test_roots", "leave test_roots out, or see docs/verifier-api.md", "reading test roots: %w", err)
	}
	if p.Environment != policy.Development {
		return bad(fmt.Errorf("the policy %q is for %s", p.Name, p.Environment))
	}
	t := c.TestRoots
	read := func(name string, use func([]byte) error) error {
		if name == "" {
			return nil
		}
		b, err := c.readFile(name, maxRoots)
		if err != nil {
			return err
		}
		return use(b)
	}
	err := errors.Join(
		read(t.Intel, func(b []byte) (err error) { cpus.DCAP.Roots, err = pck.ParseRoots(b); return err }),
		read(t.AMD, func(b []byte) (err error) { cpus.SNP.Roots, err = vek.ParseRoots(b); return err }),
		read(t.NVIDIA, func(b []byte) (err error) { devices.Roots, err = deviceRoots(b); return err }),
		read(t.NVIDIARIM, func(b []byte) (err error) { devices.RIMRoots, err = rim.ParseRoots(b); return err }),
	)
	if err != nil {
		return bad(err)
	}
	return nil
}

// rimRoots returns the roots of RIM signers that the config names; nil:
// NVIDIA's. Whether the policy allows them is testRoots' decision.
func (c *Config) rimRoots() (*rim.Roots, error) {
	if c.TestRoots == nil || c.TestRoots.NVIDIARIM == "" {
		return nil, nil
	}
	b, err := c.readFile(c.TestRoots.NVIDIARIM, maxRoots)
	var roots *rim.Roots
	if err == nil {
		roots, err = rim.ParseRoots(b)
	}
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.test_roots", "leave test_roots out, or see docs/verifier-api.md", "reading test roots: %w", err)
	}
	return roots, nil
}

// deviceRoots pins the keys of certificates in PEM.
func deviceRoots(b []byte) (*nvgpu.Roots, error) {
	var pins [][32]byte
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading device root: %w", err)
		}
		pins = append(pins, sha256.Sum256(cert.RawSubjectPublicKeyInfo))
	}
	return nvgpu.PinRoots(pins...)
}
