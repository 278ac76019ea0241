package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/coin"
	"cocoon/contracts/ledger"
	"cocoon/hostd/earnings"
	"cocoon/hostd/vouchers"
	"cocoon/internal/toncell"
)

// redeemedReport is what "earnings redeem" writes with --json.
type redeemedReport struct {
	Redeemed []redeemed         `json:"redeemed"`
	Warnings []earnings.Warning `json:"warnings"`
}

type redeemed struct {
	Job     toncell.Address `json:"job"`
	Seq     uint64          `json:"seq"`
	Worker  coin.Nano       `json:"worker"`  // paid to the job's payout
	Gateway coin.Nano       `json:"gateway"` // paid to its gateway
	Tx      *ledger.Tx      `json:"transaction"`
}

func newEarningsRedeemCmd() *cobra.Command {
	f := &tonFlags{}
	var dir, threshold string
	var payout addressFlag
	cmd := &cobra.Command{
		Use:   "redeem --config FILE --key FILE [--payout ADDRESS] [--threshold TON]",
		Short: "redeem every voucher that is kept and worth it",
		Long: `Redeems the newest voucher of each job that would bring at least the threshold,
whether or not the machine that it was given to still exists. Anyone may: the
money goes to the jobs' payout and gateways. A voucher that was redeemed brings
nothing, so the command can be run again at any time.

Exit codes: 0 redeemed, or nothing was worth it; 2 a voucher was refused; 3
network.`,
		Example: "  cocoon earnings redeem --config global.config.json --key wallet.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := earnings.Options{Book: vouchers.Book{Dir: dir}, Now: time.Now()}
			least, err := coin.Parse(threshold)
			if err != nil {
				return usage("reading an amount of TON: %w", err)
			}
			if payout.set {
				o.Payout = &payout.Address
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				o.Chain = earningsChain{l}
				claims, warnings, err := earnings.Claims(ctx, o)
				if err != nil {
					return err
				}
				r := &redeemedReport{Redeemed: []redeemed{}, Warnings: warnings}
				err = f.redeemAll(ctx, l, claims, max(least, 1), r)
				return errors.Join(err, r.write(cmd, f.json))
			})
		},
	}
	f.register(cmd, true)
	fs := cmd.Flags()
	fs.StringVar(&dir, "vouchers", defaultVouchers, "the `directory` of vouchers")
	fs.Var(&payout, "payout", "redeem only jobs that pay this `address`")
	fs.StringVar(&threshold, "threshold", "0.1", "leave jobs that would bring less than this `amount` of TON")
	return cmd
}

// redeemAll goes on after a voucher that is refused: the others are money, too.
func (f *tonFlags) redeemAll(ctx context.Context, l *ledger.Ledger, claims []earnings.Claim, least coin.Nano, r *redeemedReport) error {
	claims = slices.DeleteFunc(claims, func(c earnings.Claim) bool { return c.Job.Outstanding < least })
	if len(claims) == 0 {
		return nil
	}
	w, err := f.wallet(ctx, l)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range claims {
		got, err := l.Redeem(ctx, w, c.Voucher)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.Redeemed = append(r.Redeemed, redeemed{Job: c.Job.Job, Seq: c.Voucher.Voucher.Seq, Worker: got.Worker, Gateway: got.Gateway, Tx: got.Tx})
	}
	return errors.Join(errs...)
}

func (r *redeemedReport) write(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	p := &printer{w: cmd.OutOrStdout()}
	for _, d := range r.Redeemed {
		p.f("redeemed voucher %d of job %s: %s TON to its payout, %s TON to its gateway", d.Seq, d.Job, d.Worker, d.Gateway)
	}
	if len(r.Redeemed) == 0 {
		p.f("nothing to redeem")
	}
	for _, w := range r.Warnings {
		p.f("warning: %s [%s]\n  hint: %s", plain(w.Message), w.Code, plain(w.Remedy))
	}
	return p.err
}
