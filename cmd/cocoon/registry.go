package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// newRegistryCmd shows, deploys and changes registries.
func newRegistryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "the on-chain list of verifiers, manifests and models",
	}
	cmd.AddCommand(newRegistryShowCmd(), newRegistryDeployCmd(), newRegistryProposeCmd(), newRegistryApproveCmd(),
		newRegistryExecuteCmd(), newRegistryVetoCmd(), newRegistryKeyCmd(),
		newRegistryClaimCmd(), newRegistryBondCmd(), newRegistryUnbondCmd(), newRegistrySlashCmd())
	return cmd
}

// registryReport is what "registry show --json" writes.
type registryReport struct {
	Address          toncell.Address    `json:"address"`
	Block            uint32             `json:"block"` // masterchain seqno that proves it
	Time             time.Time          `json:"time"`
	GlobalID         int32              `json:"global_id"`
	Version          uint32             `json:"version"`
	Paused           bool               `json:"paused"`
	Devnet           bool               `json:"devnet"`
	TrustClasses     []string           `json:"trust_classes"`
	Threshold        uint8              `json:"threshold"`
	Verifiers        []verifierReport   `json:"verifiers"`
	Manifests        []manifestReport   `json:"manifests"`
	Models           []modelReport      `json:"models"`
	Policies         []hexbytes.Hash    `json:"policies"`
	Gateways         []gatewayReport    `json:"gateways"`
	Logs             []checkpointReport `json:"logs"`
	Bonds            []bondReport       `json:"bonds"`
	FeeCapBps        uint16             `json:"fee_cap_bps"`
	VerifierFee      coin.Nano          `json:"verifier_fee_nanoton"`
	MinBond          coin.Nano          `json:"min_bond_nanoton"`
	MinWorkerStake   coin.Nano          `json:"min_worker_stake_nanoton"`
	UnbondDelay      int64              `json:"unbond_delay_seconds"`
	FreshnessSeconds int64              `json:"freshness_seconds"`
	MinCloseDelay    int64              `json:"min_close_delay_seconds"`
	Owners           ownersReport       `json:"owners"`
	NextOrder        uint64             `json:"next_order"`
	Pending          []pendingReport    `json:"pending"`
	Waiting          []waitingReport    `json:"waiting"`
	Balance          coin.Nano          `json:"balance_nanoton"`
	Owed             coin.Nano          `json:"owed_nanoton"`           // of the balance: the verifiers'
	Slashed          coin.Nano          `json:"slashed_stakes_nanoton"` // that workers' contracts have paid, in total
}

type ownersReport struct {
	Keys         map[string]hexbytes.Hash `json:"keys"` // by index
	Threshold    uint8                    `json:"threshold"`
	Veto         uint8                    `json:"veto"`
	Final        uint8                    `json:"final"`
	DelaySeconds int64                    `json:"delay_seconds"`
}

// pendingReport is an order that waits. Changes is empty where its cell is not
// an order's: such a one can only expire or be vetoed.
type pendingReport struct {
	Number  uint64        `json:"number"`
	SHA256  hexbytes.Hash `json:"hash"`
	ReadyAt time.Time     `json:"ready_at"`
	Until   time.Time     `json:"until"`
	Signers uint8         `json:"signers"`
	Final   bool          `json:"final"`
	Changes []string      `json:"changes"`
}

// waitingReport is an entry of a list that counts by itself from a time on.
type waitingReport struct {
	Kind    registry.Kind `json:"kind"`
	ID      hexbytes.Hash `json:"id"`
	Change  string        `json:"change"`
	From    time.Time     `json:"from"`
	Number  uint64        `json:"number"` // of its order
	Signers uint8         `json:"signers"`
	Final   bool          `json:"final"`
}

type gatewayReport struct {
	ID       hexbytes.Hash   `json:"id"`
	Endpoint string          `json:"endpoint"`
	Payout   toncell.Address `json:"payout"`
}

type checkpointReport struct {
	Origin hexbytes.Hash `json:"origin_sha256"`
	Size   uint64        `json:"size"`
	Root   hexbytes.Hash `json:"root"`
	At     time.Time     `json:"at"`
}

type bondReport struct {
	KeyID     hexbytes.Hash   `json:"key_id"`
	Owner     toncell.Address `json:"owner"`
	Amount    coin.Nano       `json:"nanoton"`
	Unbonding coin.Nano       `json:"unbonding_nanoton"`
	UnlockAt  *time.Time      `json:"unlock_at,omitempty"`
}

type verifierReport struct {
	KeyID  hexbytes.Hash `json:"key_id"`
	Public hexbytes.Hash `json:"ed25519"`
	From   time.Time     `json:"from"`
	Until  time.Time     `json:"until"`
	Listed bool          `json:"listed"`
	Earned coin.Nano     `json:"earned_nanoton"`
}

type manifestReport struct {
	SHA256     hexbytes.Hash          `json:"sha256"`
	State      registry.ManifestState `json:"state"`
	GraceUntil *time.Time             `json:"grace_until,omitempty"`
}

type modelReport struct {
	Root     hexbytes.Hash `json:"root"`
	NameHash hexbytes.Hash `json:"name_sha256"`
	Active   bool          `json:"active"`
}

func newRegistryReport(addr toncell.Address, s *registry.State, st *chain.State) *registryReport {
	r := &registryReport{
		Address: addr, Block: st.Master.SeqNo, Time: time.Unix(int64(st.Utime), 0).UTC(), GlobalID: st.GlobalID,
		Version: s.Version, Paused: s.Paused, Devnet: s.Devnet, Threshold: s.Threshold, FeeCapBps: s.FeeCapBps,
		FreshnessSeconds: int64(s.Freshness / time.Second), MinCloseDelay: int64(s.MinCloseDelay / time.Second),
		VerifierFee: coin.Nano(s.VerifierFee),
		MinBond:     coin.Nano(s.MinBond), MinWorkerStake: coin.Nano(s.MinWorkerStake), UnbondDelay: int64(s.UnbondDelay / time.Second),
		NextOrder: s.NextOrder, Owed: coin.Nano(s.Owed), Slashed: coin.Nano(s.Slashed), Balance: coin.Nano(st.Balance.Uint64()),
		Owners:   ownersReport{map[string]hexbytes.Hash{}, s.Owners.Threshold, s.Owners.Veto, s.Owners.Final, int64(s.Owners.Delay / time.Second)},
		Policies: []hexbytes.Hash{}, Gateways: []gatewayReport{}, Logs: []checkpointReport{}, Bonds: []bondReport{}, Pending: []pendingReport{}, Waiting: []waitingReport{},
		TrustClasses: []string{}, Verifiers: []verifierReport{}, Manifests: []manifestReport{}, Models: []modelReport{},
	}
	for _, c := range verdictcell.Classes(s.TrustClasses) {
		r.TrustClasses = append(r.TrustClasses, c.String())
	}
	for id, v := range s.Verifiers {
		r.Verifiers = append(r.Verifiers, verifierReport{id, hexbytes.Hash(v.Public), v.From, v.Until, v.Listed, coin.Nano(v.Earned)})
	}
	for hash, m := range s.Manifests {
		row := manifestReport{SHA256: hash, State: m.State}
		if !m.GraceUntil.IsZero() {
			row.GraceUntil = &m.GraceUntil
		}
		r.Manifests = append(r.Manifests, row)
	}
	for id, w := range s.Waiting {
		r.Waiting = append(r.Waiting, waitingReport{id.Kind, id.Hash, w.Entry.String(), w.From, w.Order, w.Signers, s.Owners.Final > 0 && w.Signers >= s.Owners.Final})
	}
	for root, m := range s.Models {
		r.Models = append(r.Models, modelReport{root, m.NameHash, m.Active})
	}
	for i, k := range s.Owners.Keys {
		r.Owners.Keys[strconv.Itoa(int(i))] = hexbytes.Hash(k)
	}
	for hash := range s.Policies {
		r.Policies = append(r.Policies, hash)
	}
	for id, g := range s.Gateways {
		r.Gateways = append(r.Gateways, gatewayReport{id, g.Endpoint, g.Payout})
	}
	for origin, c := range s.Checkpoints {
		r.Logs = append(r.Logs, checkpointReport{origin, c.Size, c.Root, c.At})
	}
	for id, b := range s.Bonds {
		row := bondReport{KeyID: id, Owner: b.Owner, Amount: coin.Nano(b.Amount), Unbonding: coin.Nano(b.Unbonding)}
		if b.Unbonding > 0 {
			row.UnlockAt = &b.UnlockAt
		}
		r.Bonds = append(r.Bonds, row)
	}
	for number, p := range s.Pending {
		row := pendingReport{Number: number, SHA256: hexbytes.Hash(p.Order.Hash()), ReadyAt: p.ReadyAt, Until: p.ReadyAt.Add(registry.ExecuteWindow),
			Signers: p.Signers, Final: s.Owners.Final > 0 && p.Signers >= s.Owners.Final, Changes: []string{}}
		if o, err := registry.ReadOrder(p.Order); err == nil {
			row.Changes = changes(o)
		}
		r.Pending = append(r.Pending, row)
	}
	slices.SortFunc(r.Policies, func(a, b hexbytes.Hash) int { return slices.Compare(a[:], b[:]) })
	slices.SortFunc(r.Gateways, func(a, b gatewayReport) int { return slices.Compare(a.ID[:], b.ID[:]) })
	slices.SortFunc(r.Logs, func(a, b checkpointReport) int { return slices.Compare(a.Origin[:], b.Origin[:]) })
	slices.SortFunc(r.Bonds, func(a, b bondReport) int { return slices.Compare(a.KeyID[:], b.KeyID[:]) })
	slices.SortFunc(r.Pending, func(a, b pendingReport) int { return cmp.Compare(a.Number, b.Number) })
	slices.SortFunc(r.Waiting, func(a, b waitingReport) int { return cmp.Compare(a.Number, b.Number) })
	slices.SortFunc(r.Verifiers, func(a, b verifierReport) int { return slices.Compare(a.KeyID[:], b.KeyID[:]) })
	slices.SortFunc(r.Manifests, func(a, b manifestReport) int { return slices.Compare(a.SHA256[:], b.SHA256[:]) })
	slices.SortFunc(r.Models, func(a, b modelReport) int { return slices.Compare(a.Root[:], b.Root[:]) })
	return r
}

func (r *registryReport) print(p *printer) {
	status := "active"
	if r.Paused {
		status = "paused: nothing is released"
	}
	p.f("registry %s, %s", r.Address, status)
	p.f("proven at block %d, %s, network id %d", r.Block, r.Time.Format(time.RFC3339), r.GlobalID)
	p.f("version %d, balance %s TON, of which %s are the verifiers'", r.Version, r.Balance, r.Owed)
	if r.Slashed > 0 {
		p.f("slashed workers' stakes have brought %s TON", r.Slashed)
	}
	p.f("owners: %d of %d sign an order; %d veto one that waits%s; time lock %s", r.Owners.Threshold, len(r.Owners.Keys), r.Owners.Veto,
		finalText(r.Owners.Final), time.Duration(r.Owners.DelaySeconds)*time.Second)
	for _, i := range slices.Sorted(maps.Keys(r.Owners.Keys)) {
		p.f("  %s: key %s", i, r.Owners.Keys[i])
	}
	classes := strings.Join(r.TrustClasses, ", ")
	if r.Devnet {
		classes += " (development registry: vtpm shows measured boot, not confidentiality)"
	}
	p.f("trust classes: %s", classes)
	p.f("gateway fee at most %d basis points, verifiers' fee %s TON a verdict, signatures for at most %d s", r.FeeCapBps, r.VerifierFee, r.FreshnessSeconds)
	p.f("a verifier's bond at least %s TON, back after %s; a worker's stake at least %s TON", r.MinBond, time.Duration(r.UnbondDelay)*time.Second, r.MinWorkerStake)
	p.f("verifiers, %d needed:", r.Threshold)
	for _, v := range r.Verifiers {
		state := "until " + v.Until.Format(time.RFC3339)
		if !v.Listed {
			state = "removed"
		} else if v.Until.Equal(registry.Forever) {
			state = "without an end"
		}
		p.f("  key %s, id %s, %s, earned %s TON", v.Public, v.KeyID, state, v.Earned)
	}
	p.f("manifests:")
	for _, m := range r.Manifests {
		until := ""
		if m.GraceUntil != nil {
			until = " until " + m.GraceUntil.Format(time.RFC3339)
		}
		p.f("  %s %s%s", m.SHA256, m.State, until)
	}
	p.f("models:")
	for _, m := range r.Models {
		state := "active"
		if !m.Active {
			state = "retired"
		}
		p.f("  %s %s, name's SHA-256 %s", m.Root, state, m.NameHash)
	}
	p.f("policies:")
	for _, h := range r.Policies {
		p.f("  %s", h)
	}
	r.printRest(p)
}

// printRest prints what few registries have.
func (r *registryReport) printRest(p *printer) {
	for _, g := range r.Gateways {
		p.f("gateway %s, paid at %s", g.Endpoint, g.Payout)
	}
	for _, l := range r.Logs {
		p.f("log with origin's SHA-256 %s: size %d, root %s, of %s", l.Origin, l.Size, l.Root, l.At.Format(time.RFC3339))
	}
	for _, b := range r.Bonds {
		out := ""
		if b.UnlockAt != nil {
			out = fmt.Sprintf(", %s TON on its way out until %s", b.Unbonding, b.UnlockAt.Format(time.RFC3339))
		}
		p.f("bond of key id %s: %s TON, owner %s%s", b.KeyID, b.Amount, b.Owner, out)
	}
	r.printWaiting(p)
	for _, o := range r.Pending {
		final := ""
		if o.Final {
			final = ", cannot be vetoed"
		}
		p.f("order %d waits until %s, to be executed before %s; %d signatures%s:", o.Number, o.ReadyAt.Format(time.RFC3339), o.Until.Format(time.RFC3339), o.Signers, final)
		for _, c := range o.Changes {
			p.f("  %s", c)
		}
	}
}

func (r *registryReport) printWaiting(p *printer) {
	for _, w := range r.Waiting {
		final := ""
		if w.Final {
			final = ", cannot be vetoed"
		}
		p.f("order %d is in force from %s on, by itself; %d signatures%s:", w.Number, w.From.Format(time.RFC3339), w.Signers, final)
		p.f("  %s", w.Change)
	}
}

func finalText(n uint8) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" with fewer than %d signatures", n)
}

// changes says what an order does, an entry a line.
func changes(o *registry.Order) []string {
	out := make([]string, len(o.Entries))
	for i, e := range o.Entries {
		out[i] = e.String()
	}
	return out
}

func newRegistryShowCmd() *cobra.Command {
	f := &tonFlags{}
	var proofOut string
	cmd := &cobra.Command{
		Use:   "show ADDRESS --config FILE",
		Short: "show a registry's proven state",
		Long: `Reads the registry's account from the network, proves it against the config's
init block, checks that its code is this version's registry, and shows its data.

Exit codes: 0 shown; 2 not a registry, or a proof is wrong; 3 no lite-server
answers.`,
		Example: `  cocoon registry show 0:4bd1… --config build/devnet/global.config.json --json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				s, st, err := showAccount(ctx, l, addr, proofOut, ledger.RegistryOf)
				if err != nil {
					return err
				}
				r := newRegistryReport(addr, s, st)
				if f.json {
					return writeJSON(cmd.OutOrStdout(), r)
				}
				p := &printer{w: cmd.OutOrStdout()}
				r.print(p)
				return p.err
			})
		},
	}
	f.register(cmd, false)
	cmd.Flags().StringVar(&proofOut, "proof-out", "", "write the account's proof to this `file`, for offline checks")
	return cmd
}

// showAccount proves an account, writes the proof where one is wanted, and
// decodes it.
func showAccount[T any](ctx context.Context, l *ledger.Ledger, addr toncell.Address, proofOut string, decode func(*chain.State) (T, error)) (T, *chain.State, error) {
	var zero T
	st, err := provenAccount(ctx, l, addr, proofOut)
	if err != nil {
		return zero, nil, err
	}
	v, err := decode(st)
	return v, st, err
}

func provenAccount(ctx context.Context, l *ledger.Ledger, addr toncell.Address, proofOut string) (*chain.State, error) {
	if proofOut == "" {
		return l.Chain().Account(ctx, addr.Addr())
	}
	doc, st, err := l.Chain().ExportAccountProof(ctx, addr.Addr())
	if err != nil {
		return nil, err
	}
	return st, os.WriteFile(proofOut, doc, 0o644)
}
