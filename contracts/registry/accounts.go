package registry

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Constructor tags of what verifiers sign for the registry.
const (
	tagClaim = 0x434f4331
	tagGrant = 0x434f4231
)

// signed signs a cell's hash and returns the body of the message that carries
// both: signature, then the cell.
func signed(b *toncell.Builder, key crypto.Signer, statement *toncell.Builder) (*cell.Cell, error) {
	c, err := statement.Cell()
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(nil, c.Hash(), crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	if len(sig) != ed25519.SignatureSize {
		return nil, fmt.Errorf("signature of %d bytes", len(sig))
	}
	return b.Bytes(sig).Ref(c).Cell()
}

func verifierKey(key crypto.Signer) (ed25519.PublicKey, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("key is %T, not Ed25519", key.Public())
	}
	return public, nil
}

// Claim asks for all that a verifier has earned, paid to an address; the
// signature counts until a time within an hour. Anyone may send it.
func Claim(queryID uint64, key crypto.Signer, globalID int32, registry, to toncell.Address, until time.Time) (*cell.Cell, error) {
	public, err := verifierKey(key)
	if err != nil {
		return nil, fmt.Errorf("claiming a share of fees: %w", err)
	}
	c, err := signed(body(OpClaim, queryID), key, toncell.NewBuilder().Uint(tagClaim, 32).Int32(globalID).Addr(registry).
		Bits256(verdictcell.KeyID(public)).Addr(to).Uint(unix(until), 32))
	if err != nil {
		return nil, fmt.Errorf("claiming a share of fees: %w", err)
	}
	return c, nil
}

// PostBond posts amount nanoton, at least MinBond, as a verifier's bond, which
// owner may take back. The message must bring the amount and MessageValue.
func PostBond(queryID uint64, key crypto.Signer, globalID int32, registry, owner toncell.Address, amount uint64) (*cell.Cell, error) {
	public, err := verifierKey(key)
	if err != nil {
		return nil, fmt.Errorf("posting a bond: %w", err)
	}
	c, err := signed(body(OpPostBond, queryID).Coins(amount), key, toncell.NewBuilder().Uint(tagGrant, 32).Int32(globalID).Addr(registry).
		Bytes(public).Addr(owner))
	if err != nil {
		return nil, fmt.Errorf("posting a bond: %w", err)
	}
	return c, nil
}

// Unbond, from the bond's owner, takes the key off the list and starts the
// bond's way out.
func Unbond(queryID uint64, keyID [32]byte) (*cell.Cell, error) {
	return body(OpUnbond, queryID).Bits256(keyID).Cell()
}

// WithdrawBond, from the bond's owner, pays it out after its delay.
func WithdrawBond(queryID uint64, keyID [32]byte) (*cell.Cell, error) {
	return body(OpWithdrawBond, queryID).Bits256(keyID).Cell()
}

// ErrNoContradiction says that two verdicts can both be true.
var ErrNoContradiction = errors.New("the verdicts do not contradict each other")

// Slash proves that a verifier accepted two verdicts that contradict each
// other: the same evidence with another receipt key, payout, manifest, model
// or trust class. It finds the verifier that signed both and returns its key
// id.
func Slash(queryID uint64, keys []ed25519.PublicKey, a, b *verdictcell.Verdict) (*cell.Cell, [32]byte, error) {
	for _, k := range keys {
		id := verdictcell.KeyID(k)
		first, err1 := accusation(k, a)
		second, err2 := accusation(k, b)
		if err := errors.Join(err1, err2); err != nil {
			return nil, id, err
		}
		if first == nil || second == nil {
			continue
		}
		if !contradict(&a.Common, &b.Common) {
			return nil, id, ErrNoContradiction
		}
		c, err := body(OpSlash, queryID).Bytes(k).Ref(first).Ref(second).Cell()
		return c, id, err
	}
	return nil, [32]byte{}, errors.New("no verifier signed both verdicts")
}

func contradict(a, b *verdictcell.Common) bool {
	return a.GlobalID == b.GlobalID && a.Registry == b.Registry && a.EvidenceSHA256 == b.EvidenceSHA256 &&
		(a.ReceiptKey != b.ReceiptKey || a.Payout != b.Payout || a.Manifest != b.Manifest || a.ModelRoot != b.ModelRoot || a.TrustClass != b.TrustClass)
}

// accusation returns a verifier's signature over a verdict as a cell, nil if
// there is none.
func accusation(public ed25519.PublicKey, v *verdictcell.Verdict) (*cell.Cell, error) {
	hash, err := v.Hash()
	if err != nil {
		return nil, err
	}
	for _, s := range v.Signatures {
		if s.Verify(public, hash) {
			common, err := v.Common.Cell()
			if err != nil {
				return nil, err
			}
			return toncell.NewBuilder().Uint(s.IssuedAt, 64).Uint(s.ExpiresAt, 64).Bytes(s.Sig[:]).Ref(common).Cell()
		}
	}
	return nil, nil
}
