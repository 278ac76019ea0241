package platform

import (
	"context"
	"crypto/rand"

	"cocoon/enclave/seal"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
)

// Codes of faults.
const (
	CodeDebug   = "seal.debug"       // the host may look into this machine
	CodeNoSeal  = "seal.unavailable" // this kind of machine keeps no keys
	remedyDebug = "launch the machine without the debug policy"
)

// Sealer is the one place that decides which sealer a machine gets (DESIGN
// section 2: debug machines are refused, also in sealing):
//
//	any kind, debug   none
//	snp               keys that the firmware derives
//	vtpm              its TPM
//
// config is the hash of the measured config.
func Sealer(ctx context.Context, p Platform, config digest.SHA256) (seal.Sealer, error) {
	debug, err := p.Debug(ctx)
	if err != nil {
		return nil, err
	}
	if debug {
		return nil, fault.New(fault.ExitRefused, CodeDebug, remedyDebug, "looking for a sealer: the host may read this machine's memory")
	}
	switch m := p.(type) {
	case *guest:
		return m.Sealer(ctx, config, rand.Reader)
	case *vtpm:
		return m.tpm.Sealer(), nil
	}
	return nil, fault.New(fault.ExitNotReady, CodeNoSeal, "start the machine without a data disk", "looking for a sealer: a machine of kind %s has none", p.Kind())
}
