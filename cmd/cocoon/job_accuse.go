package main

import (
	"context"

	"github.com/spf13/cobra"

	"cocoon/contracts/coin"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
)

func newJobAccuseCmd() *cobra.Command {
	f := &tonFlags{}
	cmd := &cobra.Command{
		Use:   "accuse RECEIPT RECEIPT --config FILE --key FILE",
		Short: "prove that a worker signed two receipts of one number, and slash its stake",
		Long: `Sends two receipts of one job and number that differ to the job, which checks
that both are signed by a receipt key that it was released to, and has the
worker contract of its terms slash its stake: half goes to the job's client,
half to the registry. Anyone may; the gas is the sender's.

Exit codes: 0 slashed; 2 refused; 3 no lite-server answers; 5 a file is not a
receipt.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var both [2]*receipt.Signed
			for i, path := range args {
				doc, err := readDocument(path, receipt.MaxSize)
				if err != nil {
					return err
				}
				if both[i], err = receipt.Parse(doc); err != nil {
					return err
				}
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				w, err := f.wallet(ctx, l)
				if err != nil {
					return err
				}
				s, tx, err := l.Accuse(ctx, w, both[0], both[1])
				if err != nil {
					return err
				}
				j, _, err := l.Job(ctx, both[0].Receipt.Job)
				if err != nil {
					return err
				}
				r := &workerReport{Address: *j.Terms.Stake, State: s, Tx: tx}
				return r.write(cmd, f.json)
			})
		},
	}
	f.register(cmd, true)
	return cmd
}

// nanoTON writes an amount of a contract's state.
func nanoTON(v uint64) string { return coin.Nano(v).String() + " TON" }
