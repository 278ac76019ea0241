package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/explorer"
	"cocoon/internal/fault"
)

// newDevnetCmd runs a TON chain for development; its children talk to one that
// runs.
func newDevnetCmd() *cobra.Command {
	f := &devnetFlags{}
	cmd := &cobra.Command{
		Use:   "devnet [--state DIR] [--listen HOST:PORT] [--explorer HOST:PORT] [--wallets N] [--seed TEXT]",
		Short: "run a TON chain for development until interrupted",
		Long: `Runs one TON chain in this process: the real TVM, blocks, Merkle proofs, and a
lite-server that any TON client can use. The chain is kept in DIR and goes on
from there at the next start, also after a kill; its global.config.json is
written to DIR. With --wallets, a new chain has that many wallets with 10,000 TON
each, whose keys are in DIR/wallets. With --seed, all keys of a new chain come from
the text, so that anyone who knows it owns the chain.

The TVM comes from "make deps". Exit codes: 0 interrupted; 1 usage, or DIR is in
use; 3 the address cannot be listened on; 5 DIR holds something else; 6 no TVM.`,
		Example: `  cocoon devnet --state build/devnet
  cocoon devnet faucet --state build/devnet --to UQ… --amount 10
  cocoon devnet advance --state build/devnet --by 25h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDevnet(cmd, f) },
	}
	fs := cmd.Flags()
	f.registerDir(cmd)
	fs.StringVar(&f.listen, "listen", devnet.DefaultListen, "serve lite-clients on this IPv4 `address`; port 0 takes any")
	fs.StringVar(&f.configOut, "config-out", "", "write global.config.json to this `file`, too")
	fs.StringVar(&f.seed, "seed", "", "make the keys of a new chain from this `text`")
	fs.StringVar(&f.explorer, "explorer", "", "serve pages with accounts, blocks and decoded messages on this `address`, such as 127.0.0.1:8011; port 0 takes any")
	fs.IntVar(&f.wallets, "wallets", 0, "how many funded wallets a new chain has")
	fs.StringVar(&f.tvmDir, "tvm-dir", "", "read the TVM from this `directory` (default $COCOON_TVM_DIR or build/tvm)")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "log blocks and refused messages")
	cmd.AddCommand(newDevnetFaucetCmd(), newDevnetAdvanceCmd(), newDevnetStatusCmd())
	return cmd
}

type devnetFlags struct {
	dir, listen, configOut, tvmDir string
	seed, explorer                 string
	wallets                        int
	to, amount                     string
	by                             time.Duration
	json, verbose                  bool
}

func (f *devnetFlags) registerDir(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "state", filepath.Join("build", "devnet"), "the chain's `directory`; --dir is the same")
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "dir" {
			name = "state"
		}
		return pflag.NormalizedName(name)
	})
}

func runDevnet(cmd *cobra.Command, f *devnetFlags) (err error) {
	o := devnet.Options{Dir: f.dir, Listen: f.listen, TVMDir: f.tvmDir, Seed: f.seed, Wallets: f.wallets}
	if f.verbose {
		o.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ctx := cmd.Context()
	d, err := devnet.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if f.configOut != "" {
		cfg, err := d.ConfigJSON()
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.configOut, cfg, 0o644); err != nil {
			return fmt.Errorf("writing the network config: %w", err)
		}
	}
	s := d.Status()
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "devnet ready: lite-server %s, block %d, network id %d, config %s\n",
		s.Listen, s.Seqno, s.GlobalID, s.Config); err != nil {
		return fmt.Errorf("writing the ready line: %w", err)
	}
	if f.explorer != "" {
		e, err2 := explorer.Start(d, f.explorer)
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, e.Close()) }()
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "explorer %s\n", e.URL()); err != nil {
			return fmt.Errorf("writing the explorer's line: %w", err)
		}
	}
	for _, w := range s.Wallets {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "wallet %s, key %s\n", w.Address, w.Key); err != nil {
			return fmt.Errorf("writing a wallet's line: %w", err)
		}
	}
	<-ctx.Done()
	return nil
}

func newDevnetFaucetCmd() *cobra.Command {
	f := &devnetFlags{}
	cmd := &cobra.Command{
		Use:   "faucet [--state DIR] --to ADDR --amount TON",
		Short: "send coins of a running devnet to an address",
		Long: `Sends coins from the faucet of the devnet that runs in DIR; they have arrived
when the command ends. The message does not bounce: it can fund an account that
is not deployed yet.`,
		Example: `  cocoon devnet faucet --to UQ… --amount 2.5`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := devnet.ParseAddress(f.to)
			if err != nil {
				return err
			}
			nano, err := parseTON(f.amount)
			if err != nil {
				return err
			}
			s, err := devnet.NewAdmin(f.dir).Faucet(cmd.Context(), to, nano)
			if err != nil {
				return err
			}
			return writeDevnet(cmd.OutOrStdout(), f.json, s, fmt.Sprintf("sent %s TON to %s, block %d", f.amount, to.String(), s.Seqno))
		},
	}
	f.registerDir(cmd)
	cmd.Flags().StringVar(&f.to, "to", "", "the receiver's `address`")
	cmd.Flags().StringVar(&f.amount, "amount", "", "how many `TON`, up to nine decimals")
	cmd.Flags().BoolVar(&f.json, "json", false, "write the result as JSON")
	return cmd
}

func newDevnetAdvanceCmd() *cobra.Command {
	f := &devnetFlags{}
	cmd := &cobra.Command{
		Use:     "advance [--state DIR] --by DURATION",
		Short:   "move a running devnet's clock forward",
		Long:    `Moves the clock of the devnet that runs in DIR forward for good, and makes a block there.`,
		Example: `  cocoon devnet advance --by 25h`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.by <= 0 {
				return fault.New(fault.ExitInternal, "ton.devnet.time_backwards", "name a positive duration such as 25h", "advancing the clock by %s", f.by)
			}
			s, err := devnet.NewAdmin(f.dir).Advance(cmd.Context(), f.by)
			if err != nil {
				return err
			}
			return writeDevnet(cmd.OutOrStdout(), f.json, s, fmt.Sprintf("the devnet's time is %s, block %d", s.Time.Format(time.RFC3339), s.Seqno))
		},
	}
	f.registerDir(cmd)
	cmd.Flags().DurationVar(&f.by, "by", 0, "how far (h, m, s)")
	cmd.Flags().BoolVar(&f.json, "json", false, "write the result as JSON")
	return cmd
}

func newDevnetStatusCmd() *cobra.Command {
	f := &devnetFlags{}
	cmd := &cobra.Command{
		Use:   "status [--state DIR]",
		Short: "say where a running devnet stands",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := devnet.NewAdmin(f.dir).Status(cmd.Context())
			if err != nil {
				return err
			}
			return writeDevnet(cmd.OutOrStdout(), f.json, s, fmt.Sprintf("lite-server %s, block %d, time %s, network id %d, config %s",
				plain(s.Listen), s.Seqno, s.Time.Format(time.RFC3339), s.GlobalID, plain(s.Config)))
		},
	}
	f.registerDir(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "write the result as JSON")
	return cmd
}

func writeDevnet(w io.Writer, asJSON bool, s *devnet.Status, line string) error {
	if asJSON {
		return writeJSON(w, s)
	}
	if _, err := fmt.Fprintln(w, line); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// parseTON reads a positive amount such as 2.5 and returns nanotons, exactly.
func parseTON(s string) (*big.Int, error) {
	bad := func() error {
		return fault.New(fault.ExitInternal, "ton.amount.malformed", "write it like 2.5, with up to nine decimals", "reading the amount %q", plain(s))
	}
	whole, frac, _ := strings.Cut(s, ".")
	digits := whole + frac
	if whole == "" || len(digits) > 28 || len(frac) > 9 || strings.HasSuffix(s, ".") || strings.Trim(digits, "0123456789") != "" {
		return nil, bad()
	}
	n, ok := new(big.Int).SetString(digits+strings.Repeat("0", 9-len(frac)), 10)
	if !ok || n.Sign() == 0 {
		return nil, bad()
	}
	return n, nil
}
