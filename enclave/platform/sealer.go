package platform

import (
	"context"
	"crypto/rand"
	"net"

	"cocoon/enclave/seal"
	"cocoon/enclave/seal/sgx"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/pck"
)

// Codes of faults.
const (
	CodeDebug  = "seal.debug"       // the host may look into this machine
	CodeNoSeal = "seal.unavailable" // nothing seals keys for this machine
)

// Sealing is what a sealer needs beside the machine.
type Sealing struct {
	Config *evidence.Config // as measured
	// Enclave reaches the sealing enclave that the config names; nil: nobody
	// said where it is.
	Enclave func(ctx context.Context) (net.Conn, error)
	Roots   *pck.Roots // Intel's where nil
}

// Sealer is the one place that decides which sealer a machine gets (DESIGN
// section 2: debug machines are refused, also in sealing; section 6, SGX
// sealing enclave):
//
//	any kind, debug   none
//	snp               keys that the firmware derives
//	tdx               the SGX enclave of the measured config, none where it names none
//	vtpm              its TPM
func Sealer(ctx context.Context, p Platform, s Sealing) (seal.Sealer, error) {
	if err := undebugged(ctx, p); err != nil {
		return nil, err
	}
	hash, err := s.Config.Hash()
	if err != nil {
		return nil, err
	}
	if m, ok := p.(*vtpm); ok {
		return m.tpm.Sealer(), nil
	}
	return sealer(ctx, p, hash, s.Config.Sealer, s.Enclave, s.Roots)
}

func undebugged(ctx context.Context, p Platform) error {
	debug, err := p.Debug(ctx)
	if err == nil && debug {
		err = fault.New(fault.ExitRefused, CodeDebug, "launch the machine without the debug policy", "looking for a sealer: the host may read this machine's memory")
	}
	return err
}

// sealer is the TEE's own, bound to a hash beside what the TEE measured.
func sealer(ctx context.Context, p Platform, bound digest.SHA256, enclave *evidence.SealingEnclave, dial func(ctx context.Context) (net.Conn, error), roots *pck.Roots) (seal.Sealer, error) {
	switch m := p.(type) {
	case *guest:
		return m.Sealer(ctx, bound, rand.Reader)
	case *td:
		switch {
		case enclave == nil:
			return nil, fault.New(fault.ExitNotReady, CodeNoSeal, "start the machine without a data disk, or with a config that names a sealing enclave",
				"looking for a sealer: a TD seals no keys by itself, and the config names no sealing enclave")
		case dial == nil:
			return nil, fault.New(fault.ExitNotReady, CodeNoSeal, `set "sealer" in operator.json to the sealing enclave's address`,
				"looking for a sealer: nobody says where the sealing enclave of the config is")
		}
		return sgx.New(sgx.Options{Dial: dial, Quote: m.Quote, Enclave: *enclave, Config: bound, Roots: roots}), nil
	}
	return nil, fault.New(fault.ExitNotReady, CodeNoSeal, "start the machine without a data disk", "looking for a sealer: a machine of kind %s has none", p.Kind())
}
