package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"os"
	"slices"
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

// newRegistryCmd shows and deploys registries.
func newRegistryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "the on-chain list of verifiers, manifests and models",
	}
	cmd.AddCommand(newRegistryShowCmd(), newRegistryDeployCmd())
	return cmd
}

// registryReport is what "registry show --json" writes.
type registryReport struct {
	Address           toncell.Address  `json:"address"`
	Block             uint32           `json:"block"` // masterchain seqno that proves it
	Time              time.Time        `json:"time"`
	GlobalID          int32            `json:"global_id"`
	Version           uint32           `json:"version"`
	Paused            bool             `json:"paused"`
	Devnet            bool             `json:"devnet"`
	TrustClasses      []string         `json:"trust_classes"`
	Threshold         uint8            `json:"threshold"`
	Verifiers         []verifierReport `json:"verifiers"`
	Manifests         []manifestReport `json:"manifests"`
	Models            []modelReport    `json:"models"`
	FeeCapBps         uint16           `json:"fee_cap_bps"`
	FreshnessSeconds  int64            `json:"freshness_seconds"`
	MinCloseDelay     int64            `json:"min_close_delay_seconds"`
	MaxPendingTimeout int64            `json:"max_pending_timeout_seconds"`
	Owner             toncell.Address  `json:"owner"`
}

type verifierReport struct {
	KeyID  hexbytes.Hash `json:"key_id"`
	Public hexbytes.Hash `json:"ed25519"`
	Since  time.Time     `json:"since"`
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
		MaxPendingTimeout: int64(s.MaxPendingTimeout / time.Second), Owner: s.Owner,
		TrustClasses: []string{}, Verifiers: []verifierReport{}, Manifests: []manifestReport{}, Models: []modelReport{},
	}
	for _, c := range verdictcell.Classes(s.TrustClasses) {
		r.TrustClasses = append(r.TrustClasses, c.String())
	}
	for id, v := range s.Verifiers {
		r.Verifiers = append(r.Verifiers, verifierReport{id, hexbytes.Hash(v.Public), v.Since})
	}
	for hash, m := range s.Manifests {
		row := manifestReport{SHA256: hash, State: m.State}
		if !m.GraceUntil.IsZero() {
			row.GraceUntil = &m.GraceUntil
		}
		r.Manifests = append(r.Manifests, row)
	}
	for root, m := range s.Models {
		r.Models = append(r.Models, modelReport{root, m.NameHash, m.Active})
	}
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
	p.f("version %d, owner %s", r.Version, r.Owner)
	classes := strings.Join(r.TrustClasses, ", ")
	if r.Devnet {
		classes += " (development registry: vtpm shows measured boot, not confidentiality)"
	}
	p.f("trust classes: %s", classes)
	p.f("gateway fee at most %d basis points, verdicts at most %d s old", r.FeeCapBps, r.FreshnessSeconds)
	p.f("verifiers, %d needed:", r.Threshold)
	for _, v := range r.Verifiers {
		p.f("  key %s, id %s, since %s", v.Public, v.KeyID, v.Since.Format(time.RFC3339))
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

func newRegistryDeployCmd() *cobra.Command {
	f := &tonFlags{}
	var verifier, manifest, model hashFlag
	var modelName string
	var production bool
	fund := coinFlag{coin.TON}
	cmd := &cobra.Command{
		Use:   "deploy --config FILE --key FILE --verifier KEY --manifest HASH --model ROOT",
		Short: "deploy a registry that the wallet owns",
		Long: `Deploys a registry with one verifier key (k = 1), one manifest and one model.
By default it is a development registry, which also accepts the vtpm trust
class: measured boot, not confidentiality. That cannot be changed later.

Exit codes: 0 deployed; 2 refused, or the wallet is empty; 3 no lite-server
answers.`,
		Example: `  cocoon registry deploy --config global.config.json --key owner.key \
    --verifier 3b6a… --manifest 9f2c… --model 51d0…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error {
				w, err := f.wallet(ctx, l)
				if err != nil {
					return err
				}
				owner, err := toncell.FromAddr(w.Address())
				if err != nil {
					return err
				}
				head, err := w.State(ctx)
				if err != nil {
					return err
				}
				s := registry.New(owner, !production)
				s.AddVerifier(ed25519.PublicKey(verifier.Hash[:]), time.Unix(int64(head.Utime), 0))
				s.Manifests[manifest.Hash] = registry.Manifest{State: registry.Active}
				s.Models[model.Hash] = registry.Model{NameHash: sha256Of(modelName), Active: true}
				addr, err := l.DeployRegistry(ctx, w, s, fund.Nano)
				if err != nil {
					return err
				}
				if f.json {
					return writeJSON(cmd.OutOrStdout(), map[string]string{"address": addr.String(), "owner": owner.String(),
						"verifier_key_id": hex.EncodeToString(s.VerifierIDs()[0][:])})
				}
				p := &printer{w: cmd.OutOrStdout()}
				p.f("registry %s deployed, owner %s", addr, owner)
				return p.err
			})
		},
	}
	f.register(cmd, true)
	fs := cmd.Flags()
	fs.Var(&verifier, "verifier", "the verifier's raw Ed25519 public `key`, hex")
	fs.Var(&manifest, "manifest", "`SHA-256` of the manifest's DSSE payload, hex")
	fs.Var(&model, "model", "verity `root` of the model, hex")
	fs.StringVar(&modelName, "model-name", "", "the model's `name`, kept as its SHA-256")
	fs.Var(&fund, "fund", "leave this much with the registry for its storage")
	fs.BoolVar(&production, "production", false, "never accept the vtpm trust class")
	for _, name := range []string{"verifier", "manifest", "model"} {
		need(cmd, name)
	}
	return cmd
}
