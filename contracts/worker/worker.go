// Package worker is the Go side of the worker contract
// (contracts/tolk/worker.tolk; layouts in docs/contracts.md): one machine's
// stake and boot generation. It builds the contract's address and messages and
// decodes its state from a proven data cell.
package worker

import (
	"errors"
	"fmt"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/compiled"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
)

// Layout is the version of the data cell that this package writes and reads.
const Layout = 1

// Amounts in nanoton. StorageReserve is kept beside the stake. The values are
// the least that a message must bring; what its gas does not use comes back.
const (
	StorageReserve = 100_000_000
	StakeGas       = 10_000_000
	OwnerValue     = 10_000_000
)

// Opcodes of the worker contract.
const (
	OpStake     = 0x43570001
	OpLeave     = 0x43570002
	OpWithdraw  = 0x43570003
	OpAdvance   = 0x43570004
	OpSlash     = 0x43570005
	OpStakePaid = 0x43570006
)

// Bounds of the wait for a withdrawal. It must outlast the jobs that the stake
// answers for and the time that a client needs to compare receipts.
const (
	MinLeaveDelay = time.Minute
	MaxLeaveDelay = 365 * 24 * time.Hour
)

// Hash is 32 bytes, lower-case hex in JSON.
type Hash = hexbytes.Hash

// Terms are fixed for the contract's life and part of its address.
type Terms struct {
	Owner      toncell.Address `json:"owner"`       // stakes, withdraws, announces boots
	Payout     toncell.Address `json:"payout"`      // of the jobs that the stake answers for
	Registry   toncell.Address `json:"registry"`    // of these jobs
	Machine    Hash            `json:"machine"`     // the owner's name for the machine
	LeaveDelay time.Duration   `json:"leave_delay"` // how long a withdrawal waits
}

// Check refuses terms that nobody should deploy or rely on.
func (t *Terms) Check() error {
	if t.LeaveDelay < MinLeaveDelay || t.LeaveDelay > MaxLeaveDelay || t.LeaveDelay%time.Second != 0 {
		return fault.New(fault.ExitRefused, "worker.terms", "choose another delay",
			"checking the worker contract's terms: the delay is not between %s and %s, in whole seconds", MinLeaveDelay, MaxLeaveDelay)
	}
	return nil
}

// Cell returns the terms cell. It names the job's code of this version: only
// jobs that run it can slash the stake.
func (t *Terms) Cell() (*cell.Cell, error) {
	job, err := compiled.Job()
	if err != nil {
		return nil, err
	}
	machine, err := toncell.NewBuilder().Bits256(t.Machine).Uint(uint64(t.LeaveDelay/time.Second), 32).
		Bytes(job.Code.Hash()).Uint(uint64(job.Code.Depth()), 16).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the machine cell: %w", err)
	}
	out, err := toncell.NewBuilder().Addr(t.Owner).Addr(t.Payout).Addr(t.Registry).Ref(machine).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the worker contract's terms: %w", err)
	}
	return out, nil
}

// StateInit returns code and initial data, and the address in the basechain.
func (t *Terms) StateInit() (*tlb.StateInit, toncell.Address, error) {
	code, err := compiled.Worker()
	if err != nil {
		return nil, toncell.Address{}, err
	}
	terms, err := t.Cell()
	if err != nil {
		return nil, toncell.Address{}, err
	}
	data, err := toncell.NewBuilder().Uint(Layout, 16).Uint(0, 64).Coins(0).Coins(0).Uint(0, 32).Coins(0).Ref(terms).Cell()
	if err != nil {
		return nil, toncell.Address{}, fmt.Errorf("building the worker contract's data: %w", err)
	}
	return toncell.StateInit(code.Code, data)
}

// Address returns the contract's address.
func (t *Terms) Address() (toncell.Address, error) {
	_, addr, err := t.StateInit()
	return addr, err
}

// State is the contract's data.
type State struct {
	Generation uint64    `json:"generation"` // of the last boot that the owner announced
	Stake      uint64    `json:"stake"`      // nanoton, what is leaving included
	Leaving    uint64    `json:"leaving"`    // nanoton to be withdrawn
	LeaveAt    time.Time `json:"leave_at"`   // from when on; zero: nothing is leaving
	Slashed    uint64    `json:"slashed"`    // nanoton, total
	Terms      Terms     `json:"terms"`
}

// Firm is the part of the stake that is not leaving.
func (s *State) Firm() uint64 { return s.Stake - s.Leaving }

// Decode reads a data cell. The caller has proven that it is the contract's.
func Decode(data *cell.Cell) (*State, error) {
	r := toncell.NewReader(data)
	if v := r.Uint(16); r.Err() == nil && v != Layout {
		return nil, fmt.Errorf("decoding worker data: layout %d, want %d", v, Layout)
	}
	s := &State{Generation: r.Uint(64), Stake: r.Coins(), Leaving: r.Coins()}
	if at := r.Uint(32); at != 0 {
		s.LeaveAt = time.Unix(int64(at), 0).UTC()
	}
	s.Slashed = r.Coins()
	t := toncell.NewReader(r.Ref())
	s.Terms = Terms{Owner: t.Addr(), Payout: t.Addr(), Registry: t.Addr()}
	m := toncell.NewReader(t.Ref())
	s.Terms.Machine = m.Bits256()
	s.Terms.LeaveDelay = time.Duration(m.Uint(32)) * time.Second
	m.Bits256() // the job's code: whoever compares the address checks it
	m.Uint(16)
	if err := errors.Join(r.End(), t.End(), m.End()); err != nil {
		return nil, fmt.Errorf("decoding worker data: %w", err)
	}
	if s.Leaving > s.Stake {
		return nil, fmt.Errorf("decoding worker data: %d leaving of %d", s.Leaving, s.Stake)
	}
	return s, nil
}

// CheckCode refuses an account whose code is not this version's worker
// contract.
func CheckCode(code *cell.Cell) error {
	want, err := compiled.Worker()
	if err != nil {
		return err
	}
	return toncell.CheckCode("worker", want.Code, code)
}

func body(op, queryID uint64) *toncell.Builder {
	return toncell.NewBuilder().Uint(op, 32).Uint(queryID, 64)
}

// Stake adds amount nanoton. The first one, with the StateInit, deploys the
// contract and must bring StorageReserve on top.
func Stake(queryID, amount uint64) (*cell.Cell, error) {
	return body(OpStake, queryID).Coins(amount).Cell()
}

// Leave, from the owner, begins the wait for a withdrawal of amount nanoton; 0
// calls it off.
func Leave(queryID, amount uint64) (*cell.Cell, error) {
	return body(OpLeave, queryID).Coins(amount).Cell()
}

// Withdraw sends to the owner what has waited long enough. Anyone may send it.
func Withdraw(queryID uint64) (*cell.Cell, error) { return body(OpWithdraw, queryID).Cell() }

// Advance, from the owner, announces the next boot generation.
func Advance(queryID, generation uint64) (*cell.Cell, error) {
	return body(OpAdvance, queryID).Uint(generation, 64).Cell()
}
