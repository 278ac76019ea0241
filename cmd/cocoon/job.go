package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

func sha256Of(s string) [32]byte { return sha256.Sum256([]byte(s)) }

// newJobCmd opens, shows, releases, redeems and closes jobs.
func newJobCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "job",
		Short: "escrows that pay a worker for what its receipts say",
	}
	cmd.AddCommand(newJobOpenCmd(), newJobShowCmd(), newJobReleaseCmd(), newJobVoucherCmd(), newJobRedeemCmd(), newJobCloseCmd(), newJobAccuseCmd())
	return cmd
}

// jobReport is what the job commands write with --json.
type jobReport struct {
	Address toncell.Address `json:"address"`
	Block   uint32          `json:"block,omitempty"` // masterchain seqno that proves it
	Time    *time.Time      `json:"time,omitempty"`
	Balance coin.Nano       `json:"balance"`
	State   *job.State      `json:"state"`
	Tx      *ledger.Tx      `json:"transaction,omitempty"`
}

func newJobReport(addr toncell.Address, s *job.State, st *chain.State) *jobReport {
	now := time.Unix(int64(st.Utime), 0).UTC()
	r := &jobReport{Address: addr, Block: st.Master.SeqNo, Time: &now, State: s}
	if st.Balance.IsUint64() {
		r.Balance = coin.Nano(st.Balance.Uint64())
	}
	return r
}

func (r *jobReport) print(p *printer) {
	s, t := r.State, &r.State.Terms
	p.f("job %s: %s", r.Address, s.Status)
	p.f("proven at block %d, %s", r.Block, r.Time.Format(time.RFC3339))
	p.f("deposit %s TON, paid %s TON, balance %s TON", coin.Nano(s.Deposited), coin.Nano(s.Paid), r.Balance)
	if s.Seq > 0 {
		p.f("last voucher %d covers %d receipts, root %s", s.Seq, s.ReceiptCount, s.ReceiptsRoot)
	}
	for hash, v := range s.Verdicts {
		p.f("released by verdict %s to receipt key %s at %s", hash, v.ReceiptKey, v.At.Format(time.RFC3339))
	}
	if s.Status == job.Closing {
		p.f("can be finished from %s on", s.CloseAt.Format(time.RFC3339))
	}
	p.f("client %s, payout %s", t.Client, t.Payout)
	p.f("registry %s", t.Registry)
	p.f("model %s, policy %s, price cap %d nanoton per million tokens", t.ModelRoot, t.PolicyHash, t.PriceCap)
	if t.Gateway != nil {
		p.f("gateway %s gets %d basis points", *t.Gateway, t.FeeBps)
	}
	if t.Stake != nil {
		p.f("worker contract %s answers for the receipts with at least %s TON", *t.Stake, coin.Nano(t.MinStake))
	}
	p.f("closing takes %s", t.CloseDelay)
}

func (r *jobReport) write(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	p := &printer{w: cmd.OutOrStdout()}
	r.print(p)
	return p.err
}

// show reads the job again and writes it, after a step that made tx.
func (f *tonFlags) show(ctx context.Context, cmd *cobra.Command, l *ledger.Ledger, addr toncell.Address, tx *ledger.Tx) error {
	s, st, err := l.Job(ctx, addr)
	if err != nil {
		return err
	}
	r := newJobReport(addr, s, st)
	r.Tx = tx
	return r.write(cmd, f.json)
}

func newJobOpenCmd() *cobra.Command {
	f := &tonFlags{}
	var registryAddr, payout, gateway, stake addressFlag
	var model, policy hashFlag
	var deposit, minStake coinFlag
	var clientKey string
	t := job.Terms{}
	cmd := &cobra.Command{
		Use:   "open --config FILE --key FILE --client-key FILE --registry ADDR --payout ADDR --model ROOT --policy HASH --price-cap N --deposit TON",
		Short: "open a job with a deposit",
		Long: `Deploys a job contract for one worker and deposits into it. Nothing is paid
before the job is released by a verdict that the registry accepts, and then only
what vouchers signed with the client key say. 0.1 TON more is kept for the
contract's storage and refunded when the job closes.

Exit codes: 0 opened; 2 refused, or the wallet is empty; 3 no lite-server
answers.`,
		Example: `  cocoon job open --config global.config.json --key wallet.key --client-key vouchers.key \
    --registry 0:4bd1… --payout UQ… --model 51d0… --policy 77ab… --price-cap 40000000 --deposit 2.5`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := seedFile(clientKey)
			if err != nil {
				return err
			}
			t.ClientKey = hexbytes.Hash(key.Public().(ed25519.PublicKey))
			t.Registry, t.Payout, t.ModelRoot, t.PolicyHash = registryAddr.Address, payout.Address, model.Hash, policy.Hash
			if gateway.set {
				t.Gateway = &gateway.Address
			}
			if stake.set {
				t.Stake, t.MinStake = &stake.Address, uint64(minStake.Nano)
			}
			if _, err := io.ReadFull(rand.Reader, t.Salt[:]); err != nil {
				return fmt.Errorf("making a salt: %w", err)
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				w, err := f.wallet(ctx, l)
				if err != nil {
					return err
				}
				if t.Client, err = toncell.FromAddr(w.Address()); err != nil {
					return err
				}
				if err := l.CheckStake(ctx, &t); err != nil {
					return err
				}
				addr, tx, err := l.OpenJob(ctx, w, &t, deposit.Nano)
				if err != nil {
					return err
				}
				return f.show(ctx, cmd, l, addr, tx)
			})
		},
	}
	f.register(cmd, true)
	fs := cmd.Flags()
	fs.StringVar(&clientKey, "client-key", "", "the Ed25519 seed that signs vouchers, 64 hex digits in a `file`; made if there is none")
	fs.Var(&registryAddr, "registry", "the registry that decides about verdicts")
	fs.Var(&payout, "payout", "where the worker is paid; its verdict must name the same")
	fs.Var(&model, "model", "verity `root` of the model, hex")
	fs.Var(&policy, "policy", "`SHA-256` of the policy that a verdict must be made under, hex")
	fs.Uint64Var(&t.PriceCap, "price-cap", 0, "most that a million tokens of the dearest kind may cost, nanoton")
	fs.Var(&deposit, "deposit", "how much to deposit")
	fs.Var(&gateway, "gateway", "who gets the gateway's share")
	fs.Uint16Var(&t.FeeBps, "fee-bps", 0, "the gateway's share of every payment, basis points")
	fs.Var(&stake, "stake", "worker contract that answers for the receipts; it is checked before the job is opened")
	fs.Var(&minStake, "min-stake", "what the worker contract must hold")
	fs.DurationVar(&t.CloseDelay, "close-delay", time.Hour, "time between closing and refund, for the worker's last voucher")
	for _, name := range []string{"client-key", "registry", "payout", "model", "policy", "price-cap", "deposit"} {
		need(cmd, name)
	}
	return cmd
}

func newJobShowCmd() *cobra.Command {
	f := &tonFlags{}
	var proofOut string
	cmd := &cobra.Command{
		Use:   "show ADDRESS --config FILE",
		Short: "show a job's proven state",
		Long: `Reads the job's account from the network, proves it against the config's init
block, checks that its code is this version's job and its address that of its own
terms, and shows its data.

Exit codes: 0 shown; 2 not a job, or a proof is wrong; 3 no lite-server answers.`,
		Example: `  cocoon job show 0:77e0… --config build/devnet/global.config.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				s, st, err := showAccount(ctx, l, addr, proofOut, func(st *chain.State) (*job.State, error) { return ledger.JobOf(st, addr) })
				if err != nil {
					return err
				}
				return newJobReport(addr, s, st).write(cmd, f.json)
			})
		},
	}
	f.register(cmd, false)
	cmd.Flags().StringVar(&proofOut, "proof-out", "", "write the account's proof to this `file`, for offline checks")
	return cmd
}

func newJobReleaseCmd() *cobra.Command {
	f := &tonFlags{}
	var file string
	cmd := &cobra.Command{
		Use:   "release ADDRESS --config FILE --key FILE --verdict FILE",
		Short: "send a verdict to a job and wait for its fate",
		Long: `Sends a verdict, as the base64 of its bag of cells, to the job, which asks its
registry. Anyone may do this, and a released job is renewed in the same way. The
gas is the sender's; what is left of it comes back.

Exit codes: 0 released; 2 refused by cryptography or binding; 4 refused by the
registry's rules; 3 no lite-server answers; 5 the file is not a verdict.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("reading the verdict: %w", err)
			}
			var v verdictcell.Verdict
			if err := v.UnmarshalText(trimSpace(b)); err != nil {
				return fault.New(fault.ExitParse, "verdict.malformed", "name a file with the verdict's cell in base64", "%w", err)
			}
			return f.step(cmd, addr, func(ctx context.Context, l *ledger.Ledger, w chain.Sender) (*ledger.Tx, error) {
				_, tx, err := l.Release(ctx, w, addr, &v)
				return tx, err
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().StringVar(&file, "verdict", "", "the verdict's `file`")
	need(cmd, "verdict")
	return cmd
}

// step does one step with the wallet and shows the job after it.
func (f *tonFlags) step(cmd *cobra.Command, addr toncell.Address, do func(context.Context, *ledger.Ledger, chain.Sender) (*ledger.Tx, error)) error {
	return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
		w, err := f.wallet(ctx, l)
		if err != nil {
			return err
		}
		tx, err := do(ctx, l, w)
		if err != nil {
			return err
		}
		return f.show(ctx, cmd, l, addr, tx)
	})
}

func newJobRedeemCmd() *cobra.Command {
	f := &tonFlags{}
	var file string
	cmd := &cobra.Command{
		Use:   "redeem --config FILE --key FILE --voucher FILE",
		Short: "redeem a client's voucher",
		Long: `Sends a voucher document to its job. Anyone may; the money goes to the job's
payout and gateway, whoever sends it.

Exit codes: 0 redeemed; 2 refused; 3 no lite-server answers; 5 the file is not a
voucher.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := readDocument(file, receipt.MaxVoucher)
			if err != nil {
				return err
			}
			v, err := receipt.ParseVoucher(b)
			if err != nil {
				return err
			}
			return f.step(cmd, v.Voucher.Job, func(ctx context.Context, l *ledger.Ledger, w chain.Sender) (*ledger.Tx, error) {
				r, err := l.Redeem(ctx, w, v)
				if err != nil {
					return nil, err
				}
				return r.Tx, nil
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().StringVar(&file, "voucher", "", "the voucher's `file`")
	need(cmd, "voucher")
	return cmd
}

func newJobCloseCmd() *cobra.Command {
	f := &tonFlags{}
	cmd := &cobra.Command{
		Use:   "close ADDRESS --config FILE --key FILE",
		Short: "close a job, or finish one that is closing",
		Long: `A job that was never released is refunded at once. A released one begins to
close: the worker has the closing delay to redeem its last voucher. Run again
after that, by anyone, this finishes the job and refunds the rest to the client.
The client closes; so does the payout, once the job was released; and anyone
after 90 days without a deposit, release or redemption.

Exit codes: 0 closed or closing; 2 refused; 3 no lite-server answers.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			return f.step(cmd, addr, func(ctx context.Context, l *ledger.Ledger, w chain.Sender) (*ledger.Tx, error) {
				s, _, err := l.Job(ctx, addr)
				if err != nil {
					return nil, err
				}
				do := l.Close
				if s.Status == job.Closing || s.Status == job.Closed {
					do = l.Finish
				}
				_, tx, err := do(ctx, w, addr)
				return tx, err
			})
		},
	}
	f.register(cmd, true)
	return cmd
}
