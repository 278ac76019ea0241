package main

import (
	"context"
	"io"
	"net"
	"os"

	"cocoon/enclave/platform"
	"cocoon/enclave/seal"
	"cocoon/enclave/vsock"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// serviceName is what the TEE's keys are bound to beside the machine.
const serviceName = "cocoon-verifier"

// The fault of a machine without a TEE.
const (
	codeTEE   = "verifier.tee"
	remedyTEE = "run the service in a TDX or SEV-SNP guest, or leave the TEE out of its config"
)

// SealingEnclave is the SGX enclave that seals a TD's keys (enclave/seal/ego).
// The address only finds it: which one is believed is the rest.
type SealingEnclave struct {
	Address string        `json:"address"` // host:port
	Signer  digest.SHA256 `json:"signer"`  // MRSIGNER
	Product uint16        `json:"product,omitempty"`
	MinSVN  uint16        `json:"min_svn"` // at least 1
}

// thisMachine opens the TEE that the service runs in.
func thisMachine() (platform.Platform, error) {
	kind, err := platform.Detect(platform.Linux{})
	if err != nil {
		return nil, err
	}
	if kind != platform.TDX && kind != platform.SNP {
		return nil, fault.New(fault.ExitNotReady, codeTEE, remedyTEE, "opening the machine's TEE: it has none that the CPU speaks of")
	}
	root := os.DirFS("/")
	var host func(context.Context, uint32) (net.Conn, error)
	if vsock.Present(os.DirFS("/sys")) {
		host = vsock.DialHost
	}
	return platform.Open(kind, platform.Running(root, host))
}

func (s *keystore) openMachine() (platform.Platform, error) {
	if s.machine != nil {
		return s.machine()
	}
	return thisMachine()
}

// teeSealer is that of the TEE.
func (s *keystore) teeSealer(k *Sealed) (seal.Sealer, io.Closer, error) {
	m, err := s.openMachine()
	if err != nil {
		return nil, nil, err
	}
	o := platform.ServiceSealing{Name: serviceName, Roots: s.roots}
	if e := k.Enclave; e != nil {
		o.Sealer = &evidence.SealingEnclave{Signer: e.Signer, Product: e.Product, MinSVN: e.MinSVN}
		o.Enclave = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", e.Address)
		}
	}
	sealer, err := platform.ServiceSealer(context.Background(), m, o)
	if err != nil {
		_ = m.Close() // it has nothing open that a fault would be lost of
		return nil, nil, err
	}
	return sealer, m, nil
}
