package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/chain"
	"cocoon/contracts/ledger"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
)

// newWorkerCmd opens and shows worker contracts, and moves their stake.
func newWorkerCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "contracts whose stake answers for a machine's receipts",
	}
	cmd.AddCommand(newWorkerOpenCmd(), newWorkerShowCmd(),
		newWorkerStepCmd("leave", "begin to withdraw stake; it can be slashed until the delay is over", func(cmd *cobra.Command) workerStep {
			var amount coinFlag
			cmd.Flags().Var(&amount, "amount", "how much; 0 calls the withdrawal off")
			need(cmd, "amount")
			return func(ctx context.Context, l *ledger.Ledger, w chain.Sender, at toncell.Address) (*ledger.Tx, error) {
				_, tx, err := l.Leave(ctx, w, at, amount.Nano)
				return tx, err
			}
		}),
		newWorkerStepCmd("withdraw", "send to the owner what has waited long enough", func(*cobra.Command) workerStep {
			return func(ctx context.Context, l *ledger.Ledger, w chain.Sender, at toncell.Address) (*ledger.Tx, error) {
				_, tx, err := l.Withdraw(ctx, w, at)
				return tx, err
			}
		}),
		newWorkerStepCmd("advance", "announce the boot that the machine asks for", func(cmd *cobra.Command) workerStep {
			var generation uint64
			cmd.Flags().Uint64Var(&generation, "generation", 0, "`number` of the boot, as the machine says it; nothing is sent for one that is announced already")
			need(cmd, "generation")
			return func(ctx context.Context, l *ledger.Ledger, w chain.Sender, at toncell.Address) (*ledger.Tx, error) {
				s, _, err := l.Worker(ctx, at)
				if err != nil || s.Generation == generation {
					return nil, err
				}
				_, tx, err := l.Advance(ctx, w, at, generation)
				return tx, err
			}
		}))
	return cmd
}

// workerReport is what the worker commands write with --json.
type workerReport struct {
	Address toncell.Address `json:"address"`
	State   *worker.State   `json:"state"`
	Tx      *ledger.Tx      `json:"transaction,omitempty"`
}

func (r *workerReport) write(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	p, s, t := &printer{w: cmd.OutOrStdout()}, r.State, &r.State.Terms
	p.f("worker contract %s: stake %s, slashed %s", r.Address, nanoTON(s.Stake), nanoTON(s.Slashed))
	if s.Leaving > 0 {
		p.f("%s can be withdrawn from %s on", nanoTON(s.Leaving), s.LeaveAt.Format(time.RFC3339))
	}
	p.f("owner %s, payout %s", t.Owner, t.Payout)
	p.f("registry %s", t.Registry)
	p.f("machine %s, boot generation %d, a withdrawal waits %s", t.Machine, s.Generation, t.LeaveDelay)
	return p.err
}

func newWorkerOpenCmd() *cobra.Command {
	f := &tonFlags{}
	var registryAddr, payout addressFlag
	var machine hashFlag
	var stake coinFlag
	t := worker.Terms{}
	cmd := &cobra.Command{
		Use:   "open --config FILE --key FILE --registry ADDR --payout ADDR --machine ID --stake TON",
		Short: "deploy a worker contract with a stake, or add to it",
		Long: `Deploys the contract of one machine, owned by the wallet, and stakes for it. The
stake answers for the receipts of every enclave whose verdicts name the payout:
two receipts of one job and number that differ slash it. 0.1 TON more is kept
for the contract's storage.

Exit codes: 0 staked; 2 refused, or the wallet is empty; 3 no lite-server
answers.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.Registry, t.Payout, t.Machine = registryAddr.Address, payout.Address, machine.Hash
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				w, err := f.wallet(ctx, l)
				if err != nil {
					return err
				}
				if t.Owner, err = toncell.FromAddr(w.Address()); err != nil {
					return err
				}
				addr, tx, err := l.OpenWorker(ctx, w, &t, stake.Nano)
				if err != nil {
					return err
				}
				return f.showWorker(ctx, cmd, l, addr, tx)
			})
		},
	}
	f.register(cmd, true)
	fs := cmd.Flags()
	fs.Var(&registryAddr, "registry", "the registry of the jobs that the stake answers for")
	fs.Var(&payout, "payout", "the payout of these jobs")
	fs.Var(&machine, "machine", "the machine's `name`, 32 bytes hex of the owner's choice")
	fs.Var(&stake, "stake", "how much to stake")
	fs.DurationVar(&t.LeaveDelay, "delay", 7*24*time.Hour, "how long a withdrawal waits")
	for _, name := range []string{"registry", "payout", "machine", "stake"} {
		need(cmd, name)
	}
	return cmd
}

func (f *tonFlags) showWorker(ctx context.Context, cmd *cobra.Command, l *ledger.Ledger, addr toncell.Address, tx *ledger.Tx) error {
	s, _, err := l.Worker(ctx, addr)
	if err != nil {
		return err
	}
	r := &workerReport{Address: addr, State: s, Tx: tx}
	return r.write(cmd, f.json)
}

func newWorkerShowCmd() *cobra.Command {
	f := &tonFlags{}
	cmd := &cobra.Command{
		Use:   "show ADDRESS --config FILE",
		Short: "show a worker contract's proven state",
		Long: `Reads the contract's account from the network, proves it, and checks that its
code is this version's and its address that of its own terms.

Exit codes: 0 shown; 2 not a worker contract, or a proof is wrong; 3 no
lite-server answers.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				return f.showWorker(ctx, cmd, l, addr, nil)
			})
		},
	}
	f.register(cmd, false)
	return cmd
}

// workerStep sends one message to a worker contract.
type workerStep func(context.Context, *ledger.Ledger, chain.Sender, toncell.Address) (*ledger.Tx, error)

func newWorkerStepCmd(verb, short string, flags func(*cobra.Command) workerStep) *cobra.Command {
	f := &tonFlags{}
	cmd := &cobra.Command{
		Use:   verb + " ADDRESS --config FILE --key FILE",
		Short: short,
		Long: short + `.

Exit codes: 0 done; 2 refused; 3 no lite-server answers.`,
		Args: cobra.ExactArgs(1),
	}
	step := flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		addr, err := addressArg(args)
		if err != nil {
			return err
		}
		return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
			w, err := f.wallet(ctx, l)
			if err != nil {
				return err
			}
			tx, err := step(ctx, l, w, addr)
			if err != nil {
				return err
			}
			return f.showWorker(ctx, cmd, l, addr, tx)
		})
	}
	f.register(cmd, true)
	return cmd
}
