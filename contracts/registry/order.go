package registry

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/exitcode"
	"cocoon/internal/toncell"
)

// Constructor tags of what owners sign.
const (
	tagOrder     = 0x434f5231
	tagSchedule  = 0x434f5331
	tagVeto      = 0x434f5631
	tagScheduled = 0x434f5632
)

// Order is what owners sign to change the registry. Its entries are applied
// all or none.
type Order struct {
	GlobalID   int32
	Registry   toncell.Address
	Number     uint64    // used once; at least State.NextOrder
	ValidUntil time.Time // not accepted from then on
	Later      bool      // waits the time lock; without it every entry must narrow trust
	// Schedule is for one new entry of a list, Later: it waits in its place, and
	// counts when the time lock is over without being executed.
	Schedule bool
	Entries  []Entry
}

// Cell returns the order cell.
func (o *Order) Cell() (*cell.Cell, error) {
	if n := len(o.Entries); n < 1 || n > MaxEntries {
		return nil, fmt.Errorf("building an order of %d entries, want 1 to %d", n, MaxEntries)
	}
	if o.Schedule {
		return o.scheduled()
	}
	for i, e := range o.Entries {
		if _, ok := e.(OwnersEntry); ok && i > 0 {
			return nil, exitcode.OwnersNotFirst.Fault("building an order")
		}
	}
	var entries *cell.Cell
	for _, e := range slices.Backward(o.Entries) {
		b := toncell.NewBuilder().MaybeRef(entries).Uint(uint64(e.kind()), 8)
		if err := e.store(b); err != nil {
			return nil, fmt.Errorf("building an order: %w", err)
		}
		var err error
		if entries, err = b.Cell(); err != nil {
			return nil, fmt.Errorf("building an order: %s: %w", e, err)
		}
	}
	c, err := toncell.NewBuilder().Uint(tagOrder, 32).Int32(o.GlobalID).Addr(o.Registry).Uint(o.Number, 64).
		Uint(unix(o.ValidUntil), 32).Bool(o.Later).Ref(entries).Cell()
	if err != nil {
		return nil, fmt.Errorf("building an order: %w", err)
	}
	return c, nil
}

// ReadOrder reads an order cell; it refuses anything that Cell would not
// write, so that who signs it knows all that it does.
func ReadOrder(c *cell.Cell) (*Order, error) {
	r := toncell.NewReader(c)
	if c != nil && c.BitsSize() >= 32 && toncell.NewReader(c).Uint(32) == tagSchedule {
		r.Tag(tagSchedule)
		o := &Order{GlobalID: r.Int32(), Registry: r.Addr(), Number: r.Uint(64), ValidUntil: timeOf(r.Uint(32)), Later: true, Schedule: true}
		e, err := readScheduled(r)
		if err = errors.Join(err, r.End()); err != nil {
			return nil, fmt.Errorf("reading an order: %w", err)
		}
		o.Entries = []Entry{e}
		return o, nil
	}
	r.Tag(tagOrder)
	o := &Order{GlobalID: r.Int32(), Registry: r.Addr(), Number: r.Uint(64), ValidUntil: timeOf(r.Uint(32)), Later: r.Bool()}
	next := r.Ref()
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("reading an order: %w", err)
	}
	for next != nil {
		if len(o.Entries) == MaxEntries {
			return nil, fmt.Errorf("reading an order: more than %d entries", MaxEntries)
		}
		e := toncell.NewReader(next)
		next = e.MaybeRef()
		entry, err := readEntry(e)
		if err = errors.Join(err, e.End()); err != nil {
			return nil, fmt.Errorf("reading entry %d of an order: %w", len(o.Entries), err)
		}
		o.Entries = append(o.Entries, entry)
	}
	again, err := o.Cell()
	if err != nil {
		return nil, err
	}
	if [32]byte(again.Hash()) != [32]byte(c.Hash()) {
		return nil, errors.New("reading an order: it is not written in the one way that it has")
	}
	return o, nil
}

// Hash returns what owners sign.
func (o *Order) Hash() ([32]byte, error) {
	c, err := o.Cell()
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(c.Hash()), nil
}

// OwnerSignature is one owner's signature of an order or a veto.
type OwnerSignature struct {
	Index uint8
	Sig   [64]byte
}

// IndexOf returns the index of an owner's key.
func (o *Owners) IndexOf(public ed25519.PublicKey) (uint8, bool) {
	for i, k := range o.Keys {
		if k.Equal(public) {
			return i, true
		}
	}
	return 0, false
}

func (o *Owners) sign(key crypto.Signer, hash [32]byte) (OwnerSignature, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return OwnerSignature{}, fmt.Errorf("signing for the registry: key is %T, not Ed25519", key.Public())
	}
	index, ok := o.IndexOf(public)
	if !ok {
		return OwnerSignature{}, fmt.Errorf("signing for the registry: key %x is not an owner's", []byte(public))
	}
	sig, err := key.Sign(nil, hash[:], crypto.Hash(0))
	if err != nil || len(sig) != 64 {
		return OwnerSignature{}, fmt.Errorf("signing for the registry: %d bytes, %w", len(sig), err)
	}
	return OwnerSignature{Index: index, Sig: [64]byte(sig)}, nil
}

// Sign signs an order with an owner's key.
func (o *Owners) Sign(key crypto.Signer, order *Order) (OwnerSignature, error) {
	h, err := order.Hash()
	if err != nil {
		return OwnerSignature{}, err
	}
	return o.sign(key, h)
}

// SignVeto signs the veto of a pending order, by its cell's hash: also of one
// that ReadOrder cannot read.
func (o *Owners) SignVeto(key crypto.Signer, globalID int32, registry toncell.Address, order [32]byte) (OwnerSignature, error) {
	c, err := toncell.NewBuilder().Uint(tagVeto, 32).Int32(globalID).Addr(registry).Bits256(order).Cell()
	if err != nil {
		return OwnerSignature{}, fmt.Errorf("building a veto: %w", err)
	}
	return o.sign(key, [32]byte(c.Hash()))
}

// Verify reports whether a signature of an order is one of the owners'.
func (o *Owners) Verify(order *Order, s OwnerSignature) bool {
	h, err := order.Hash()
	k := o.Keys[s.Index]
	return err == nil && len(k) == ed25519.PublicKeySize && ed25519.Verify(k, h[:], s.Sig[:])
}

// signatureCell writes signatures as the list that the contract reads.
func signatureCell(sigs []OwnerSignature) (*cell.Cell, error) {
	sigs = slices.Clone(sigs)
	slices.SortFunc(sigs, func(a, b OwnerSignature) int { return int(a.Index) - int(b.Index) })
	if n := len(sigs); n < 1 || n > MaxOwners {
		return nil, fmt.Errorf("%d owners' signatures, want 1 to %d", n, MaxOwners)
	}
	var list *cell.Cell
	for i, s := range slices.Backward(sigs) {
		if i > 0 && sigs[i-1].Index == s.Index {
			return nil, fmt.Errorf("owner %d signed twice", s.Index)
		}
		var err error
		if list, err = toncell.NewBuilder().Uint(uint64(s.Index), 8).Bytes(s.Sig[:]).MaybeRef(list).Cell(); err != nil {
			return nil, err
		}
	}
	return list, nil
}
