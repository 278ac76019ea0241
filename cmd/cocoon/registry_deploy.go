package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/coin"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/internal/hexbytes"
)

// hashList is a flag of 32 bytes of hex that may be repeated.
type hashList []hexbytes.Hash

// String returns the value as the flag takes it.
func (h *hashList) String() string {
	var out []string
	for _, v := range *h {
		out = append(out, v.String())
	}
	return strings.Join(out, ",")
}

// Set reads what stands behind the flag.
func (h *hashList) Set(s string) error {
	v, err := hexbytes.ParseHash(s)
	if err != nil {
		return err
	}
	*h = append(*h, v)
	return nil
}

// Type names the form of the value in the help.
func (h *hashList) Type() string { return "hex" }

// deployFlags are the first data of a registry.
type deployFlags struct {
	tonFlags
	owners                              hashList
	ownerThreshold, veto, final         uint8
	delay                               time.Duration
	verifiers, manifests, models, rules hashList
	threshold                           uint8
	modelName                           string
	verifierFee, minBond, fund          coinFlag
	production                          bool
}

func newRegistryDeployCmd() *cobra.Command {
	f := &deployFlags{fund: coinFlag{coin.TON}}
	cmd := &cobra.Command{
		Use:   "deploy --config FILE --key FILE --owner KEY… --verifier KEY --manifest HASH --model ROOT --policy HASH",
		Short: "deploy a registry with its first entries",
		Long: `Deploys a registry. Its owners are Ed25519 keys; without --owner the wallet's
own key is the only one. Later changes are orders of the owners (registry
propose). By default it is a development registry, which also accepts the vtpm
trust class: measured boot, not confidentiality. That cannot be changed later.
Without --policy it accepts no verdict until an order lists one.

Exit codes: 0 deployed; 2 refused, or the wallet is empty; 3 no lite-server
answers.`,
		Example: `  cocoon registry deploy --config global.config.json --key wallet.key \
    --owner 8a2f… --owner 10c4… --owner 77e0… --owner-threshold 2 --delay 48h \
    --verifier 3b6a… --manifest 9f2c… --model 51d0… --policy 0e1b…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, l *ledger.Ledger) error { return f.deploy(ctx, cmd, l) })
		},
	}
	f.register(cmd, true)
	fs := cmd.Flags()
	fs.Var(&f.owners, "owner", "an owner's raw Ed25519 public `key`, hex; may be repeated; default the wallet's key")
	fs.Uint8Var(&f.ownerThreshold, "owner-threshold", 1, "`number` of owners that must sign an order")
	fs.Uint8Var(&f.veto, "veto-threshold", 1, "`number` of owners that can veto an order that waits")
	fs.Uint8Var(&f.final, "final-threshold", 0, "`number` of signatures from which an order cannot be vetoed; 0: every order can")
	fs.DurationVar(&f.delay, "delay", registry.DefaultDelay, "time lock of orders that widen trust, at most 720h")
	fs.Var(&f.verifiers, "verifier", "a verifier's raw Ed25519 public `key`, hex; may be repeated")
	fs.Uint8Var(&f.threshold, "threshold", 1, "`number` of verifiers that a verdict needs")
	fs.Var(&f.manifests, "manifest", "`SHA-256` of a manifest's DSSE payload, hex; may be repeated")
	fs.Var(&f.models, "model", "verity `root` of a model, hex; may be repeated")
	fs.StringVar(&f.modelName, "model-name", "", "the models' `name`, kept as its SHA-256")
	fs.Var(&f.rules, "policy", "`SHA-256` of a policy under which verdicts count, hex; may be repeated")
	fs.Var(&f.verifierFee, "verifier-fee", "fee of a good verdict for the verifiers who signed it, at most 1")
	fs.Var(&f.minBond, "min-bond", "bond without which no further verifier is listed")
	fs.Var(&f.fund, "fund", "leave this much with the registry for its storage")
	fs.BoolVar(&f.production, "production", false, "never accept the vtpm trust class")
	for _, name := range []string{"verifier", "manifest", "model"} {
		need(cmd, name)
	}
	return cmd
}

func (f *deployFlags) deploy(ctx context.Context, cmd *cobra.Command, l *ledger.Ledger) error {
	w, err := f.wallet(ctx, l)
	if err != nil {
		return err
	}
	head, err := w.State(ctx)
	if err != nil {
		return err
	}
	keys := make([]ed25519.PublicKey, 0, len(f.owners))
	for _, k := range f.owners {
		keys = append(keys, k[:])
	}
	if len(keys) == 0 {
		own, err := seedFile(f.key)
		if err != nil {
			return err
		}
		keys = append(keys, own.Public().(ed25519.PublicKey))
	}
	owners := registry.NewOwners(f.ownerThreshold, keys...)
	owners.Veto, owners.Final, owners.Delay = f.veto, f.final, f.delay
	if err := owners.Check(); err != nil {
		return err
	}
	s := registry.New(owners, !f.production)
	now := time.Unix(int64(head.Utime), 0).UTC()
	s.Threshold, s.VerifierFee, s.MinBond = f.threshold, uint64(f.verifierFee.Nano), uint64(f.minBond.Nano)
	for _, k := range f.verifiers {
		s.AddVerifier(k[:], now)
	}
	for _, h := range f.manifests {
		s.Manifests[h] = registry.Manifest{State: registry.Active}
	}
	for _, h := range f.models {
		s.Models[h] = registry.Model{NameHash: sha256Of(f.modelName), Active: true}
	}
	for _, h := range f.rules {
		s.Policies[h] = now
	}
	addr, err := l.DeployRegistry(ctx, w, s, f.fund.Nano)
	if err != nil {
		return err
	}
	if f.json {
		return writeJSON(cmd.OutOrStdout(), map[string]string{"address": addr.String(), "verifier_key_id": hex.EncodeToString(s.VerifierIDs()[0][:])})
	}
	p := &printer{w: cmd.OutOrStdout()}
	p.f("registry %s deployed, changed by %d of %d owners", addr, owners.Threshold, len(keys))
	return p.err
}
