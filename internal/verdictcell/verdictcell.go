// Package verdictcell is the form of a verdict that contracts read: the common
// cell, which says what was verified, and the verifiers' signatures over its
// hash (DESIGN section 4, "Verdict"; layouts in docs/contracts.md and
// contracts/tolk/formats.tolk). The verifier writes it, contracts, clients and
// workers read it.
package verdictcell

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/toncell"
)

// Version is the format of the common cell that this package writes and reads.
const Version = 2

// Limits of a verdict.
const (
	MaxSignatures = 16   // the registry counts no more
	MaxSeconds    = 3600 // longest life of a signature
	MaxBOC        = 8 << 10
)

// Constructor tags.
const (
	tagCommon    = 0x43564331
	tagStatement = 0x43565331
)

// Common is what a verifier found, without who found it. The hash of its cell
// is the verdict hash.
type Common struct {
	GlobalID       int32           // the TON network, config parameter 19
	Registry       toncell.Address // whose keys and rules apply
	TrustClass     TrustClass      //
	ReceiptKey     [32]byte        // Ed25519 public key of the enclave
	Payout         toncell.Address // where the worker is paid
	Manifest       [32]byte        // SHA-256 of the DSSE payload
	ModelRoot      [32]byte        // verity root hash of the model
	PolicyHash     [32]byte        // SHA-256 of the policy's JCS
	EvidenceSHA256 [32]byte        // SHA-256 of the evidence document
}

// BindingCell returns the part of a common cell that a job fixes beforehand:
// its terms hold the same cell, so that the contract compares one hash.
func BindingCell(payout toncell.Address, modelRoot, policyHash [32]byte) (*cell.Cell, error) {
	c, err := toncell.NewBuilder().Addr(payout).Bits256(modelRoot).Bits256(policyHash).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the binding cell: %w", err)
	}
	return c, nil
}

// Cell returns the common cell.
func (c *Common) Cell() (*cell.Cell, error) {
	binding, err := BindingCell(c.Payout, c.ModelRoot, c.PolicyHash)
	if err != nil {
		return nil, err
	}
	evidence, err := toncell.NewBuilder().Bits256(c.EvidenceSHA256).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the evidence cell: %w", err)
	}
	out, err := toncell.NewBuilder().Uint(tagCommon, 32).Uint(Version, 16).Int32(c.GlobalID).
		Addr(c.Registry).Uint(uint64(c.TrustClass), 8).Bits256(c.ReceiptKey).Bits256(c.Manifest).
		Ref(binding).Ref(evidence).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the common cell: %w", err)
	}
	return out, nil
}

// Hash returns the verdict hash: the representation hash of the common cell.
func (c *Common) Hash() ([32]byte, error) {
	root, err := c.Cell()
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(root.Hash()), nil
}

// parseCommon is the inverse of Cell; it refuses anything that Cell would not
// write.
func parseCommon(root *cell.Cell) (Common, error) {
	var c Common
	r := toncell.NewReader(root)
	r.Tag(tagCommon)
	if v := r.Uint(16); r.Err() == nil && v != Version {
		return c, fmt.Errorf("common cell of version %d, want %d", v, Version)
	}
	c.GlobalID = r.Int32()
	c.Registry = r.Addr()
	c.TrustClass = TrustClass(r.Uint(8))
	c.ReceiptKey, c.Manifest = r.Bits256(), r.Bits256()
	binding, evidence := toncell.NewReader(r.Ref()), toncell.NewReader(r.Ref())
	c.Payout, c.ModelRoot, c.PolicyHash = binding.Addr(), binding.Bits256(), binding.Bits256()
	c.EvidenceSHA256 = evidence.Bits256()
	return c, errors.Join(r.End(), binding.End(), evidence.End())
}

// KeyID returns the id under which the registry lists a verifier's key: the
// SHA-256 of the raw Ed25519 public key.
func KeyID(public ed25519.PublicKey) [32]byte { return sha256.Sum256(public) }

// Signature is one verifier's statement about a common cell. Times are Unix
// seconds; it is good from IssuedAt until just before ExpiresAt.
type Signature struct {
	KeyID     [32]byte
	IssuedAt  uint64
	ExpiresAt uint64
	Sig       [64]byte
}

// statementHash returns what is signed: the hash of the statement cell.
func (s *Signature) statementHash(verdictHash [32]byte) ([]byte, error) {
	c, err := toncell.NewBuilder().Uint(tagStatement, 32).Bits256(verdictHash).Bits256(s.KeyID).
		Uint(s.IssuedAt, 64).Uint(s.ExpiresAt, 64).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the statement cell: %w", err)
	}
	return c.Hash(), nil
}

// Sign signs a verdict hash for the interval [issuedAt, expiresAt) in Unix
// seconds, of at most MaxSeconds. The key is an Ed25519 key.
func Sign(key crypto.Signer, verdictHash [32]byte, issuedAt, expiresAt uint64) (Signature, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return Signature{}, fmt.Errorf("signing a verdict: key is %T, not Ed25519", key.Public())
	}
	if expiresAt <= issuedAt || expiresAt-issuedAt > MaxSeconds {
		return Signature{}, fmt.Errorf("signing a verdict: interval %d to %d is not within %d seconds", issuedAt, expiresAt, MaxSeconds)
	}
	s := Signature{KeyID: KeyID(public), IssuedAt: issuedAt, ExpiresAt: expiresAt}
	msg, err := s.statementHash(verdictHash)
	if err != nil {
		return Signature{}, err
	}
	sig, err := key.Sign(nil, msg, crypto.Hash(0))
	if err != nil {
		return Signature{}, fmt.Errorf("signing a verdict: %w", err)
	}
	if len(sig) != len(s.Sig) {
		return Signature{}, fmt.Errorf("signing a verdict: signature of %d bytes", len(sig))
	}
	s.Sig = [64]byte(sig)
	return s, nil
}

// Verify reports whether the signature is the key's over the verdict hash. It
// does not look at the time.
func (s *Signature) Verify(public ed25519.PublicKey, verdictHash [32]byte) bool {
	if len(public) != ed25519.PublicKeySize || KeyID(public) != s.KeyID {
		return false
	}
	msg, err := s.statementHash(verdictHash)
	return err == nil && ed25519.Verify(public, msg, s.Sig[:])
}

// Verdict is a common cell with the verifiers' signatures, in strictly
// ascending order of key id.
type Verdict struct {
	Common     Common
	Signatures []Signature
}

// New puts signatures over one common cell together; several of one key are
// an error.
func New(c Common, sigs ...Signature) (*Verdict, error) {
	v := &Verdict{Common: c, Signatures: slices.Clone(sigs)}
	slices.SortFunc(v.Signatures, func(a, b Signature) int { return bytes.Compare(a.KeyID[:], b.KeyID[:]) })
	if err := v.checkList(); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *Verdict) checkList() error {
	if n := len(v.Signatures); n < 1 || n > MaxSignatures {
		return fmt.Errorf("verdict with %d signatures, want 1 to %d", n, MaxSignatures)
	}
	for i := 1; i < len(v.Signatures); i++ {
		if bytes.Compare(v.Signatures[i-1].KeyID[:], v.Signatures[i].KeyID[:]) >= 0 {
			return fmt.Errorf("verdict's signature %d is out of order or a duplicate", i)
		}
	}
	return nil
}

// Hash returns the verdict hash.
func (v *Verdict) Hash() ([32]byte, error) { return v.Common.Hash() }

// Interval returns the intersection of the signatures' intervals, in Unix
// seconds; from ≥ until means that it is empty.
func (v *Verdict) Interval() (from, until uint64) {
	for i, s := range v.Signatures {
		if i == 0 {
			from, until = s.IssuedAt, s.ExpiresAt
			continue
		}
		from, until = max(from, s.IssuedAt), min(until, s.ExpiresAt)
	}
	return from, until
}

// Cell returns the verdict cell that a release message carries.
func (v *Verdict) Cell() (*cell.Cell, error) {
	if err := v.checkList(); err != nil {
		return nil, err
	}
	common, err := v.Common.Cell()
	if err != nil {
		return nil, err
	}
	var list *cell.Cell
	for _, s := range slices.Backward(v.Signatures) {
		list, err = toncell.NewBuilder().Bits256(s.KeyID).Uint(s.IssuedAt, 64).Uint(s.ExpiresAt, 64).
			Bytes(s.Sig[:]).MaybeRef(list).Cell()
		if err != nil {
			return nil, fmt.Errorf("building a signature cell: %w", err)
		}
	}
	out, err := toncell.NewBuilder().Ref(common).Ref(list).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the verdict cell: %w", err)
	}
	return out, nil
}

// FromCell reads a verdict cell; it refuses anything that Cell would not
// write. It checks no signature.
func FromCell(root *cell.Cell) (*Verdict, error) {
	r := toncell.NewReader(root)
	commonCell, next := r.Ref(), r.Ref()
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("reading the verdict cell: %w", err)
	}
	var v Verdict
	var err error
	if v.Common, err = parseCommon(commonCell); err != nil {
		return nil, fmt.Errorf("reading the common cell: %w", err)
	}
	for next != nil && len(v.Signatures) <= MaxSignatures {
		r := toncell.NewReader(next)
		s := Signature{KeyID: r.Bits256(), IssuedAt: r.Uint(64), ExpiresAt: r.Uint(64)}
		s.Sig = [64]byte(r.Bytes(64))
		next = r.MaybeRef()
		if err := r.End(); err != nil {
			return nil, fmt.Errorf("reading signature %d: %w", len(v.Signatures), err)
		}
		v.Signatures = append(v.Signatures, s)
	}
	if err := v.checkList(); err != nil {
		return nil, err
	}
	return &v, nil
}

// MarshalText writes the verdict as the standard base64 of its bag of cells,
// for JSON documents and headers.
func (v *Verdict) MarshalText() ([]byte, error) {
	c, err := v.Cell()
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendEncode(nil, c.ToBOC()), nil
}

// UnmarshalText reads what MarshalText writes, from an untrusted source.
func (v *Verdict) UnmarshalText(text []byte) error {
	if len(text) > base64.StdEncoding.EncodedLen(MaxBOC) {
		return fmt.Errorf("reading a verdict of %d characters: too long", len(text))
	}
	boc, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("reading a verdict: %w", err)
	}
	root, err := toncell.ParseBOC(boc, toncell.Limits{Bytes: MaxBOC, Cells: MaxSignatures + 4, Depth: MaxSignatures + 1})
	if err != nil {
		return fmt.Errorf("reading a verdict: %w", err)
	}
	got, err := FromCell(root)
	if err != nil {
		return err
	}
	*v = *got
	return nil
}
