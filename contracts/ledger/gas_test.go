package ledger_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/registry"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

var update = flag.Bool("update", false, "write the table of gas and fees into docs/contracts.md")

// opReturned begins a message that came back with all of its body.
const opReturned = 0xfffffffe

// step is one transaction of the table: what a message cost its contract, with
// the forward fees of what it sent, and without the account's storage.
type step struct {
	gas  uint64
	fees coin.Nano
}

// steps returns an account's transactions that ran through, by opcode, oldest
// first.
func (w *world) steps(addr toncell.Address) map[uint64][]step {
	w.t.Helper()
	st, err := w.chain.Account(w.ctx, addr.Addr())
	w.ok(err)
	txs, err := w.chain.Transactions(w.ctx, addr.Addr(), st, 64)
	w.ok(err)
	out := map[uint64][]step{}
	for _, tx := range txs {
		if tx.IO.In == nil || tx.IO.In.MsgType != tlb.MsgTypeInternal {
			continue
		}
		body := tx.IO.In.AsInternal().Body.BeginParse()
		if body.BitsLeft() < 32 {
			continue
		}
		op := body.MustLoadUInt(32)
		d := tx.Description.(tlb.TransactionDescriptionOrdinary)
		vm, ok := d.ComputePhase.Phase.(tlb.ComputePhaseVM)
		if !ok || !vm.Success || !d.ActionPhase.Success {
			continue
		}
		fees := tx.TotalFees.Coins.Nano()
		if d.StoragePhase != nil {
			fees.Sub(fees, d.StoragePhase.StorageFeesCollected.Nano())
		}
		if tx.IO.Out != nil {
			msgs, err := tx.IO.Out.ToSlice()
			w.ok(err)
			for _, m := range msgs {
				fees.Add(fees, m.AsInternal().FwdFee.Nano())
			}
		}
		out[op] = append([]step{{vm.Details.GasUsed.Uint64(), coin.Nano(fees.Uint64())}}, out[op]...)
	}
	return out
}

// tell sends a message of package registry.
func (w *world) tell(by chain.Sender, leave coin.Nano) func(body *cell.Cell, err error) {
	return func(body *cell.Cell, err error) {
		w.t.Helper()
		w.ok(err)
		_, err = w.ledger.Tell(w.ctx, by, w.registry, leave, body)
		w.ok(err)
	}
}

// signedByAll is a verdict of two verifiers.
func (w *world) signedByAll(evidence string) *verdictcell.Verdict {
	w.t.Helper()
	return w.signedBy(func(c *verdictcell.Common) { c.EvidenceSHA256 = sum(evidence) }, -10*time.Second, 30*time.Minute, key("verifier"), key("verifier 2"))
}

// everyMessage is a life of all three contracts in which each of their messages
// occurs; it returns the job that was released, the world's is another.
func everyMessage(t *testing.T) (*world, toncell.Address) {
	w := newWorldOf(t, func(s *registry.State) {
		s.AddVerifier(public(key("verifier 2")), time.Time{})
		s.Threshold = 2
	})
	w.payout = w.addr(w.worker)
	w.terms.Payout = w.payout
	w.stake(3 * coin.TON)
	w.open(10 * coin.TON)
	_, _, err := w.ledger.Release(w.ctx, w.anyone, w.job, w.signedByAll("evidence"))
	w.ok(err)
	_, _, err = w.ledger.SendVerdict(w.ctx, w.anyone, w.registry, w.job, 0, w.signedByAll("evidence"))
	w.want(err, "contract.verdict_already_recorded")
	for i, by := range []chain.Sender{w.worker, w.anyone} {
		_, err := w.ledger.Redeem(w.ctx, by, w.voucher(uint64(i+1), coin.Nano(i+1)*coin.TON, nil))
		w.ok(err)
	}
	_, _, err = w.ledger.Accuse(w.ctx, w.anyone, w.receipt(1, 10), w.receipt(1, 11))
	w.ok(err)
	_, _, err = w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
	w.ok(w.net.Advance(w.ctx, time.Hour))
	_, _, err = w.ledger.Finish(w.ctx, w.client, w.job)
	w.ok(err)
	released := w.job
	w.workerMessages()
	w.registryMessages()
	return w, released
}

func (w *world) workerMessages() {
	w.t.Helper()
	at := *w.terms.Stake
	body, err := worker.Stake(0, uint64(2*coin.TON))
	w.ok(err)
	_, err = w.ledger.Tell(w.ctx, w.owner, at, 3*coin.TON, body)
	w.ok(err)
	_, _, err = w.ledger.Advance(w.ctx, w.owner, at, 1)
	w.ok(err)
	_, _, err = w.ledger.Leave(w.ctx, w.owner, at, coin.TON)
	w.ok(err)
	w.ok(w.net.Advance(w.ctx, 24*time.Hour))
	_, _, err = w.ledger.Withdraw(w.ctx, w.owner, at)
	w.ok(err)
}

func (w *world) registryMessages() {
	w.t.Helper()
	w.ok(w.apply(registry.ManifestEntry{SHA256: sum("manifest 2"), State: registry.Active}))
	w.schedules()
	w.ok(w.apply(registry.ManifestEntry{SHA256: sum("manifest 3"), State: registry.Active}, registry.ManifestEntry{SHA256: sum("manifest 4"), State: registry.Active}))
	w.ok(w.apply(registry.PausedEntry{Paused: true}))
	s, st, err := w.ledger.Registry(w.ctx, w.registry)
	w.ok(err)
	bad, err := w.order(registry.PausedEntry{})
	w.ok(err)
	veto, err := s.Owners.SignVeto(key("owner 3"), st.GlobalID, w.registry, must(bad.Hash()))
	w.ok(err)
	_, err = w.ledger.VetoOrder(w.ctx, w.anyone, w.registry, bad.Number, []registry.OwnerSignature{veto})
	w.ok(err)
	p := s.Parameters
	p.VerifierFee = uint64(coin.TON / 100)
	w.ok(w.apply(registry.PausedEntry{}, registry.ParametersEntry{Parameters: p}))

	v := w.signedByAll("evidence 2")
	_, _, err = w.ledger.SendVerdict(w.ctx, w.anyone, w.registry, w.addr(w.anyone), coin.TON/100, v)
	w.ok(err)
	w.tell(w.anyone, 0)(registry.Claim(0, key("verifier"), st.GlobalID, w.registry, w.payout, w.net.Now().Add(time.Minute)))
	id := verdictcell.KeyID(public(key("spare")))
	for _, k := range []string{"spare", "verifier"} {
		w.tell(w.anyone, coin.TON)(registry.PostBond(0, key(k), st.GlobalID, w.registry, w.addr(w.owner), uint64(coin.TON)))
	}
	w.tell(w.owner, 0)(registry.Unbond(0, id))
	w.ok(w.net.Advance(w.ctx, p.UnbondDelay))
	w.tell(w.owner, 0)(registry.WithdrawBond(0, id))
	other := w.signedBy(func(c *verdictcell.Common) { c.EvidenceSHA256, c.ReceiptKey = sum("evidence 2"), sum("another") }, -10*time.Second, time.Minute, key("verifier"))
	body, _, err := registry.Slash(0, s.Keys(), v, other)
	w.ok(err)
	w.tell(w.anyone, 0)(body, nil)

	w.terms.Salt = sum("another job")
	w.open(coin.TON)
	_, _, err = w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
}

// schedules an entry of each kind, and stops it.
func (w *world) schedules() {
	w.t.Helper()
	w.tell(w.anyone, 0)(registry.Fund(0)) // collects the storage fees until now
	for _, e := range []registry.Entry{
		registry.ManifestEntry{SHA256: sum("a bad manifest"), State: registry.Active}, registry.ModelEntry{Root: sum("bad"), NameHash: sum("name"), Active: true},
		registry.PolicyEntry{SHA256: sum("bad"), Accepted: true}, registry.VerifierEntry{Public: public(key("bad")), Until: registry.Forever, Listed: true},
		registry.GatewayEntry{ID: sum("bad"), Gateway: &registry.Gateway{Payout: w.payout, Endpoint: "gateway.example.org:443"}},
	} {
		before := w.balance(w.registry)
		o, err := w.order(e)
		w.ok(err)
		if kept := w.balance(w.registry) - before; kept > coin.TON/5000 { // or less than there was
			w.t.Errorf("%s: the registry kept %s TON", e, kept)
		}
		s, st, err := w.ledger.Registry(w.ctx, w.registry)
		w.ok(err)
		id, waiting, ok := s.Scheduled(o.Number)
		if !ok || waiting.Signers != 2 {
			w.t.Fatalf("waiting: %+v", s.Waiting)
		}
		veto, err := s.Owners.SignVeto(key("owner 3"), st.GlobalID, w.registry, must(registry.ScheduledHash(o.Number, id)))
		w.ok(err)
		_, err = w.ledger.VetoScheduled(w.ctx, w.anyone, w.registry, id, []registry.OwnerSignature{veto})
		w.ok(err)
		s, _, err = w.ledger.Registry(w.ctx, w.registry)
		w.ok(err)
		if len(s.Waiting) != 0 {
			w.t.Fatalf("waiting after the veto: %+v", s.Waiting)
		}
	}
}

// Gas is deterministic, fees follow from it and the network's prices (config
// parameters 21 and 25, mainnet's). The table in docs/contracts.md is this one.
func TestDevnetGasAndFeesOfEveryMessage(t *testing.T) {
	w, first := everyMessage(t)
	at := map[string]map[uint64][]step{"registry": w.steps(w.registry), "job": w.steps(first), "worker": w.steps(*w.terms.Stake), "": w.steps(w.job)}
	var table strings.Builder
	table.WriteString("| transaction | gas | ceiling | fees, TON |\n|---|---|---|---|\n")
	var release, withFee coin.Nano
	for _, row := range []struct {
		name string
		op   uint64
		nth  int
		most uint64
	}{
		{"registry: CheckVerdict, k = 2", registry.OpCheckVerdict, 0, 12_900},
		{"registry: CheckVerdict, k = 2, with a verifiers' fee", registry.OpCheckVerdict, 2, 14_900},
		{"registry: a word that came back from a job", opReturned, 0, 2_300},
		{"registry: Schedule, a manifest", registry.OpSchedule, 0, 7_600},
		{"registry: Schedule, a model", registry.OpSchedule, 2, 8_000},
		{"registry: Schedule, a policy", registry.OpSchedule, 3, 8_000},
		{"registry: Schedule, a verifier", registry.OpSchedule, 4, 9_400},
		{"registry: Schedule, a gateway", registry.OpSchedule, 5, 8_800},
		{"registry: VetoScheduled, a manifest", registry.OpVetoScheduled, 0, 8_600},
		{"registry: VetoScheduled, a verifier", registry.OpVetoScheduled, 3, 9_800},
		{"registry: Propose, to wait", registry.OpPropose, 0, 10_500},
		{"registry: Propose, to pause at once", registry.OpPropose, 1, 13_200},
		{"registry: Execute, two new manifests", registry.OpExecute, 0, 15_600},
		{"registry: Execute, parameters", registry.OpExecute, 1, 23_000},
		{"registry: Veto", registry.OpVeto, 0, 8_300},
		{"registry: Claim", registry.OpClaim, 0, 14_300},
		{"registry: PostBond", registry.OpPostBond, 0, 10_400},
		{"registry: Unbond", registry.OpUnbond, 0, 10_100},
		{"registry: WithdrawBond", registry.OpWithdrawBond, 0, 12_000},
		{"registry: Slash", registry.OpSlash, 0, 24_100},
		{"registry: StakePaid", worker.OpStakePaid, 0, 5_400},
		{"registry: Fund, which deploys", registry.OpFund, 0, 1_800},
		{"job: Deposit, which deploys", job.OpDeposit, 0, 5_000},
		{"job: VerdictGood", job.OpVerdictGood, 0, 6_300},
		{"job: Redeem, by the worker", job.OpRedeem, 0, 8_600},
		{"job: Redeem, by anyone else", job.OpRedeem, 1, 9_500},
		{"job: Accuse", job.OpAccuse, 0, 5_900},
		{"job: Close", job.OpClose, 0, 5_500},
		{"job: Finish, by the client", job.OpFinish, 0, 5_800},
		{": Close before a release", job.OpClose, 0, 6_300},
		{"worker: Stake, which deploys", worker.OpStake, 0, 4_800},
		{"worker: Leave", worker.OpLeave, 0, 5_500},
		{"worker: Withdraw", worker.OpWithdraw, 0, 6_500},
		{"worker: Advance", worker.OpAdvance, 0, 4_900},
		{"worker: Slash", worker.OpSlash, 0, 11_000},
	} {
		contract, _, _ := strings.Cut(row.name, ":")
		got := at[contract][row.op]
		if row.nth >= len(got) {
			t.Errorf("%s: %d transactions", row.name, len(got))
			continue
		}
		s := got[row.nth]
		name := row.name
		if contract == "" {
			name = "job" + name
		}
		fmt.Fprintf(&table, "| %s | %d | %d | %s |\n", name, s.gas, row.most, s.fees)
		if s.gas > row.most || row.most > s.gas*5/4 {
			t.Errorf("%s: %d gas, ceiling %d", name, s.gas, row.most)
		}
		if (row.op == registry.OpCheckVerdict || row.op == job.OpVerdictGood) && row.nth == 0 {
			release += s.fees
			withFee += s.fees
		}
		if row.op == registry.OpCheckVerdict && row.nth == 2 {
			withFee += s.fees - at["registry"][row.op][0].fees
		}
		if row.op == job.OpRedeem && s.fees > coin.TON/200 {
			t.Errorf("%s costs %s TON", name, s.fees)
		}
	}
	fmt.Fprintf(&table, "| a release in all, k = 2 | | | %s |\n", release)
	fmt.Fprintf(&table, "| a release in all, k = 2, with a verifiers' fee | | | %s |\n", withFee)
	t.Log("\n" + table.String())
	if withFee > coin.TON/100 {
		t.Errorf("a release costs %s TON", withFee)
	}
	w.document(table.String())
}

// document compares the table with the one between two marks in
// docs/contracts.md, or writes it there.
func (w *world) document(table string) {
	w.t.Helper()
	const begin, end = "<!-- gas: go test ./contracts/ledger -run GasAndFees -update -->\n", "<!-- gas: end -->\n"
	path := filepath.Join("..", "..", "docs", "contracts.md")
	b, err := os.ReadFile(path)
	w.ok(err)
	head, rest, ok1 := strings.Cut(string(b), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		w.t.Fatal("docs/contracts.md has no place for the table of gas and fees")
	}
	if strings.TrimSpace(old) == strings.TrimSpace(table) {
		return
	}
	if !*update {
		w.t.Error("docs/contracts.md has another table of gas and fees: run the test with -update")
		return
	}
	w.ok(os.WriteFile(path, []byte(head+begin+"\n"+table+"\n"+end+tail), 0o644))
}
