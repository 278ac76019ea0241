package tdx

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/rtmr"
)

// Configfs are the registers of kernels with configfs-tsm "rtmrs", which some
// vendors' had before Linux had any.
type Configfs struct{ Client configfsi.Client }

// Extend writes the digest into the register's entry, which it makes where
// there is none.
func (c Configfs) Extend(register int, digest [48]byte) error {
	err := rtmr.ExtendDigest(c.Client, register, digest[:])
	if errors.Is(err, fs.ErrNotExist) { // no place to make an entry in
		err = ErrNoRegisters
	}
	if err != nil {
		return fmt.Errorf("extending RTMR%d: %w", register, err)
	}
	return nil
}

// Either takes the first that the kernel offers.
type Either []Registers

// Extend asks one after the other; only one that is not there is passed over.
func (e Either) Extend(register int, digest [48]byte) error {
	err := ErrNoRegisters
	for _, r := range e {
		if err = r.Extend(register, digest); !errors.Is(err, ErrNoRegisters) {
			return err
		}
	}
	return err
}
