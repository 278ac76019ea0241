package platform

import (
	"context"
	"crypto/sha256"
	"net"

	"cocoon/enclave/seal"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/pck"
)

// ServiceSealing is what a service needs to seal by the TEE that it runs in,
// where no supervisor measured a config for it.
type ServiceSealing struct {
	Name string // of the service: others in the same machine get other keys
	// Sealer is the SGX enclave that is trusted with a TD's keys, and Enclave
	// reaches it; nil: there is none.
	Sealer  *evidence.SealingEnclave
	Enclave func(ctx context.Context) (net.Conn, error)
	Roots   *pck.Roots // Intel's where nil
}

// boundFormat begins what a service's keys are bound to.
const boundFormat = "cocoon-seal-service-v1\x00"

// ServiceSealer is Sealer for a service: of the TEE or none. In the place of the
// config's hash are the service's name and, on SNP, HOST_DATA, which firmware
// mixes into no key (AMD 56860, MSG_KEY_REQ); a TD's MRCONFIGID is in the
// sealing enclave's keys as it is.
func ServiceSealer(ctx context.Context, p Platform, s ServiceSealing) (seal.Sealer, error) {
	if err := undebugged(ctx, p); err != nil {
		return nil, err
	}
	h := sha256.New()
	h.Write([]byte(boundFormat + s.Name + "\x00"))
	switch m := p.(type) {
	case *guest:
		r, _, _, err := m.Report(ctx, [64]byte{})
		if err != nil {
			return nil, err
		}
		h.Write(r.HostData[:])
	case *td:
		if s.Sealer == nil || s.Enclave == nil {
			return nil, fault.New(fault.ExitNotReady, CodeNoSeal, "name an SGX sealing enclave and its address, or seal by a TPM",
				"looking for a sealer: a TD seals no keys by itself, and no sealing enclave is named")
		}
	default:
		return nil, fault.New(fault.ExitNotReady, CodeNoSeal, "run the service in a TDX or SEV-SNP guest, or seal by a TPM",
			"looking for a sealer: a machine of kind %s has no TEE", p.Kind())
	}
	return sealer(ctx, p, digest.SHA256(h.Sum(nil)), s.Sealer, s.Enclave, s.Roots)
}
