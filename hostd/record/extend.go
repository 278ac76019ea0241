package record

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"cocoon/measurements/digest"
)

// Command codes (TPM 2.0 Library, Part 2, section 6.5.2).
const (
	ccPCRExtend = 0x00000182
	tagSessions = 0x8002
	algSHA256   = 0x000b
)

// Extend is one TPM2_PCR_Extend of the SHA-256 bank.
type Extend struct {
	PCR    int           `json:"pcr"`
	Digest digest.SHA256 `json:"digest"`
}

// digestSizes of the algorithms that may be in an extend command.
var digestSizes = map[uint16]int{0x0004: 20, algSHA256: 32, 0x000c: 48, 0x000d: 64, 0x0012: 32}

// ErrMalformed is returned for a command that is not well formed.
var ErrMalformed = errors.New("malformed TPM command")

// ParseExtend returns what a TPM command extends the SHA-256 bank with, and
// false where it is another command. The bytes are the guest's.
func ParseExtend(cmd []byte) (Extend, bool, error) {
	// header: tag (2), size (4), command code (4); handle (4);
	// authorisation size (4) and area; TPML_DIGEST_VALUES
	if len(cmd) < 10 || binary.BigEndian.Uint32(cmd[6:]) != ccPCRExtend {
		return Extend{}, false, nil
	}
	if binary.BigEndian.Uint16(cmd) != tagSessions || len(cmd) < 18 {
		return Extend{}, false, ErrMalformed
	}
	pcr, auth := binary.BigEndian.Uint32(cmd[10:]), binary.BigEndian.Uint32(cmd[14:])
	rest := cmd[18:]
	if pcr > 23 || uint64(auth) > uint64(len(rest)) || len(rest[auth:]) < 4 {
		return Extend{}, false, ErrMalformed
	}
	rest = rest[auth:]
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if count > uint32(len(digestSizes)) {
		return Extend{}, false, ErrMalformed
	}
	found := false
	e := Extend{PCR: int(pcr)}
	for range count {
		if len(rest) < 2 {
			return Extend{}, false, ErrMalformed
		}
		alg := binary.BigEndian.Uint16(rest)
		size, known := digestSizes[alg]
		if !known || len(rest) < 2+size {
			return Extend{}, false, ErrMalformed
		}
		if alg == algSHA256 {
			found = true
			copy(e.Digest[:], rest[2:])
		}
		rest = rest[2+size:]
	}
	if len(rest) != 0 {
		return Extend{}, false, ErrMalformed
	}
	return e, found, nil
}

// Replay returns what the extends leave in the registers that they touch,
// from zero: PCR ← SHA-256(PCR ‖ digest).
func Replay(extends []Extend) map[int]digest.SHA256 {
	v := map[int]digest.SHA256{}
	for _, e := range extends {
		old := v[e.PCR]
		v[e.PCR] = sha256.Sum256(append(old[:], e.Digest[:]...))
	}
	return v
}
