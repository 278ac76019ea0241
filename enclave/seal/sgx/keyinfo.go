package sgx

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// KeyInfoSize is that of an sgx_key_request_t (Intel SDM volume 3D, table
// "Layout of KEYREQUEST Data Structure").
const KeyInfoSize = 512

// Fields of a key request.
const (
	atKeyName   = 0 // u16
	atKeyPolicy = 2 // u16
	atISVSVN    = 4 // u16
	atFlags     = 24
	atKeyID     = 40 // 32 bytes
	atMiscMask  = 72

	keySeal      = 4
	policySigner = 2 // MRSIGNER alone
	flagInit     = 1
	flagDebug    = 2
)

// svn reads key info, which the host may have written, and returns the version
// of the enclave that the key belongs to. It is the one place that decides
// which sealing keys are asked for: SGX gives an enclave the key of whatever
// request it makes, also one that names neither signer nor enclave, which every
// enclave of any signer can have, or one that enclaves under debug share. A
// sealed key under such a root would be one that the host made up.
func svn(info []byte) (uint16, error) {
	if len(info) != KeyInfoSize {
		return 0, fmt.Errorf("reading key info: %d bytes, want %d", len(info), KeyInfoSize)
	}
	le := binary.LittleEndian
	if name := le.Uint16(info[atKeyName:]); name != keySeal {
		return 0, fmt.Errorf("reading key info: key name %d is no sealing key", name)
	}
	if policy := le.Uint16(info[atKeyPolicy:]); policy != policySigner {
		return 0, fmt.Errorf("reading key info: policy %#x does not bind the key to the enclave's signer alone", policy)
	}
	if flags := le.Uint64(info[atFlags:]); flags&(flagInit|flagDebug) != flagInit|flagDebug {
		return 0, fmt.Errorf("reading key info: attribute mask %#x leaves debugging out", flags)
	}
	for _, b := range info[atMiscMask+4:] {
		if b != 0 {
			return 0, errors.New("reading key info: reserved bytes are not zero")
		}
	}
	return le.Uint16(info[atISVSVN:]), nil
}
