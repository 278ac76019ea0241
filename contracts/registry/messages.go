package registry

import (
	"errors"
	"fmt"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/toncell"
)

// Opcodes of the registry.
const (
	OpCheckVerdict  = 0x43430001
	OpVerdictGood   = 0x43430002
	OpFund          = 0x43520007
	OpPaid          = 0x43520008
	OpPropose       = 0x43520010
	OpExecute       = 0x43520011
	OpVeto          = 0x43520012
	OpVetoScheduled = 0x43520013
	OpSchedule      = 0x43520014
	OpClaim         = 0x43520020
	OpPostBond      = 0x43520021
	OpUnbond        = 0x43520022
	OpWithdrawBond  = 0x43520023
	OpSlash         = 0x43520024
)

// MessageValue is what a message should bring beside what it leaves there, in
// nanoton; what its gas does not use comes back.
const MessageValue = 50_000_000

// GiveBack is the value from which on Schedule returns what its gas does not
// use.
const GiveBack = 20_000_000

// EntryValue is what an order's entry may need beside MessageValue, at 10,000
// entries.
const EntryValue = 8_000_000

func body(op, queryID uint64) *toncell.Builder {
	return toncell.NewBuilder().Uint(op, 32).Uint(queryID, 64)
}

// CheckVerdict sends a verdict cell for a job, or whoever else is to know that
// it is good; verifierFee nanoton of the value may be kept for the verifiers.
// The registry refuses a verdict that is not good.
func CheckVerdict(queryID uint64, to toncell.Address, verifierFee uint64, verdict *cell.Cell) (*cell.Cell, error) {
	r := toncell.NewReader(verdict)
	common, signatures := r.Ref(), r.Ref()
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("asking about a verdict: %w", err)
	}
	return body(OpCheckVerdict, queryID).Addr(to).Coins(verifierFee).Ref(common).Ref(signatures).Cell()
}

// Propose sends an order with its owners' signatures. One that acts at once is
// executed by it, another waits.
func Propose(queryID uint64, o *Order, sigs []OwnerSignature) (*cell.Cell, error) {
	order, err1 := o.Cell() // also says whether it can be scheduled
	list, err2 := signatureCell(sigs)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("proposing an order: %w", err)
	}
	if o.Schedule {
		b := body(OpSchedule, queryID).Ref(list).Uint(o.Number, 64).Uint(unix(o.ValidUntil), 32)
		if err := storeScheduled(b, o.Entries[0]); err != nil {
			return nil, fmt.Errorf("proposing an order: %w", err)
		}
		return b.Cell()
	}
	return body(OpPropose, queryID).Ref(order).Ref(list).Cell()
}

// Execute applies a pending order whose time has come, or drops it if that is
// over. Anyone may.
func Execute(queryID, number uint64) (*cell.Cell, error) {
	return body(OpExecute, queryID).Uint(number, 64).Cell()
}

// Veto drops a pending order.
func Veto(queryID, number uint64, sigs []OwnerSignature) (*cell.Cell, error) {
	list, err := signatureCell(sigs)
	if err != nil {
		return nil, fmt.Errorf("vetoing an order: %w", err)
	}
	return body(OpVeto, queryID).Uint(number, 64).Ref(list).Cell()
}

// VetoScheduled takes a scheduled entry off its dictionary; the signatures are of
// a veto of its ScheduledHash.
func VetoScheduled(queryID uint64, id ID, sigs []OwnerSignature) (*cell.Cell, error) {
	list, err := signatureCell(sigs)
	if err != nil {
		return nil, fmt.Errorf("vetoing a %s: %w", id.Kind, err)
	}
	return body(OpVetoScheduled, queryID).Uint(uint64(id.Kind), 8).Bits256(id.Hash).Ref(list).Cell()
}

// Fund leaves the message's value with the registry, for its storage. It is
// also the message that deploys.
func Fund(queryID uint64) (*cell.Cell, error) { return body(OpFund, queryID).Cell() }
