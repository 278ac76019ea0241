// Package ledger does the steps of a job over the chain: deploy and read a
// registry, open a job, send a verdict and learn its fate, verify a release,
// redeem, close. What it returns is proven: account states by Merkle proofs
// under a trusted block (package chain), contracts by the hash of their code, a
// job also by its address, which commits to its terms, and transactions as
// parts of a proven account's history. Every refusal by a contract is a fault
// with the code "contract.<name>" (package exitcode).
package ledger

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Attached is what the package attaches to a message beyond what the contract
// demands, so that gas prices may rise; what is not used comes back.
const Attached coin.Nano = 50_000_000

// Ledger works on one TON network. It is safe for concurrent use.
type Ledger struct {
	chain *chain.Client
	log   *slog.Logger
}

// New returns a ledger over a chain client. log may be nil.
func New(c *chain.Client, log *slog.Logger) *Ledger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Ledger{chain: c, log: log}
}

// Chain returns the client underneath.
func (l *Ledger) Chain() *chain.Client { return l.chain }

// Registry returns the proven state of the registry at addr.
func (l *Ledger) Registry(ctx context.Context, addr toncell.Address) (*registry.State, *chain.State, error) {
	st, err := l.chain.Account(ctx, addr.Addr())
	if err != nil {
		return nil, nil, err
	}
	s, err := RegistryOf(st)
	return s, st, err
}

// RegistryOf decodes a proven account as a registry of this version.
func RegistryOf(st *chain.State) (*registry.State, error) {
	if err := active(st, "registry"); err != nil {
		return nil, err
	}
	if err := registry.CheckCode(st.Code); err != nil {
		return nil, err
	}
	s, err := registry.Decode(st.Data)
	if err == nil {
		s.Settle(time.Unix(int64(st.Utime), 0))
	}
	return s, err
}

// Job returns the proven state of the job at addr.
func (l *Ledger) Job(ctx context.Context, addr toncell.Address) (*job.State, *chain.State, error) {
	// A voucher may name any address, and no server has those of workchains that
	// are not there: that is no fault of the network's.
	if addr.Workchain != 0 {
		return nil, nil, fault.New(fault.ExitRefused, jobKind.code, "see where the address comes from", "reading the job %s: jobs are in workchain 0", addr)
	}
	st, err := l.chain.Account(ctx, addr.Addr())
	if err != nil {
		return nil, nil, err
	}
	s, err := JobOf(st, addr)
	return s, st, err
}

var jobKind = kind[job.State]{
	name: "job", code: "job.address", remedy: "the job was deployed with forged data; do not serve it",
	checkCode: job.CheckCode, decode: job.Decode, address: func(s *job.State) (toncell.Address, error) { return s.Terms.Address() },
}

// JobOf decodes a proven account as a job of this version, at the address of
// its own terms.
func JobOf(st *chain.State, addr toncell.Address) (*job.State, error) { return jobKind.of(st, addr) }

// OpenJob deploys a job with these terms and a first deposit.
func (l *Ledger) OpenJob(ctx context.Context, w chain.Sender, terms *job.Terms, deposit coin.Nano) (toncell.Address, *Tx, error) {
	if err := terms.Check(); err != nil {
		return toncell.Address{}, nil, err
	}
	value, err := job.DepositValue(uint64(deposit), true)
	if err != nil {
		return toncell.Address{}, nil, err
	}
	body, err := job.Deposit(0, uint64(deposit))
	if err != nil {
		return toncell.Address{}, nil, err
	}
	return l.deploy(ctx, w, "opening the job", terms, coin.Nano(value)+Attached, body)
}

// TopUp adds to a job's deposit.
func (l *Ledger) TopUp(ctx context.Context, w chain.Sender, addr toncell.Address, deposit coin.Nano) (*Tx, error) {
	value, err := job.DepositValue(uint64(deposit), false)
	if err != nil {
		return nil, err
	}
	body, err := job.Deposit(0, uint64(deposit))
	if err != nil {
		return nil, err
	}
	tx, _, err := l.call(ctx, w, "adding to the deposit", message(addr, coin.Nano(value)+Attached, body))
	return tx, err
}

// Release sends a verdict to the job's registry, first release or renewal, and
// waits until the job has recorded it. A refusal, by the registry or by the job,
// is a fault with the on-chain code; what the job can be seen to refuse is not
// sent, for the verifiers' fee would be gone.
func (l *Ledger) Release(ctx context.Context, w chain.Sender, addr toncell.Address, v *verdictcell.Verdict) (*job.State, *Tx, error) {
	hash, err := v.Hash()
	if err != nil {
		return nil, nil, err
	}
	s, st, err := l.Job(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	reg, _, err := l.Registry(ctx, s.Terms.Registry)
	if err != nil {
		return s, nil, err
	}
	_, until := v.Interval()
	grace := reg.Manifests[v.Common.Manifest].State == registry.Grace
	code := s.Refuses(&v.Common, hash, reg.FeeCapBps, grace, time.Unix(int64(min(until, 1<<40)), 0), time.Unix(int64(st.Utime), 0))
	if code != exitcode.OK && code != exitcode.VerdictExpired { // that one is the registry's to say
		return s, nil, code.Fault("sending the verdict to the job's registry")
	}
	fee, err := verifierFee(reg)
	if err != nil {
		return s, nil, err
	}
	_, tx, err := l.SendVerdict(ctx, w, s.Terms.Registry, addr, fee, v)
	if err != nil {
		return nil, tx, err
	}
	if s, _, err = l.Job(ctx, addr); err != nil {
		return nil, tx, err
	}
	l.log.Info("job released", "address", addr.String(), "verdict", job.Hash(hash).String())
	return s, tx, nil
}

// SendVerdict sends a verdict to a registry, which may keep fee for the
// verifiers, for the contract at `to`, and waits for what that one does with
// it. It returns the registry's transaction and the other's; an exit code of
// either is a fault.
func (l *Ledger) SendVerdict(ctx context.Context, w chain.Sender, reg, to toncell.Address, fee coin.Nano, v *verdictcell.Verdict) (checked, told *Tx, err error) {
	verdict, err := v.Cell()
	if err != nil {
		return nil, nil, err
	}
	body, err := registry.CheckVerdict(0, to, uint64(fee), verdict)
	if err != nil {
		return nil, nil, err
	}
	before, err := l.chain.Account(ctx, to.Addr())
	if err != nil {
		return nil, nil, err
	}
	// Where nothing is, no transaction would tell of the word that comes back.
	if err := active(before, "asker"); err != nil {
		return nil, nil, err
	}
	checked, _, err = l.call(ctx, w, "sending the verdict to the registry", message(reg, registry.MessageValue+fee+Attached, body))
	if err != nil {
		return checked, nil, err
	}
	word, err := sent(checked, registry.OpVerdictGood)
	if err != nil {
		return checked, nil, err
	}
	told, _, err = l.find(ctx, to.Addr(), before.LastLT, func(in *tlb.InternalMessage) bool {
		return !in.Bounced && in.SrcAddr.Equals(reg.Addr()) && in.CreatedLT == word.CreatedLT && bytes.Equal(in.Body.Hash(), word.Body.Hash())
	})
	if err != nil {
		return checked, nil, err
	}
	return checked, told, told.ExitCode.Fault("recording the verdict in the job")
}

// MaxVerifierFee is the most that Release offers to the verifiers for one
// verdict, whatever the registry asks.
const MaxVerifierFee = coin.TON / 10

// verifierFee returns what a registry keeps of a release for the verifiers.
func verifierFee(reg *registry.State) (coin.Nano, error) {
	if fee := coin.Nano(reg.VerifierFee); fee <= MaxVerifierFee {
		return fee, nil
	}
	return 0, fault.Mismatch(fault.ExitPolicy, "registry.verifier_fee", "the registry's fee for the verifiers", "at most "+MaxVerifierFee.String()+" TON",
		coin.Nano(reg.VerifierFee).String()+" TON", "use another registry")
}

// Redemption is a redeemed voucher.
type Redemption struct {
	Tx      *Tx       `json:"transaction"`
	Worker  coin.Nano `json:"worker"`  // paid to the job's payout
	Gateway coin.Nano `json:"gateway"` // paid to its gateway
	State   *job.State
}

// Redeem sends a voucher to its job. Anyone may.
func (l *Ledger) Redeem(ctx context.Context, w chain.Sender, v *receipt.SignedVoucher) (*Redemption, error) {
	addr := v.Voucher.Job
	body, err := job.Redeem(v.Voucher.Seq, v)
	if err != nil {
		return nil, err
	}
	tx, st, err := l.call(ctx, w, "redeeming the voucher", message(addr, job.RedeemValue+Attached, body))
	if err != nil {
		return nil, err
	}
	s, err := JobOf(st, addr)
	if err != nil {
		return nil, err
	}
	r := &Redemption{Tx: tx, State: s, Worker: tx.Paid(s.Terms.Payout)}
	if g := s.Terms.Gateway; g != nil && *g != s.Terms.Payout {
		r.Gateway = tx.Paid(*g)
	}
	l.log.Info("voucher redeemed", "job", addr.String(), "worker", r.Worker.String(), "gateway", r.Gateway.String())
	return r, nil
}

// Close, from the client's wallet, refunds a job that was not released and
// begins the closing delay of one that was.
func (l *Ledger) Close(ctx context.Context, w chain.Sender, addr toncell.Address) (*job.State, *Tx, error) {
	body, err := job.Close(0)
	if err != nil {
		return nil, nil, err
	}
	return l.end(ctx, w, addr, "closing the job", body)
}

// Finish ends a closing job after its delay and refunds the rest.
func (l *Ledger) Finish(ctx context.Context, w chain.Sender, addr toncell.Address) (*job.State, *Tx, error) {
	body, err := job.Finish(0)
	if err != nil {
		return nil, nil, err
	}
	return l.end(ctx, w, addr, "finishing the job", body)
}

func (l *Ledger) end(ctx context.Context, w chain.Sender, addr toncell.Address, what string, body *cell.Cell) (*job.State, *Tx, error) {
	tx, st, err := l.call(ctx, w, what, message(addr, job.CloseValue+Attached, body))
	if err != nil {
		return nil, tx, err
	}
	s, err := JobOf(st, addr)
	return s, tx, err
}

// Demand is what a worker asks of a job before it serves it. Zero fields ask
// nothing.
type Demand struct {
	ReceiptKey    ed25519.PublicKey // this enclave's
	Payout        toncell.Address   // this worker's
	Registry      toncell.Address   // the one in the measured config
	ModelRoot     job.Hash
	Price         uint64 // of the dearest kind; the job's cap must cover it
	MinDeposit    coin.Nano
	MinCloseDelay time.Duration
}

// CheckRelease returns the verdict hash that releases the job to the demand's
// receipt key, or every reason why the job must not be served.
func CheckRelease(s *job.State, d Demand) (job.Hash, error) {
	var errs []error
	need := func(ok bool, code, what string, want, got any, remedy string) {
		if !ok {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, code, "the job's "+what, fmt.Sprint(want), fmt.Sprint(got), remedy))
		}
	}
	t := &s.Terms
	verdict, released := s.ReleasedTo(job.Hash(d.ReceiptKey))
	need(released, "job.not_released", "release", "to receipt key "+job.Hash(d.ReceiptKey).String(), s.Status, "send this worker's verdict to the job first")
	need(s.Status != job.Closing, "job.closing", "status", job.Released, s.Status, "open another job")
	need(t.Payout == d.Payout, "job.wrong_payout", "payout", d.Payout, t.Payout, "open a job for this worker's payout address")
	need(t.Registry == d.Registry, "job.wrong_registry", "registry", d.Registry, t.Registry, "open a job under the worker's registry")
	need(t.ModelRoot == d.ModelRoot, "job.wrong_model", "model", d.ModelRoot, t.ModelRoot, "open a job for this model, or name the job's (--model, and model in the request)")
	need(t.PriceCap >= d.Price, "job.price_cap", "price cap", fmt.Sprintf("at least %d", d.Price), t.PriceCap, "open a job with a higher price cap")
	need(s.Deposited-s.Paid >= uint64(d.MinDeposit), "job.deposit_low", "deposit left", "at least "+d.MinDeposit.String()+" TON",
		coin.Nano(s.Deposited-s.Paid).String()+" TON", "add to the deposit")
	need(t.CloseDelay >= d.MinCloseDelay, "job.close_delay", "closing delay", "at least "+d.MinCloseDelay.String(), t.CloseDelay, "open a job with a longer closing delay")
	return verdict, errors.Join(errs...)
}

// VerifyRelease reads the job from the chain and checks it.
func (l *Ledger) VerifyRelease(ctx context.Context, addr toncell.Address, d Demand) (*job.State, job.Hash, error) {
	s, _, err := l.Job(ctx, addr)
	if err != nil {
		return nil, job.Hash{}, err
	}
	verdict, err := CheckRelease(s, d)
	return s, verdict, err
}
