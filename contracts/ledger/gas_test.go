package ledger_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/contracts/chain"
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
	w := newWorldOf(t, func(s *registry.State) {
		s.AddVerifier(public(key("verifier 2")), time.Time{})
		s.Threshold = 2
	})
	w.payout = w.addr(w.worker)
	w.terms.Payout = w.payout
	w.open(10 * coin.TON)
	_, _, err := w.ledger.Release(w.ctx, w.anyone, w.job, w.signedBy(nil, -10*time.Second, 30*time.Minute, key("verifier"), key("verifier 2")))
	w.ok(err)
	for i, by := range []chain.Sender{w.worker, w.anyone} {
		_, err := w.ledger.Redeem(w.ctx, by, w.voucher(uint64(i+1), coin.Nano(i+1)*coin.TON, nil))
		w.ok(err)
	}
	_, _, err = w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
	w.ok(w.net.Advance(w.ctx, time.Hour))
	_, _, err = w.ledger.Finish(w.ctx, w.client, w.job)
	w.ok(err)

	// Ceilings: gas is deterministic, fees follow from it and the network's
	// prices (config parameters 21 and 25, mainnet's).
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-34s %7s %9s %13s %13s\n", "transaction", "gas", "ceiling", "fees, TON", "ceiling, TON")
	var release coin.Nano
	var redeemed int
	var rows []string
	for _, row := range []struct {
		name string
		addr toncell.Address
		op   uint64
		gas  uint64
		fees coin.Nano
	}{
		{"job: deposit, which deploys", w.job, job.OpDeposit, 5300, 2_500_000},
		{"registry: checks a verdict, k = 2", w.registry, registry.OpCheckVerdict, 11_800, 6_000_000},
		{"job: records it", w.job, job.OpVerdictGood, 6300, 3_000_000},
		{"job: redeem, by the worker", w.job, job.OpRedeem, 9700, 4_700_000},
		{"job: redeem, by anyone else", w.job, job.OpRedeem, 10900, 5_600_000},
		{"job: close", w.job, job.OpClose, 6500, 3_000_000},
		{"job: finish, by the client", w.job, job.OpFinish, 7900, 3_700_000},
	} {
		got := w.after(row.addr, 0, row.op)
		nth := 0
		if row.op == job.OpRedeem {
			nth = redeemed
			redeemed++
		}
		if nth >= len(got) {
			t.Fatalf("%s: %d transactions", row.name, len(got))
		}
		s := got[nth]
		fmt.Fprintf(&table, "%-34s %7d %9d %13s %13s\n", row.name, s.gas, row.gas, s.fees, row.fees)
		rows = append(rows, fmt.Sprintf("| %s | %d | %s |", row.name, s.gas, s.fees))
		if s.gas > row.gas || s.fees > row.fees {
			t.Errorf("%s: %d gas of %d, %d nanoton of %d", row.name, s.gas, row.gas, s.fees, row.fees)
		}
		if row.op == registry.OpCheckVerdict || row.op == job.OpVerdictGood {
			release += s.fees
		}
	}
	fmt.Fprintf(&table, "%-34s %31s\n", "a release in all", release)
	t.Log(table.String())
	rows = append(rows, fmt.Sprintf("| a release in all | | %s |", release))
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "contracts.md"))
	w.ok(err)
	for _, row := range rows {
		if !strings.Contains(string(doc), row+"\n") {
			t.Errorf("docs/contracts.md does not have the row\n%s", row)
		}
	}
}
