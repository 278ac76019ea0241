package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/hostd/earnings"
	"cocoon/hostd/vouchers"
	"cocoon/internal/toncell"
)

// defaultVouchers is where hostd keeps what its guests hand over.
const defaultVouchers = "/var/lib/cocoon-hostd/vouchers"

// newEarningsCmd is the parent of what concerns an operator's income.
func newEarningsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "earnings", Short: "what a machine earned, and what is still to be redeemed", Args: cobra.NoArgs}
	cmd.AddCommand(newEarningsKeepCmd(), newEarningsFetchCmd(), newEarningsShowCmd(), newEarningsRedeemCmd())
	return cmd
}

func newEarningsKeepCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "keep VOUCHER...",
		Short: "keep vouchers, the newest of each job",
		Long: `Keeps vouchers as "cocoon job voucher" fetches them, for "cocoon earnings show"
and for redeeming them after the worker is gone. hostd keeps those of its own
machines by itself, as soon as a worker has them. An older one than is kept of
its job changes nothing.

Exit codes: 0 kept; 5 not a voucher.`,
		Example: "  cocoon earnings keep voucher.json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			book := vouchers.Book{Dir: dir}
			for _, path := range args {
				doc, err := readInput("VOUCHER", path, receipt.MaxVoucher)
				if err != nil {
					return err
				}
				v, err := receipt.ParseVoucher(bytes.TrimSpace(doc))
				if err != nil {
					return err
				}
				kept, err := book.Keep(v)
				if err != nil {
					return err
				}
				word := "kept"
				if !kept {
					word = "not newer"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: voucher %d of job %s, %s TON\n", word, v.Voucher.Seq, v.Voucher.Job, v.Voucher.Amount)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "vouchers", defaultVouchers, "the `directory` of vouchers")
	return cmd
}

// earningsChain reads proven state.
type earningsChain struct{ *ledger.Ledger }

// Job implements earnings.Chain.
func (c earningsChain) Job(ctx context.Context, addr toncell.Address) (*job.State, error) {
	st, _, err := c.Ledger.Job(ctx, addr)
	return st, err
}

// Balance implements earnings.Chain.
func (c earningsChain) Balance(ctx context.Context, addr toncell.Address) (uint64, error) {
	st, err := c.Chain().Account(ctx, addr.Addr())
	if err != nil {
		return 0, err
	}
	if !st.Balance.IsUint64() {
		return 1<<63 - 1, nil
	}
	return st.Balance.Uint64(), nil
}

func newEarningsShowCmd() *cobra.Command {
	var f tonFlags
	var dir, threshold, gas string
	var payout, wallet addressFlag
	cmd := &cobra.Command{
		Use:   "show --config FILE [--payout ADDRESS] [--wallet ADDRESS]",
		Short: "show what was served, earned, paid out, and what to redeem",
		Long: `Compares the vouchers that were kept with the proven state of their jobs: what was
served and earned, what was paid to the payout address, the gateways' fees, what
a redemption would bring, and the mean in an hour since the first release. Warns
before a job closes with money in it, and before wallet or stake run dry.

Exit codes: 0 shown, warnings included; 2 a proof is wrong; 3 network.`,
		Example: "  cocoon earnings show --config global.config.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := earnings.Options{Book: vouchers.Book{Dir: dir}, Now: time.Now()}
			var err1, err2 error
			o.Threshold, err1 = coin.Parse(threshold)
			o.Gas, err2 = coin.Parse(gas)
			if err := errors.Join(err1, err2); err != nil {
				return usage("reading an amount of TON: %w", err)
			}
			if payout.set {
				o.Payout = &payout.Address
			}
			if wallet.set {
				o.Wallet = &wallet.Address
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				o.Chain = earningsChain{l}
				r, err := earnings.Make(ctx, o)
				if err != nil {
					return err
				}
				return writeReport(cmd.OutOrStdout(), f.json, r, func() string { return earningsText(r) }, nil)
			})
		},
	}
	f.register(cmd, false)
	fs := cmd.Flags()
	fs.StringVar(&dir, "vouchers", defaultVouchers, "the `directory` of vouchers")
	fs.Var(&payout, "payout", "count only jobs that pay this `address`")
	fs.Var(&wallet, "wallet", "watch the wallet that pays for messages, an `address`")
	fs.StringVar(&threshold, "threshold", "0.1", "say when a job has this `amount` of TON to redeem")
	fs.StringVar(&gas, "gas", "0.5", "warn if the wallet, or a stake beyond its least, has less than this `amount` of TON")
	return cmd
}

func earningsText(r *earnings.Report) string {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	if len(r.Jobs) > 0 {
		fmt.Fprintln(tw, "JOB\tSTATUS\tRECEIPTS\tEARNED\tPAID OUT\tTO REDEEM\tFEES")
	}
	for _, j := range r.Jobs {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", j.Job, j.Status, j.Receipts, j.Earned, j.PaidOut, j.Outstanding, j.Fees)
	}
	_ = tw.Flush() // into memory
	fmt.Fprintf(&b, "served %d receipts; earned %s TON, %s an hour; paid out %s; to redeem %s; gateways' fees %s\n", r.Receipts, r.Earned, r.PerHour, r.PaidOut, r.Outstanding, r.Fees)
	if r.Wallet != nil {
		fmt.Fprintf(&b, "wallet %s TON\n", *r.Wallet)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s [%s]\n  hint: %s\n", w.Message, w.Code, plain(w.Remedy))
	}
	return b.String()
}
