package proof

import (
	"fmt"
	"math/big"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Status is the state of an account.
type Status string

// The states of TL-B AccountState, and Absent for an account that provably
// does not exist.
const (
	Absent Status = "absent"
	Uninit Status = "uninit"
	Active Status = "active"
	Frozen Status = "frozen"
)

// Account is a parsed account (TL-B Account of crypto/block/block.tlb,
// including storage_extra, which accounts of 26 cells and more carry).
type Account struct {
	Address  *address.Address // nil when absent
	Status   Status
	Balance  *big.Int // nanoton
	Code     *cell.Cell
	Data     *cell.Cell
	Library  *cell.Cell // root of the account's library dictionary, or nil
	LastPaid uint32     // Unix time of the last storage payment
	Due      *big.Int   // unpaid storage fees, nanoton, or nil
	// LastLT and LastHash name the last transaction; they come from the
	// ShardAccount, so ParseAccount leaves LastHash nil.
	LastLT   uint64
	LastHash []byte
	// Cell is the account as it was parsed, for execution elsewhere; nil when
	// absent.
	Cell *cell.Cell
}

// reader is a slice that remembers the first error.
type reader struct {
	s   *cell.Slice
	err error
}

func newReader(c *cell.Cell) *reader {
	r := &reader{s: c.BeginParse()}
	if c.GetType() != cell.OrdinaryCellType {
		r.err = errSpecial
	}
	return r
}

func (r *reader) uint(bits uint) uint64 {
	if r.err != nil {
		return 0
	}
	v, err := r.s.LoadUInt(bits)
	r.err = err
	return v
}

func (r *reader) bit() bool { return r.uint(1) == 1 }

func (r *reader) bytes(bits uint) []byte {
	if r.err != nil {
		return nil
	}
	b, err := r.s.LoadSlice(bits)
	r.err = err
	return b
}

func (r *reader) ref() *cell.Cell {
	if r.err != nil {
		return nil
	}
	c, err := r.s.LoadRefCell()
	r.err = err
	return c
}

func (r *reader) maybeRef() *cell.Cell {
	if r.bit() {
		return r.ref()
	}
	return nil
}

// varUint reads a VarUInteger whose length field has the given width.
func (r *reader) varUint(lengthBits uint) *big.Int {
	n := r.uint(lengthBits)
	if r.err != nil {
		return new(big.Int)
	}
	v, err := r.s.LoadBigUInt(uint(n) * 8)
	if err != nil {
		r.err = err
		return new(big.Int)
	}
	return v
}

// coins reads Grams (VarUInteger 16).
func (r *reader) coins() *big.Int { return r.varUint(4) }

// currencies reads a CurrencyCollection and returns its nanotons.
func (r *reader) currencies() *big.Int {
	v := r.coins()
	r.maybeRef()
	return v
}

// ParseAccount parses an Account cell. Pruned or otherwise special cells on
// the way are errors.
func ParseAccount(c *cell.Cell) (*Account, error) {
	r := newReader(c)
	if !r.bit() {
		if r.err != nil {
			return nil, fmt.Errorf("parsing an account: %w", r.err)
		}
		return &Account{Status: Absent, Balance: new(big.Int)}, nil
	}
	a := &Account{}
	if r.err == nil {
		a.Address, r.err = r.s.LoadAddr()
	}
	r.varUint(3) // cells
	r.varUint(3) // bits
	switch extra := r.uint(3); extra {
	case 0b000:
	case 0b001: // storage_extra_info: hash of the account's storage dictionary
		r.bytes(256)
	default:
		if r.err == nil {
			r.err = fmt.Errorf("unknown storage extra %03b", extra)
		}
	}
	a.LastPaid = uint32(r.uint(32))
	if r.bit() {
		a.Due = r.coins()
	}
	a.LastLT = r.uint(64)
	a.Balance = r.currencies()
	if r.bit() {
		a.Status = Active
		r.stateInit(a)
	} else if r.bit() {
		a.Status = Frozen
		r.bytes(256)
	} else {
		a.Status = Uninit
	}
	if r.err == nil && (r.s.BitsLeft() != 0 || r.s.RefsNum() != 0) {
		r.err = errTrailing
	}
	if r.err != nil {
		return nil, fmt.Errorf("parsing an account: %w", r.err)
	}
	return a, nil
}

func (r *reader) stateInit(a *Account) {
	if r.bit() {
		r.uint(5) // fixed prefix length
	}
	if r.bit() {
		r.uint(2) // tick, tock
	}
	a.Code = r.maybeRef()
	a.Data = r.maybeRef()
	a.Library = r.maybeRef()
}
