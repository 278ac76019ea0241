package ledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/registry"
	"cocoon/internal/toncell"
)

// step is one transaction of the table: what a message cost its contract, with
// the forward fees of what it sent, and without the account's storage.
type step struct {
	name string
	gas  uint64
	fees coin.Nano
}

// after returns the transactions of an account after a logical time that
// answer messages with this opcode, oldest first.
func (w *world) after(addr toncell.Address, lt uint64, op uint64) []step {
	w.t.Helper()
	st, err := w.chain.Account(w.ctx, addr.Addr())
	w.ok(err)
	txs, err := w.chain.Transactions(w.ctx, addr.Addr(), st, 32)
	w.ok(err)
	var out []step
	for _, tx := range txs {
		if tx.LT <= lt || tx.IO.In == nil || tx.IO.In.MsgType != tlb.MsgTypeInternal {
			continue
		}
		s := tx.IO.In.AsInternal().Body.BeginParse()
		if s.BitsLeft() < 32 || s.MustLoadUInt(32) != op {
			continue
		}
		d := tx.Description.(tlb.TransactionDescriptionOrdinary)
		vm, ok := d.ComputePhase.Phase.(tlb.ComputePhaseVM)
		if !ok || vm.Details.ExitCode != 0 {
			w.t.Fatalf("transaction %x did not run through", tx.Hash)
		}
		fees := tx.TotalFees.Coins.Nano()
		if d.StoragePhase != nil {
			fees.Sub(fees, d.StoragePhase.StorageFeesCollected.Nano())
		}
		msgs, err := tx.IO.Out.ToSlice()
		w.ok(err)
		for _, m := range msgs {
			fees.Add(fees, m.AsInternal().FwdFee.Nano())
		}
		out = append([]step{{"", vm.Details.GasUsed.Uint64(), coin.Nano(fees.Uint64())}}, out...)
	}
	return out
}

func TestDevnetGasAndFeesOfReleaseAndRedeem(t *testing.T) {
	w := newWorld(t)
	w.open(10 * coin.TON)
	w.release()
	_, err := w.ledger.Redeem(w.ctx, w.anyone, w.voucher(1, coin.TON, nil))
	w.ok(err)
	_, _, err = w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
	w.ok(w.net.Advance(w.ctx, time.Hour))
	_, _, err = w.ledger.Finish(w.ctx, w.anyone, w.job)
	w.ok(err)

	// Ceilings: gas is deterministic, fees follow from it and the network's
	// prices (config parameters 21 and 25, mainnet's).
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-34s %7s %9s %13s %13s\n", "transaction", "gas", "ceiling", "fees, TON", "ceiling, TON")
	var release coin.Nano
	for _, row := range []struct {
		name string
		addr toncell.Address
		op   uint64
		gas  uint64
		fees coin.Nano
	}{
		{"job: deposit, which deploys", w.job, job.OpDeposit, 5900, 2_800_000},
		{"job: release, asks the registry", w.job, job.OpRelease, 9400, 5_700_000},
		{"registry: answers", w.registry, registry.OpCheckVerdict, 8500, 4_000_000},
		{"job: records the answer", w.job, job.OpVerdictAnswer, 9100, 4_100_000},
		{"job: redeem, worker and gateway", w.job, job.OpRedeem, 12300, 6_300_000},
		{"job: close", w.job, job.OpClose, 6500, 3_000_000},
		{"job: finish, refunds", w.job, job.OpFinish, 7900, 4_100_000},
	} {
		got := w.after(row.addr, 0, row.op)
		if len(got) != 1 {
			t.Fatalf("%s: %d transactions", row.name, len(got))
		}
		s := got[0]
		fmt.Fprintf(&table, "%-34s %7d %9d %13s %13s\n", row.name, s.gas, row.gas, s.fees, row.fees)
		if s.gas > row.gas || s.fees > row.fees {
			t.Errorf("%s: %d gas of %d, %d nanoton of %d", row.name, s.gas, row.gas, s.fees, row.fees)
		}
		if row.op == job.OpRelease || row.op == registry.OpCheckVerdict || row.op == job.OpVerdictAnswer {
			release += s.fees
		}
	}
	fmt.Fprintf(&table, "%-34s %31s\n", "a release in all", release)
	t.Log(table.String())
}
