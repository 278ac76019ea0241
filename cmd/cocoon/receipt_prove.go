package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
)

func newReceiptProveCmd() *cobra.Command {
	var log, out string
	var seq, count uint64
	cmd := &cobra.Command{
		Use:   "prove --log FILE --seq N [--count N]",
		Short: "prove a receipt's place under the root of a voucher",
		Long: `Writes the inclusion proof (RFC 6962, section 2.1.1) of one receipt of a receipt
log, under the root over all receipts of the log or its first --count ones, as a
voucher names it. Whoever gets it learns nothing of the other receipts but
hashes.

Exit codes: 0 written; 1 there is no such receipt; 5 the file is not a receipt
log.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			leaves, err := receipt.ReadLeaves(log)
			if err != nil {
				return err
			}
			if count == 0 {
				count = uint64(len(leaves))
			}
			if count > uint64(len(leaves)) || seq == 0 {
				return fmt.Errorf("proving receipt %d of %d: the log has %d", seq, count, len(leaves))
			}
			leaves = leaves[:count]
			path, err := receipt.Prove(leaves, seq-1)
			if err != nil {
				return err
			}
			p := receipt.Proof{Seq: seq, Count: count, Root: receipt.Root(leaves), Path: path}
			doc, err := p.Marshal()
			if err != nil {
				return err
			}
			if out == "" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", doc)
				return err
			}
			if err := os.WriteFile(out, append(doc, '\n'), 0o644); err != nil {
				return fault.New(fault.ExitInternal, "file.unwritable", "check the path", "writing the inclusion proof: %w", err)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&log, "log", "", "the receipt log `file`")
	fs.Uint64Var(&seq, "seq", 0, "the receipt's `number`")
	fs.Uint64Var(&count, "count", 0, "prove it under the root over this many receipts; 0: all")
	fs.StringVarP(&out, "out", "o", "", "write the proof to this `file` instead of standard output")
	need(cmd, "log")
	need(cmd, "seq")
	return cmd
}
