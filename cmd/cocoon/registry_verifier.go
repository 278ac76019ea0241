package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// tell is what the verbs of verifiers have in common: one message to the
// registry, made of its proven state, sent from the wallet.
func tell(f *tonFlags, cmd *cobra.Command, args []string, done string,
	make func(s *registry.State, st *chain.State, at, wallet toncell.Address) (*cell.Cell, coin.Nano, error)) error {
	at, err := addressArg(args)
	if err != nil {
		return err
	}
	return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
		w, err := f.wallet(ctx, l)
		if err != nil {
			return err
		}
		own, err := toncell.FromAddr(w.Address())
		if err != nil {
			return err
		}
		s, st, err := l.Registry(ctx, at)
		if err != nil {
			return err
		}
		body, leave, err := make(s, st, at, own)
		if err != nil {
			return err
		}
		tx, err := l.Tell(ctx, w, at, leave, body)
		if err != nil {
			return err
		}
		if f.json {
			return writeJSON(cmd.OutOrStdout(), map[string]any{"registry": at, "result": done, "transaction": tx})
		}
		p := &printer{w: cmd.OutOrStdout()}
		p.f("registry %s: %s", at, done)
		return p.err
	})
}

func newRegistryClaimCmd() *cobra.Command {
	f := &tonFlags{}
	var verifierKey string
	var to addressFlag
	cmd := &cobra.Command{
		Use:   "claim ADDRESS --config FILE --key FILE --verifier-key FILE",
		Short: "take out what a verifier has earned",
		Long: `Signs a claim with the verifier's key and sends it: all that the verifier has
earned by verdicts goes to --to, the wallet by default.

Exit codes: 0 paid; 2 refused; 3 no lite-server answers.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := keyfile.ReadEd25519(verifierKey)
			if err != nil {
				return err
			}
			return tell(f, cmd, args, "paid", func(_ *registry.State, st *chain.State, at, own toncell.Address) (*cell.Cell, coin.Nano, error) {
				if to.set {
					own = to.Address
				}
				body, err := registry.Claim(0, key, st.GlobalID, at, own, time.Unix(int64(st.Utime), 0).Add(10*time.Minute))
				return body, 0, err
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().StringVar(&verifierKey, "verifier-key", "", "the verifier's key `file`")
	cmd.Flags().Var(&to, "to", "pay to this `address`; default the wallet")
	need(cmd, "verifier-key")
	return cmd
}

func newRegistryBondCmd() *cobra.Command {
	f := &tonFlags{}
	var verifierKey string
	var owner addressFlag
	var amount coinFlag
	cmd := &cobra.Command{
		Use:   "bond ADDRESS --config FILE --key FILE --verifier-key FILE --amount TON",
		Short: "post a verifier's bond, or add to it",
		Long: `Posts the wallet's money as a verifier's bond, before or after the owners list
its key. The first bond names, for good, the address that may take it back
(registry unbond). It is lost to whoever proves that the key signed two verdicts
that contradict each other.

Exit codes: 0 posted; 2 refused; 3 no lite-server answers.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := keyfile.ReadEd25519(verifierKey)
			if err != nil {
				return err
			}
			return tell(f, cmd, args, "bond of "+amount.Nano.String()+" TON posted", func(_ *registry.State, st *chain.State, at, own toncell.Address) (*cell.Cell, coin.Nano, error) {
				if owner.set {
					own = owner.Address
				}
				body, err := registry.PostBond(0, key, st.GlobalID, at, own, uint64(amount.Nano))
				return body, amount.Nano, err
			})
		},
	}
	f.register(cmd, true)
	fs := cmd.Flags()
	fs.StringVar(&verifierKey, "verifier-key", "", "the verifier's key `file`")
	fs.Var(&owner, "owner", "who may take the bond back, `address`; default the wallet")
	fs.Var(&amount, "amount", "at least 1")
	need(cmd, "verifier-key")
	need(cmd, "amount")
	return cmd
}

func newRegistryUnbondCmd() *cobra.Command {
	f := &tonFlags{}
	var id hashFlag
	var withdraw bool
	cmd := &cobra.Command{
		Use:   "unbond ADDRESS --config FILE --key FILE --key-id ID [--withdraw]",
		Short: "take a verifier's bond back: first its key leaves the list, later the money",
		Long: `Takes the verifier's key off the list at once and starts the bond's way out.
After the registry's delay, --withdraw pays it to the wallet. The wallet must be
the bond's owner.

Exit codes: 0 done; 2 refused, or too early; 3 no lite-server answers.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			done, build := "the key is off the list, the bond on its way out", registry.Unbond
			if withdraw {
				done, build = "bond paid", registry.WithdrawBond
			}
			return tell(f, cmd, args, done, func(*registry.State, *chain.State, toncell.Address, toncell.Address) (*cell.Cell, coin.Nano, error) {
				body, err := build(0, id.Hash)
				return body, 0, err
			})
		},
	}
	f.register(cmd, true)
	cmd.Flags().Var(&id, "key-id", "SHA-256 of the verifier's public key, hex (registry show)")
	cmd.Flags().BoolVar(&withdraw, "withdraw", false, "pay out a bond whose delay is over")
	need(cmd, "key-id")
	return cmd
}

func newRegistrySlashCmd() *cobra.Command {
	f := &tonFlags{}
	var verifier hashFlag
	var first, second string
	cmd := &cobra.Command{
		Use:   "slash ADDRESS --config FILE --key FILE --first FILE --second FILE",
		Short: "prove that a verifier signed two verdicts that contradict each other",
		Long: `Sends two verdicts for one evidence that differ in receipt key, payout,
manifest, model or trust class and that one verifier signed. Its key leaves the
list, a quarter of its bond goes to the wallet.

Exit codes: 0 proven; 2 refused, or no contradiction; 3 no lite-server answers;
5 not a verdict.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readVerdictCell(first)
			if err != nil {
				return err
			}
			b, err := readVerdictCell(second)
			if err != nil {
				return err
			}
			return tell(f, cmd, args, "proven; the key is off the list", func(s *registry.State, _ *chain.State, _, _ toncell.Address) (*cell.Cell, coin.Nano, error) {
				keys := s.Keys()
				if verifier.set {
					keys = append(keys, ed25519.PublicKey(verifier.Hash[:]))
				}
				body, _, err := registry.Slash(0, keys, a, b)
				if err != nil {
					return nil, 0, fault.New(fault.ExitRefused, "registry.no_proof", "give two verdicts for one evidence that one verifier signed", "accusing a verifier: %w", err)
				}
				return body, 0, nil
			})
		},
	}
	f.register(cmd, true)
	fs := cmd.Flags()
	fs.StringVar(&first, "first", "", "a verdict `file`")
	fs.StringVar(&second, "second", "", "the other verdict `file`")
	fs.Var(&verifier, "verifier", "public `key` of a verifier that is not listed any more")
	need(cmd, "first")
	need(cmd, "second")
	return cmd
}

func readVerdictCell(path string) (*verdictcell.Verdict, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a verdict: %w", err)
	}
	var v verdictcell.Verdict
	if err := v.UnmarshalText([]byte(strings.TrimSpace(string(b)))); err != nil {
		return nil, fault.New(fault.ExitParse, "verdict.malformed", "give the verdict's cell as a verifier or an enclave writes it", "%w", err)
	}
	return &v, nil
}
