package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/wallet"
	"cocoon/internal/fault"
)

func newWalletCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wallet",
		Short: "keep a TON wallet whose payments are made once",
		Long: `A wallet is a directory with an encrypted key and a journal. Each payment is in
the journal before it is sent, within caps, and executed on this machine first;
whether it was made is read from the chain's proven history, so that no crash and
no lost answer pays twice. The directory serves as --key of other commands.`,
	}
	cmd.AddCommand(newWalletNewCmd(), newWalletShowCmd(), newWalletSendCmd(), newWalletHistoryCmd(), newWalletCapsCmd(), newWalletSettleCmd())
	return cmd
}

// walletCmd runs a verb on an open wallet.
func (f *tonFlags) walletCmd(cmd *cobra.Command, dir string, key bool, do func(context.Context, *wallet.Wallet) error) (err error) {
	o := wallet.Options{Dir: dir}
	if key {
		if o.Sealer, err = passphrase(f.passphrase, false); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	if f.config != "" {
		c, err2 := chain.OpenFile(f.config, chain.Options{})
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		o.Network = c
		if key {
			if o.TVM, err = c.TVM(ctx); err != nil {
				return err
			}
		}
	}
	w, err := wallet.Open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	return do(ctx, w)
}

func (f *tonFlags) registerWallet(cmd *cobra.Command, config, key bool) {
	fs := cmd.Flags()
	fs.DurationVar(&f.timeout, "timeout", 5*time.Minute, "give up after this `time`; what was sent stays in the journal")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	fs.StringVar(&f.config, "config", "", "the network's global.config.json `file`")
	if config {
		need(cmd, "config")
	}
	if key {
		registerPassphrase(cmd, &f.passphrase)
	}
}

func newWalletNewCmd() *cobra.Command {
	f := &tonFlags{}
	var kind string
	var work int
	caps := wallet.Caps{Day: 100 * coin.TON, Job: 20 * coin.TON}
	cmd := &cobra.Command{
		Use:   "new DIR --config FILE",
		Short: "make a wallet",
		Long: `Makes a key, encrypts it with a passphrase (in the age format), and starts a
journal. There is no second copy of the key: keep one of the directory before
coins arrive, and never pay from both.

Exit codes: 0 made; 1 there is one already; 3 no lite-server answers.`,
		Example: `  cocoon wallet new ~/wallet --config global.config.json --day-cap 100 --job-cap 20`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := chain.OpenFile(f.config, chain.Options{})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			id, err := c.GlobalID(ctx)
			if err != nil {
				return err
			}
			p, err := passphrase(f.passphrase, true)
			if err != nil {
				return err
			}
			if work < 1 || work > wallet.MaxWork {
				return fault.New(fault.ExitInternal, "ton.wallet.work", fmt.Sprintf("name 1 to %d", wallet.MaxWork), "making a wallet with the work factor %d", work)
			}
			p.Work = work
			w, err := wallet.Create(args[0], p, wallet.Kind(kind), id, caps)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			return showWallet(cmd, f.json, w, nil)
		},
	}
	f.registerWallet(cmd, true, true)
	fs := cmd.Flags()
	fs.StringVar(&kind, "kind", string(wallet.V5R1), "the contract: v5r1, or highload-v3 for many payments at once")
	fs.IntVar(&work, "work", wallet.DefaultWork, "how hard each guess of the passphrase is, a power of two")
	registerCaps(cmd, &caps)
	return cmd
}

func registerCaps(cmd *cobra.Command, caps *wallet.Caps) {
	fs := cmd.Flags()
	fs.Var(&capFlag{&caps.Day}, "day-cap", "most that is sent in 24 hours")
	fs.Var(&capFlag{&caps.Job}, "job-cap", "most that is ever sent to one address; a job is one")
}

// capFlag is an amount that has a default.
type capFlag struct{ to *coin.Nano }

// String returns the value as the flag takes it.
func (c *capFlag) String() string {
	if c.to == nil {
		return ""
	}
	return c.to.String()
}

// Set reads what stands behind the flag.
func (c *capFlag) Set(s string) error {
	v, err := coin.Parse(s)
	if err != nil {
		return err
	}
	*c.to = v
	return nil
}

// Type names the form of the value in the help.
func (c *capFlag) Type() string { return "TON" }

// walletReport is what show says.
type walletReport struct {
	Address  string      `json:"address"`
	Kind     wallet.Kind `json:"kind"`
	GlobalID int32       `json:"global_id"`
	Caps     wallet.Caps `json:"caps"`
	Balance  *coin.Nano  `json:"nanoton,omitempty"`
	Status   string      `json:"status,omitempty"`
	Open     int         `json:"open"` // payments under way
}

func showWallet(cmd *cobra.Command, asJSON bool, w *wallet.Wallet, st *chain.State) error {
	r := walletReport{Address: w.Address().String(), Kind: w.Kind(), GlobalID: w.GlobalID(), Caps: w.Caps()}
	if st != nil {
		if !st.Balance.IsUint64() {
			return fmt.Errorf("reading a balance: %s is not within 64 bits", st.Balance)
		}
		n := coin.Nano(st.Balance.Uint64())
		r.Balance, r.Status = &n, string(st.Status)
	}
	open, err := w.Open()
	if err != nil {
		return err
	}
	r.Open = len(open)
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	p := &printer{w: cmd.OutOrStdout()}
	p.f("wallet %s, %s, network %d", r.Address, r.Kind, r.GlobalID)
	if r.Balance != nil {
		p.f("balance %s TON, %s", r.Balance, r.Status)
	}
	p.f("caps %s TON a day, %s TON a job", r.Caps.Day, r.Caps.Job)
	if r.Open > 0 {
		p.f("%d payments under way: run cocoon wallet settle", r.Open)
	}
	return p.err
}

func newWalletShowCmd() *cobra.Command {
	f := &tonFlags{}
	cmd := &cobra.Command{
		Use:     "show DIR [--config FILE]",
		Short:   "show a wallet's address, caps, and proven balance",
		Example: `  cocoon wallet show ~/wallet --config global.config.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.walletCmd(cmd, args[0], false, func(ctx context.Context, w *wallet.Wallet) error {
				if f.config == "" {
					return showWallet(cmd, f.json, w, nil)
				}
				st, err := w.State(ctx)
				if err != nil {
					return err
				}
				return showWallet(cmd, f.json, w, st)
			})
		},
	}
	f.registerWallet(cmd, false, false)
	return cmd
}

func newWalletSendCmd() *cobra.Command {
	f := &tonFlags{}
	var to addressFlag
	var amount coinFlag
	var comment, id string
	var bounce, dry bool
	cmd := &cobra.Command{
		Use:   "send DIR --config FILE --to ADDRESS --amount TON",
		Short: "pay, once",
		Long: `Pays and waits until the chain's proven history shows it. Under one --id a
payment is made at most once, however often the command runs; without one, the id
is shown, so that a payment that was cut off can be asked for again. --dry-run
executes it on this machine only and shows what each step costs.

Exit codes: 0 paid; 2 refused: the id stands for another payment, the balance does
not do, or the passphrase is wrong; 3 the outcome is not known yet (ask again with
the same id), or it expired unexecuted; 4 over a cap.`,
		Example: `  cocoon wallet send ~/wallet --config global.config.json --to UQ… --amount 1.5 --id rent-july
  cocoon wallet send ~/wallet --config global.config.json --to UQ… --amount 1.5 --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := chain.Message{To: to.Addr().Bounce(bounce), Nano: new(big.Int).SetUint64(uint64(amount.Nano)), Bounce: bounce}
			if comment != "" {
				b := cell.BeginCell().MustStoreUInt(0, 32)
				if err := b.StoreStringSnake(comment); err != nil {
					return fault.New(fault.ExitInternal, "ton.wallet.comment", "write less", "writing a comment: %w", err)
				}
				m.Body = b.EndCell()
			}
			return f.walletCmd(cmd, args[0], true, func(ctx context.Context, w *wallet.Wallet) error {
				if dry {
					est, err := w.Estimate(ctx, m)
					if err != nil {
						return err
					}
					return showEstimate(cmd, f.json, est)
				}
				if id == "" {
					var b [8]byte
					if _, err := rand.Read(b[:]); err != nil {
						return fmt.Errorf("making an id: %w", err)
					}
					id = hex.EncodeToString(b[:])
					if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "payment id %s\n", id); err != nil {
						return fmt.Errorf("writing the id: %w", err)
					}
				}
				_, e, err := w.Pay(ctx, id, m)
				if err != nil {
					return err
				}
				return showEntries(cmd, f.json, []*wallet.Entry{e})
			})
		},
	}
	f.registerWallet(cmd, true, true)
	fs := cmd.Flags()
	fs.Var(&to, "to", "the receiver")
	fs.Var(&amount, "amount", "how much")
	fs.StringVar(&comment, "comment", "", "a `text` that goes along, for anyone to read")
	fs.StringVar(&id, "id", "", "the payment's `name`: it is made at most once under it")
	fs.BoolVar(&bounce, "bounce", false, "let it come back if the receiver is no contract or fails")
	fs.BoolVar(&dry, "dry-run", false, "show what it would cost and send nothing")
	need(cmd, "to")
	need(cmd, "amount")
	return cmd
}

func showEstimate(cmd *cobra.Command, asJSON bool, est *wallet.Estimate) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), est)
	}
	p := &printer{w: cmd.OutOrStdout()}
	for _, s := range est.Steps {
		what := fmt.Sprintf("exit code %d, %d gas", s.ExitCode, s.Gas)
		if s.Skipped {
			what = "no code"
		}
		if s.Bounced {
			what += ", bounced"
		}
		p.f("%s: gets %s TON, %s, fees %s TON", s.Account, s.Value, what, s.Fees)
	}
	p.f("nothing was sent; fees in all %s TON, the wallet would keep %s TON", est.Fees, est.Left)
	if !est.Complete {
		p.f("the dry run was cut off: more would follow")
	}
	return p.err
}

func showEntries(cmd *cobra.Command, asJSON bool, es []*wallet.Entry) error {
	if asJSON {
		if es == nil {
			es = []*wallet.Entry{}
		}
		return writeJSON(cmd.OutOrStdout(), es)
	}
	p := &printer{w: cmd.OutOrStdout()}
	for _, e := range es {
		name := ""
		if e.ID != "" {
			name = " " + plain(e.ID)
		}
		p.f("%d%s: %s, %s TON, fees %s TON, signed %s", e.Number, name, e.State, e.Total(), e.Fees, time.Unix(int64(e.Signed), 0).UTC().Format(time.RFC3339))
		for _, to := range e.Payments {
			p.f("  %s TON to %s", to.Amount, to.To)
		}
		if e.LT != 0 {
			p.f("  transaction %s", e.Transaction)
		}
	}
	return p.err
}

func newWalletHistoryCmd() *cobra.Command {
	f := &tonFlags{}
	var n int
	cmd := &cobra.Command{
		Use:     "history DIR",
		Short:   "show a wallet's newest payments, from its journal",
		Example: `  cocoon wallet history ~/wallet -n 50`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.walletCmd(cmd, args[0], false, func(_ context.Context, w *wallet.Wallet) error {
				es, err := w.History(n)
				if err != nil {
					return err
				}
				return showEntries(cmd, f.json, es)
			})
		},
	}
	f.registerWallet(cmd, false, false)
	cmd.Flags().IntVarP(&n, "number", "n", 20, "how many at most")
	return cmd
}

func newWalletCapsCmd() *cobra.Command {
	f := &tonFlags{}
	var caps wallet.Caps
	cmd := &cobra.Command{
		Use:     "caps DIR [--day-cap TON] [--job-cap TON]",
		Short:   "change a wallet's caps",
		Long:    `Changes the caps. It asks for the passphrase: who cannot pay cannot raise them.`,
		Example: `  cocoon wallet caps ~/wallet --day-cap 500`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.walletCmd(cmd, args[0], true, func(_ context.Context, w *wallet.Wallet) error {
				c := w.Caps()
				if cmd.Flags().Changed("day-cap") {
					c.Day = caps.Day
				}
				if cmd.Flags().Changed("job-cap") {
					c.Job = caps.Job
				}
				if err := w.SetCaps(c); err != nil {
					return err
				}
				return showWallet(cmd, f.json, w, nil)
			})
		},
	}
	f.registerWallet(cmd, false, true)
	registerCaps(cmd, &caps)
	return cmd
}

func newWalletSettleCmd() *cobra.Command {
	f := &tonFlags{}
	cmd := &cobra.Command{
		Use:   "settle DIR --config FILE",
		Short: "find out what became of payments that were cut off",
		Long: `Sends every payment under way again and waits until each is executed or can
not be any more.

Exit codes: 0 all are settled; 3 no lite-server answers, or the time was up.`,
		Example: `  cocoon wallet settle ~/wallet --config global.config.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.walletCmd(cmd, args[0], true, func(ctx context.Context, w *wallet.Wallet) error {
				open, err := w.Open()
				if err != nil {
					return err
				}
				if err := w.Recover(ctx); err != nil {
					return err
				}
				var now []*wallet.Entry
				for _, e := range open {
					if e, err = w.Entry(e.Number); err != nil {
						return err
					}
					now = append(now, e)
				}
				return showEntries(cmd, f.json, now)
			})
		},
	}
	f.registerWallet(cmd, true, true)
	return cmd
}

// envPassphrase names a file with the wallet's passphrase.
const envPassphrase = "COCOON_WALLET_PASSPHRASE_FILE"

func registerPassphrase(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "passphrase-file", "", "the wallet's passphrase, the first line of a `file` (default $"+envPassphrase+", else asked for)")
}

// passphrase reads a wallet's passphrase from a file or a terminal; a new one
// is typed twice.
func passphrase(path string, fresh bool) (wallet.Passphrase, error) {
	if path == "" {
		path = os.Getenv(envPassphrase)
	}
	if path == "" {
		text, err := typePassphrase(fresh)
		return wallet.Passphrase{Text: text}, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return wallet.Passphrase{}, fault.New(fault.ExitInternal, "ton.wallet.no_passphrase", "name a file with it", "reading the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return wallet.Passphrase{Text: strings.TrimSuffix(line, "\r")}, nil
}
