package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cocoon/client/modelowner"
	"cocoon/internal/fault"
)

func newModelReleasesCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "releases LOG",
		Short: "show who got the keys of encrypted packs",
		Long: `Shows the log that cocoon model release writes, and checks that no line of it was
changed, moved or taken out. Whether lines are missing at its end, only a copy
tells: each line has the hash of the one before.

Exit codes: 0 the log is whole; 2 it was changed.`,
		Example: `  cocoon model releases releases.log
  cocoon model releases releases.log --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fault.New(fault.ExitInternal, "file.unreadable", "check the path", "reading the log of releases: %w", err)
			}
			defer f.Close()
			log, err := modelowner.ReadLog(f)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return writeJSON(w, map[string]any{"releases": log})
			}
			for _, r := range log {
				fmt.Fprintf(w, "%d  %s  %s\n", r.Seq, r.Time, r.Pack)
				fmt.Fprintf(w, "    to       receipt key %s, payout %s, from %s\n", r.ReceiptKey, plain(r.Payout), plain(r.From))
				fmt.Fprintf(w, "    image    %s version %d, class %s, manifest %s\n", plain(r.Image), r.Version, plain(r.TrustClass), r.Manifest)
				fmt.Fprintf(w, "    by       policy %s, evidence %s, config %s\n", r.Policy, r.Evidence, r.Config)
			}
			_, err = fmt.Fprintf(w, "%d releases\n", len(log))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the log as JSON")
	return cmd
}
