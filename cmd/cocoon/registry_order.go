package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// orderFlags are those of the verbs that sign or send orders.
type orderFlags struct {
	tonFlags
	ownerKey string
	out      string
	validFor time.Duration
}

func (f *orderFlags) registerOwner(cmd *cobra.Command) {
	f.register(cmd, false)
	fs := cmd.Flags()
	fs.StringVar(&f.key, "key", "", "the wallet's Ed25519 seed `file`: with it, what is signed by enough owners is sent")
	fs.StringVar(&f.ownerKey, "owner-key", "", "the owner's Ed25519 seed, 64 hex digits in a `file`")
	need(cmd, "owner-key")
}

// owner reads the owner's key; unlike a wallet's it is never made by the way.
func (f *orderFlags) owner(s *registry.State) (ed25519.PrivateKey, error) {
	if _, err := os.Stat(f.ownerKey); err != nil {
		return nil, fmt.Errorf("reading the owner's key: %w", err)
	}
	key, err := seedFile(f.ownerKey)
	if err != nil {
		return nil, err
	}
	if _, ok := s.Owners.IndexOf(key.Public().(ed25519.PublicKey)); !ok {
		return nil, fault.New(fault.ExitRefused, "registry.not_an_owner", "use the key of one of the owners (cocoon registry show)",
			"signing for the registry: key %x is not an owner's", []byte(key.Public().(ed25519.PublicKey)))
	}
	return key, nil
}

// orderReport is what the verbs about orders write with --json.
type orderReport struct {
	Registry   toncell.Address `json:"registry"`
	Number     uint64          `json:"number"`
	Waits      bool            `json:"waits"`
	Changes    []string        `json:"changes"`
	Signatures int             `json:"signatures"`
	Threshold  uint8           `json:"threshold"`
	Sent       bool            `json:"sent"`
	ReadyAt    *time.Time      `json:"ready_at,omitempty"`    // to be executed from then on
	ActiveFrom *time.Time      `json:"active_from,omitempty"` // by itself
}

func newRegistryProposeCmd() *cobra.Command {
	f := &orderFlags{}
	cmd := &cobra.Command{
		Use:   "propose ADDRESS CHANGE… --config FILE --owner-key FILE --out FILE",
		Short: "make and sign an order that changes a registry",
		Long: `Makes an order of the changes, signs it with an owner's key and writes it for
the other owners (registry approve). It gets the registry's next number. An
order that widens trust waits the registry's time lock once it is sent, and can
be vetoed until it is executed; one that only narrows it acts at once. One new
manifest, model, policy, verifier or gateway alone counts by itself when the time
lock is over. With --key it is sent if the signature is enough.

` + changeHelp + `

Exit codes: 0 made; 1 usage; 2 refused, or not an owner's key; 3 no lite-server
answers.`,
		Example: `  cocoon registry propose 0:4bd1… manifest=9f2c… policy=0e1b… --config global.config.json \
    --owner-key owner1.key --out order.json
  cocoon registry propose 0:4bd1… manifest=9f2c…,revoked pause --config global.config.json \
    --owner-key owner1.key --out stop.json`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				s, _, err := l.Registry(ctx, addr)
				if err != nil {
					return err
				}
				entries, err := parseEntries(s, args[1:])
				if err != nil {
					return err
				}
				o, s, err := l.NewOrder(ctx, addr, f.validFor, entries...)
				if err != nil {
					return err
				}
				return f.sign(ctx, cmd, l, s, &registry.SignedOrder{Order: o})
			})
		},
	}
	f.registerOwner(cmd)
	cmd.Flags().StringVarP(&f.out, "out", "o", "", "write the order to this `file`")
	cmd.Flags().DurationVar(&f.validFor, "valid-for", 24*time.Hour, "`time` in which the order must be sent")
	need(cmd, "out")
	return cmd
}

func newRegistryApproveCmd() *cobra.Command {
	f := &orderFlags{}
	cmd := &cobra.Command{
		Use:   "approve FILE --config FILE --owner-key FILE [--key FILE]",
		Short: "sign an order of another owner, and send it when it has enough signatures",
		Long: `Shows what an order does, signs it with an owner's key and writes the file
back. With --key it is sent once the registry's owners' threshold is reached.

Exit codes: 0 signed; 2 refused, or not an owner's key; 3 no lite-server
answers; 5 not an order.`,
		Example: `  cocoon registry approve order.json --config global.config.json --owner-key owner2.key --key wallet.key`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("reading an order: %w", err)
			}
			so, err := registry.ParseSignedOrder(doc)
			if err != nil {
				return fault.New(fault.ExitParse, "registry.order_malformed", "make the order with registry propose", "%w", err)
			}
			f.out = args[0]
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				s, _, err := l.Registry(ctx, so.Order.Registry)
				if err != nil {
					return err
				}
				return f.sign(ctx, cmd, l, s, so)
			})
		},
	}
	f.registerOwner(cmd)
	return cmd
}

// sign adds the owner's signature, writes the order, and sends it if it has
// enough.
func (f *orderFlags) sign(ctx context.Context, cmd *cobra.Command, l *ledger.Ledger, s *registry.State, so *registry.SignedOrder) error {
	key, err := f.owner(s)
	if err != nil {
		return err
	}
	sig, err := s.Owners.Sign(key, so.Order)
	if err != nil {
		return err
	}
	so.Add(sig)
	for _, have := range so.Signatures {
		if !s.Owners.Verify(so.Order, have) {
			return fault.New(fault.ExitRefused, "registry.owner_signature", "make the order anew", "the signature of owner %d does not fit the order", have.Index)
		}
	}
	doc, err := so.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.out, append(doc, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the order: %w", err)
	}
	r := &orderReport{
		Registry: so.Order.Registry, Number: so.Order.Number, Waits: so.Order.Later, Changes: changes(so.Order),
		Signatures: len(so.Signatures), Threshold: s.Owners.Threshold,
	}
	if f.key != "" && len(so.Signatures) >= int(s.Owners.Threshold) {
		if err := f.send(ctx, l, so, r); err != nil {
			return err
		}
	}
	return f.report(cmd, r)
}

func (f *orderFlags) send(ctx context.Context, l *ledger.Ledger, so *registry.SignedOrder, r *orderReport) error {
	w, err := f.wallet(ctx, l)
	if err != nil {
		return err
	}
	if _, err := l.Propose(ctx, w, so.Order, so.Signatures); err != nil {
		return err
	}
	r.Sent = true
	s, _, err := l.Registry(ctx, so.Order.Registry)
	if err != nil {
		return err
	}
	if p, ok := s.Pending[so.Order.Number]; ok {
		r.ReadyAt = &p.ReadyAt
	}
	if _, w, ok := s.Scheduled(so.Order.Number); ok {
		r.ActiveFrom = &w.From
	}
	return nil
}

func (f *orderFlags) report(cmd *cobra.Command, r *orderReport) error {
	if f.json {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	p := &printer{w: cmd.OutOrStdout()}
	when := "acts at once"
	if r.Waits {
		when = "waits the time lock"
	}
	p.f("order %d of registry %s, %s:", r.Number, r.Registry, when)
	for _, c := range r.Changes {
		p.f("  %s", c)
	}
	p.f("signed by %d owners, %d needed", r.Signatures, r.Threshold)
	switch {
	case r.ReadyAt != nil:
		p.f("sent; to be executed from %s on", r.ReadyAt.Format(time.RFC3339))
	case r.ActiveFrom != nil:
		p.f("sent; active from %s on", r.ActiveFrom.Format(time.RFC3339))
	case r.Sent:
		p.f("sent and done")
	}
	return p.err
}

// numberArg reads the second argument.
func numberArg(args []string) (uint64, error) {
	n, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return 0, usage("reading the order's number: %v", err)
	}
	return n, nil
}

func newRegistryExecuteCmd() *cobra.Command {
	f := &tonFlags{}
	cmd := &cobra.Command{
		Use:   "execute ADDRESS NUMBER --config FILE --key FILE",
		Short: "execute an order whose time lock is over",
		Long: `Executes a pending order. Anyone may, from the time that registry show gives
and for 14 days; after that the order is only dropped.

Exit codes: 0 executed; 2 refused; 3 no lite-server answers.`,
		Example: `  cocoon registry execute 0:4bd1… 7 --config global.config.json --key wallet.key`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			number, err := numberArg(args)
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				w, err := f.wallet(ctx, l)
				if err != nil {
					return err
				}
				before, _, err := l.Registry(ctx, addr)
				if err != nil {
					return err
				}
				tx, err := l.ExecuteOrder(ctx, w, addr, number)
				if err != nil {
					return err
				}
				what := "executed"
				if p, ok := before.Pending[number]; ok && time.Unix(int64(tx.Now), 0).After(p.ReadyAt.Add(registry.ExecuteWindow-time.Second)) {
					what = "dropped: its time was over"
				}
				if f.json {
					return writeJSON(cmd.OutOrStdout(), map[string]any{"registry": addr, "number": number, "result": what, "transaction": tx})
				}
				p := &printer{w: cmd.OutOrStdout()}
				p.f("order %d of registry %s %s", number, addr, what)
				return p.err
			})
		},
	}
	f.register(cmd, true)
	return cmd
}

func newRegistryVetoCmd() *cobra.Command {
	f := &orderFlags{}
	var others string
	cmd := &cobra.Command{
		Use:   "veto ADDRESS NUMBER --config FILE --owner-key FILE [--key FILE]",
		Short: "stop an order that waits",
		Long: `Signs the veto of a pending order with an owner's key, and with --key sends it
if that is enough signatures. Where the registry asks for more than one, the
owners pass a file on: each adds a signature to --signatures.

Exit codes: 0 vetoed or signed; 2 refused; 3 no lite-server answers.`,
		Example: `  cocoon registry veto 0:4bd1… 7 --config global.config.json --owner-key owner3.key --key wallet.key`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			number, err := numberArg(args)
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				return f.veto(ctx, cmd, l, addr, number, others)
			})
		},
	}
	f.registerOwner(cmd)
	cmd.Flags().StringVar(&others, "signatures", "", "`file` with the other owners' signatures; this one is added")
	return cmd
}

func (f *orderFlags) veto(ctx context.Context, cmd *cobra.Command, l *ledger.Ledger, addr toncell.Address, number uint64, others string) error {
	s, st, err := l.Registry(ctx, addr)
	if err != nil {
		return err
	}
	pending, ok := s.Pending[number]
	id, _, waits := s.Scheduled(number)
	if !ok && !waits {
		return fault.New(fault.ExitRefused, "contract.order_not_pending", "look at the pending ones (cocoon registry show)", "vetoing order %d: it is not pending", number)
	}
	key, err := f.owner(s)
	if err != nil {
		return err
	}
	v := &registry.SignedVeto{}
	if waits {
		if v.Order, err = registry.ScheduledHash(number, id); err != nil {
			return err
		}
	} else {
		v.Order = [32]byte(pending.Order.Hash())
	}
	if others != "" {
		doc, err := os.ReadFile(others)
		if err == nil {
			v, err = registry.ParseSignedVeto(doc, v.Order)
		}
		if err != nil && !os.IsNotExist(err) {
			return fault.New(fault.ExitParse, "registry.veto_malformed", "begin with a new file", "reading a veto: %w", err)
		}
	}
	sig, err := s.Owners.SignVeto(key, st.GlobalID, addr, v.Order)
	if err != nil {
		return err
	}
	v.Add(sig)
	if others != "" {
		doc, err := v.Marshal()
		if err != nil {
			return err
		}
		if err := os.WriteFile(others, append(doc, '\n'), 0o644); err != nil {
			return fmt.Errorf("writing the veto: %w", err)
		}
	}
	sent := f.key != "" && len(v.Signatures) >= int(s.Owners.Veto)
	if sent {
		w, err := f.wallet(ctx, l)
		if err != nil {
			return err
		}
		if waits {
			_, err = l.VetoScheduled(ctx, w, addr, id, v.Signatures)
		} else {
			_, err = l.VetoOrder(ctx, w, addr, number, v.Signatures)
		}
		if err != nil {
			return err
		}
	}
	if f.json {
		return writeJSON(cmd.OutOrStdout(), map[string]any{"registry": addr, "number": number, "vetoed": sent, "signatures": len(v.Signatures), "threshold": s.Owners.Veto})
	}
	p := &printer{w: cmd.OutOrStdout()}
	p.f("veto of order %d of registry %s: signed by %d owners, %d needed", number, addr, len(v.Signatures), s.Owners.Veto)
	if sent {
		p.f("the order is gone")
	}
	return p.err
}
