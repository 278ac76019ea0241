// Package idblock verifies what a guest was launched with to identify it: the
// ID block, which names what the guest must be, and the ID authentication
// information, which has the block's signature by the ID key and, optionally,
// the ID key's signature by an author key. Raw bytes come in; the block's
// fields and the digests of the keys come out.
//
// Definition: AMD 56860, SNP_LAUNCH_FINISH: ID Block Structure and ID
// Authentication Information Structure; Appendix on ECDSA P-384 formats.
// Numbers are little-endian.
package idblock

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/abi"

	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/snp/report"
)

// Sizes in bytes.
const (
	BlockSize = 96
	AuthSize  = 4096

	keySize = abi.EcsdaPublicKeySize // curve, x, y, zeroes
	sigSize = abi.SignatureSize      // r, s, zeroes
)

// Errors that this package's errors wrap.
var (
	ErrMalformed = errors.New("not an ID block with its authentication as AMD 56860 has them")
	ErrSignature = errors.New("signature does not verify")
)

// Block is a verified ID block. It is a value.
type Block struct {
	LaunchDigest [48]byte
	FamilyID     [16]byte
	ImageID      [16]byte
	GuestSVN     uint32
	Policy       report.Policy

	IDKeyDigest [48]byte // SHA-384 of the ID key, which signed the block
	// AuthorKeyDigest is that of the author key, which signed the ID key; all
	// zero where there is none.
	AuthorKeyDigest [48]byte
	HasAuthor       bool
}

// Verify reads block and auth and verifies the signatures in auth. An auth
// without a sound author signature is taken as having no author only where all
// of the author's fields are zero.
func Verify(block, auth []byte) (*Block, error) {
	if len(block) != BlockSize || len(auth) != AuthSize {
		return nil, fmt.Errorf("ID block of %d and authentication of %d bytes, want %d and %d: %w", len(block), len(auth), BlockSize, AuthSize, ErrMalformed)
	}
	le := binary.LittleEndian
	b := &Block{LaunchDigest: [48]byte(block), FamilyID: [16]byte(block[0x30:]), ImageID: [16]byte(block[0x40:]),
		GuestSVN: le.Uint32(block[0x54:]), Policy: report.Policy(le.Uint64(block[0x58:]))}
	if v := le.Uint32(block[0x50:]); v != 1 {
		return nil, fmt.Errorf("ID block has version %d, want 1: %w", v, ErrMalformed)
	}
	idKey, authorKey := auth[0x240:0x240+keySize], auth[0x880:0x880+keySize]
	blockSig, keySig := auth[0x40:0x40+sigSize], auth[0x680:0x680+sigSize]
	for _, z := range [][]byte{auth[8:0x40], auth[0x240+keySize : 0x680], auth[0x880+keySize:]} {
		if !isZero(z) {
			return nil, fmt.Errorf("authentication has reserved bytes that are not zero: %w", ErrMalformed)
		}
	}
	if a := le.Uint32(auth); a != abi.SignEcdsaP384Sha384 {
		return nil, fmt.Errorf("ID key algorithm is %d, want 1: %w", a, ErrMalformed)
	}
	if err := verify(idKey, blockSig, block); err != nil {
		return nil, fmt.Errorf("ID block by the ID key: %w", err)
	}
	b.IDKeyDigest = sha512.Sum384(idKey)
	if isZero(authorKey) && isZero(keySig) && isZero(auth[4:8]) {
		return b, nil
	}
	if a := le.Uint32(auth[4:]); a != abi.SignEcdsaP384Sha384 {
		return nil, fmt.Errorf("author key algorithm is %d, want 1: %w", a, ErrMalformed)
	}
	if err := verify(authorKey, keySig, idKey); err != nil {
		return nil, fmt.Errorf("ID key by the author key: %w", err)
	}
	b.HasAuthor, b.AuthorKeyDigest = true, sha512.Sum384(authorKey)
	return b, nil
}

// verify verifies a signature over data, all in AMD's formats.
func verify(key, sig, data []byte) error {
	if c := binary.LittleEndian.Uint32(key); c != abi.EccP384 {
		return fmt.Errorf("key is on curve %d, not P-384: %w", c, ErrMalformed)
	}
	if !isZero(key[4+48:4+72]) || !isZero(key[4+72+48:]) || !isZero(sig[48:72]) || !isZero(sig[72+48:]) {
		return fmt.Errorf("key or signature has reserved bytes that are not zero: %w", ErrMalformed)
	}
	x, y := reversed(key[4:]), reversed(key[4+72:])
	pub, err := ecsig.Key(append(x[:], y[:]...))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	digest := sha512.Sum384(data)
	r, s := reversed(sig), reversed(sig[72:])
	if !ecsig.Verify(pub, digest[:], r[:], s[:]) {
		return ErrSignature
	}
	return nil
}

func reversed(b []byte) (out [48]byte) {
	for i := range out {
		out[i] = b[47-i]
	}
	return out
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
