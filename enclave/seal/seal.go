// Package seal keeps a secret of the guest between boots: bound to what was
// measured, so that only the same image with the same config gets it back.
//
// In goes a key; out comes a blob that anybody may store, and from the blob
// the key again, on the same machine after the same measurements. Each kind of
// machine has its own way: packages tpmdev, sev and seal/sgx; platform.Sealer
// decides.
package seal

import (
	"errors"

	"cocoon/internal/fault"
)

// Sealer seals to the running machine's measurements.
type Sealer interface {
	// Name says which kind of sealer made a blob.
	Name() string
	// Seal returns a blob from which only this machine, measured like this,
	// gets the key (at most 128 bytes).
	Seal(key []byte) ([]byte, error)
	// Unseal returns the key; ErrRefused if it is not released.
	Unseal(blob []byte) ([]byte, error)
}

// MaxKey and MaxBlob bound keys and blobs, in bytes.
const (
	MaxKey  = 128
	MaxBlob = 2048
)

// ErrRefused is wrapped when the key is not released: other measurements,
// another machine, or a changed blob.
var ErrRefused = errors.New("the key is not released")

// CodeRefused is the fault of ErrRefused.
const CodeRefused = "seal.key_not_released"

// Refused returns the fault for a key that is not released.
func Refused(cause error) error {
	return fault.New(fault.ExitRefused, CodeRefused,
		"boot the image and config that sealed it, on the same machine; or give the machine an empty data disk",
		"unsealing: %w", errors.Join(ErrRefused, cause))
}
