package job

import (
	"fmt"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/receipt"
	"cocoon/internal/toncell"
)

// Opcodes of the job.
const (
	OpDeposit     = 0x434a0001
	OpRedeem      = 0x434a0003
	OpClose       = 0x434a0004
	OpFinish      = 0x434a0005
	OpPaid        = 0x434a0006
	OpAccuse      = 0x434a0007
	OpVerdictGood = 0x43430002
	OpExcesses    = 0xd53276db
)

func body(op, queryID uint64) *toncell.Builder {
	return toncell.NewBuilder().Uint(op, 32).Uint(queryID, 64)
}

// Deposit adds amount nanoton to the job. The first one, with the job's
// StateInit, also deploys it and must bring StorageReserve on top.
func Deposit(queryID, amount uint64) (*cell.Cell, error) {
	return body(OpDeposit, queryID).Coins(amount).Cell()
}

// DepositValue is what the deposit's message must bring.
func DepositValue(amount uint64, first bool) (uint64, error) {
	extra := uint64(DepositGas)
	if first {
		extra += StorageReserve
	}
	if amount > 1<<62 {
		return 0, fmt.Errorf("depositing %d nanoton: more than there is", amount)
	}
	return amount + extra, nil
}

// Redeem sends a voucher. Anyone may; the money goes to the job's payout and
// gateway.
func Redeem(queryID uint64, v *receipt.SignedVoucher) (*cell.Cell, error) {
	c, err := v.Voucher.Cell()
	if err != nil {
		return nil, err
	}
	return body(OpRedeem, queryID).Bytes(v.Signature[:]).Ref(c).Cell()
}

// Close, from the client, refunds a job that was never released and begins the
// closing delay of one that was; the payout may do the latter, and anyone both
// after IdleTime.
func Close(queryID uint64) (*cell.Cell, error) { return body(OpClose, queryID).Cell() }

// Finish ends a closing job after its delay; the rest goes to the client.
// Anyone may send it.
func Finish(queryID uint64) (*cell.Cell, error) { return body(OpFinish, queryID).Cell() }

// Accusation is two receipts of one number that say different things.
type Accusation struct {
	Verdict       Hash // of a recorded verdict for the receipt key
	Seq           uint64
	First, Second *receipt.Signed
}

// Accuse sends an accusation; the job checks it and tells the worker contract
// of its terms. Anyone may.
func Accuse(queryID uint64, a *Accusation) (*cell.Cell, error) {
	b := body(OpAccuse, queryID).Bits256(a.Verdict).Uint(a.Seq, 64)
	for _, s := range []*receipt.Signed{a.First, a.Second} {
		hash, err := s.Receipt.Hash()
		if err != nil {
			return nil, err
		}
		c, err := toncell.NewBuilder().Bits256(hash).Bytes(s.Signature[:]).Cell()
		if err != nil {
			return nil, fmt.Errorf("building an accusation: %w", err)
		}
		b = b.Ref(c)
	}
	return b.Cell()
}
