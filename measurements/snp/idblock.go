package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"cocoon/measurements/digest"
)

// ErrIDBlock is returned for ID structures that are not well-formed or not
// signed by their keys.
var ErrIDBlock = errors.New("ID block is not valid")

// Sizes of the structures, in bytes (section 8.18, tables "ID block", "ID
// authentication information", and section 8.26.1, "ECDSA P-384 public key"
// and "signature").
const (
	IDBlockSize  = 96
	IDAuthSize   = 4096
	publicSize   = 0x404
	sigSize      = 512
	number       = 72 // bytes of a number, little-endian
	curveP384    = 2
	algorithm    = 1 // ECDSA P-384 with SHA-384
	blockVersion = 1
)

// IDBlock names the guest that a launch must give: QEMU's id-block. The
// processor refuses the launch if the digest or the policy is another.
type IDBlock struct {
	Digest   digest.SHA384 // of the launch
	FamilyID [16]byte
	ImageID  [16]byte
	GuestSVN uint32
	Policy   uint64 // guest policy (section 4.3)
}

// Bytes returns the 96 bytes that are signed.
func (b *IDBlock) Bytes() []byte {
	out := make([]byte, IDBlockSize)
	copy(out[0:], b.Digest[:])
	copy(out[48:], b.FamilyID[:])
	copy(out[64:], b.ImageID[:])
	binary.LittleEndian.PutUint32(out[80:], blockVersion)
	binary.LittleEndian.PutUint32(out[84:], b.GuestSVN)
	binary.LittleEndian.PutUint64(out[88:], b.Policy)
	return out
}

// ParseIDBlock reads 96 bytes.
func ParseIDBlock(b []byte) (*IDBlock, error) {
	if len(b) != IDBlockSize || binary.LittleEndian.Uint32(b[80:]) != blockVersion {
		return nil, fmt.Errorf("reading ID block: %w: %d bytes, or not version 1", ErrIDBlock, len(b))
	}
	return &IDBlock{
		Digest: digest.SHA384(b), FamilyID: [16]byte(b[48:]), ImageID: [16]byte(b[64:]),
		GuestSVN: binary.LittleEndian.Uint32(b[84:]), Policy: binary.LittleEndian.Uint64(b[88:]),
	}, nil
}

// IDAuth is the ID authentication information: QEMU's id-auth. The author key
// is optional.
type IDAuth struct {
	BlockSignature [sigSize]byte // by the ID key, over the ID block
	IDKey          [publicSize]byte
	KeySignature   [sigSize]byte // by the author key, over the ID key
	AuthorKey      [publicSize]byte
	HasAuthor      bool
}

// Offsets in the ID authentication information.
const (
	offIDAlgorithm     = 0x000
	offAuthorAlgorithm = 0x004
	offBlockSignature  = 0x040
	offIDKey           = 0x240
	offKeySignature    = 0x680
	offAuthorKey       = 0x880
)

// Bytes returns the 4096 bytes of the structure.
func (a *IDAuth) Bytes() []byte {
	out := make([]byte, IDAuthSize)
	binary.LittleEndian.PutUint32(out[offIDAlgorithm:], algorithm)
	copy(out[offBlockSignature:], a.BlockSignature[:])
	copy(out[offIDKey:], a.IDKey[:])
	if a.HasAuthor {
		binary.LittleEndian.PutUint32(out[offAuthorAlgorithm:], algorithm)
		copy(out[offKeySignature:], a.KeySignature[:])
		copy(out[offAuthorKey:], a.AuthorKey[:])
	}
	return out
}

// ParseIDAuth reads 4096 bytes. Bytes that are reserved must be zero, so that
// a structure has one form.
func ParseIDAuth(b []byte) (*IDAuth, error) {
	if len(b) != IDAuthSize || binary.LittleEndian.Uint32(b[offIDAlgorithm:]) != algorithm {
		return nil, fmt.Errorf("reading ID authentication: %w: %d bytes, or not ECDSA P-384", ErrIDBlock, len(b))
	}
	a := &IDAuth{BlockSignature: [sigSize]byte(b[offBlockSignature:]), IDKey: [publicSize]byte(b[offIDKey:])}
	switch binary.LittleEndian.Uint32(b[offAuthorAlgorithm:]) {
	case 0:
	case algorithm:
		a.HasAuthor = true
		a.KeySignature, a.AuthorKey = [sigSize]byte(b[offKeySignature:]), [publicSize]byte(b[offAuthorKey:])
	default:
		return nil, fmt.Errorf("reading ID authentication: %w: author key is not ECDSA P-384", ErrIDBlock)
	}
	if string(a.Bytes()) != string(b) {
		return nil, fmt.Errorf("reading ID authentication: %w: reserved bytes are not zero", ErrIDBlock)
	}
	return a, nil
}

// IDKeyDigest returns what an attestation report has as ID_KEY_DIGEST.
func (a *IDAuth) IDKeyDigest() digest.SHA384 { return digest.Sum384(a.IDKey[:]) }

// AuthorKeyDigest returns what an attestation report has as
// AUTHOR_KEY_DIGEST, zero without an author.
func (a *IDAuth) AuthorKeyDigest() digest.SHA384 {
	if !a.HasAuthor {
		return digest.SHA384{}
	}
	return digest.Sum384(a.AuthorKey[:])
}

// SignIDBlock signs an ID block with an ID key, and the ID key with an author
// key unless that is nil. Both are P-384.
func SignIDBlock(b *IDBlock, id, author *ecdsa.PrivateKey) (*IDAuth, error) {
	a := &IDAuth{}
	var err error
	if a.IDKey, err = publicBytes(&id.PublicKey); err != nil {
		return nil, fmt.Errorf("signing ID block: %w", err)
	}
	if a.BlockSignature, err = sign(id, b.Bytes()); err != nil {
		return nil, fmt.Errorf("signing ID block: %w", err)
	}
	if author == nil {
		return a, nil
	}
	a.HasAuthor = true
	if a.AuthorKey, err = publicBytes(&author.PublicKey); err != nil {
		return nil, fmt.Errorf("signing ID key: %w", err)
	}
	if a.KeySignature, err = sign(author, a.IDKey[:]); err != nil {
		return nil, fmt.Errorf("signing ID key: %w", err)
	}
	return a, nil
}

// Verify reports whether the ID block is signed by the ID key, and that by the
// author key where there is one (section 8.18.2). Whose keys these are is for
// the caller to decide.
func (a *IDAuth) Verify(b *IDBlock) error {
	if err := verify(a.IDKey[:], a.BlockSignature[:], b.Bytes()); err != nil {
		return fmt.Errorf("verifying ID block: %w", err)
	}
	return a.VerifyKey()
}

// VerifyKey reports whether the ID key is signed by the author key, where
// there is one.
func (a *IDAuth) VerifyKey() error {
	if !a.HasAuthor {
		return nil
	}
	if err := verify(a.AuthorKey[:], a.KeySignature[:], a.IDKey[:]); err != nil {
		return fmt.Errorf("verifying ID key: %w", err)
	}
	return nil
}

// publicBytes returns a key as the processor takes it: curve, QX and QY.
func publicBytes(k *ecdsa.PublicKey) (out [publicSize]byte, err error) {
	if k.Curve != elliptic.P384() {
		return out, fmt.Errorf("%w: key is not P-384", ErrIDBlock)
	}
	raw, err := k.Bytes() // 0x04, X, Y
	if err != nil {
		return out, fmt.Errorf("encoding key: %w", err)
	}
	const size = 48
	binary.LittleEndian.PutUint32(out[0:], curveP384)
	copy(out[4:], reversed(raw[1:1+size]))
	copy(out[4+number:], reversed(raw[1+size:]))
	return out, nil
}

func sign(k *ecdsa.PrivateKey, message []byte) (out [sigSize]byte, err error) {
	sum := sha512.Sum384(message)
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		return out, fmt.Errorf("signing: %w", err)
	}
	copy(out[0:], reversed(r.FillBytes(make([]byte, number))))
	copy(out[number:], reversed(s.FillBytes(make([]byte, number))))
	return out, nil
}

// verify holds a signature in the processor's form against a key in the
// processor's form. Bytes that neither uses must be zero: both structures are
// hashed or signed as a whole.
func verify(public, signature, message []byte) error {
	if binary.LittleEndian.Uint32(public) != curveP384 || !zero(public[4+2*number:]) || !zero(signature[2*number:]) {
		return fmt.Errorf("%w: key or signature has another form", ErrIDBlock)
	}
	const size = 48
	x, y := reversed(public[4:4+number]), reversed(public[4+number:4+2*number])
	if !zero(x[:number-size]) || !zero(y[:number-size]) {
		return fmt.Errorf("%w: key is not on the curve", ErrIDBlock)
	}
	raw := append([]byte{4}, x[number-size:]...)
	k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P384(), append(raw, y[number-size:]...))
	if err != nil {
		return fmt.Errorf("%w: key is not on the curve: %w", ErrIDBlock, err)
	}
	r, s := new(big.Int).SetBytes(reversed(signature[:number])), new(big.Int).SetBytes(reversed(signature[number:2*number]))
	sum := sha512.Sum384(message)
	if !ecdsa.Verify(k, sum[:], r, s) {
		return fmt.Errorf("%w: signature is not the key's", ErrIDBlock)
	}
	return nil
}

func reversed(b []byte) []byte {
	out := make([]byte, len(b))
	for i, c := range b {
		out[len(b)-1-i] = c
	}
	return out
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
