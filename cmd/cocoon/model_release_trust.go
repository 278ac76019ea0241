package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cocoon/client"
	"cocoon/internal/fault"
	"cocoon/internal/registrysource"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu/services"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/snp/kds"
)

// ownerTrustFlags say what a model owner holds enclaves against, and where what
// evidence does not bring comes from.
type ownerTrustFlags struct {
	policyFile string
	manifests  []string
	verifiers  []string
	ton        string
	pcs        string
	kds        string
	rim        string
	ocsp       string
	cacheDir   string
	clock      func() time.Time
}

func (f *ownerTrustFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.policyFile, "policy", "", "policy `file`: to whom keys are released")
	fs.StringArrayVar(&f.manifests, "manifest", nil, "manifest `file`, a DSSE envelope; may be repeated")
	fs.StringArrayVar(&f.verifiers, "manifests-from", nil, "verifier, `URL`, to fetch the manifests from that the policy's registry lists; may be repeated")
	fs.StringVar(&f.ton, "ton-config", "", "the network's global.config.json `file`; needed where the policy names a registry")
	fs.StringVar(&f.pcs, "pcs", "", "fetch Intel's collateral from the PCS or PCCS at this base `URL` (default "+pcs.IntelPCS+")")
	fs.StringVar(&f.kds, "kds", "", "fetch AMD's certificates from the KDS at this base `URL` (default "+kds.AMD+")")
	fs.StringVar(&f.rim, "rim", "", "fetch NVIDIA's reference manifests from the service at this base `URL` (default NVIDIA's)")
	fs.StringVar(&f.ocsp, "ocsp", "", "ask the OCSP service at this `URL` about NVIDIA's certificates (default NVIDIA's, or --rim's)")
	fs.StringVar(&f.cacheDir, "cache-dir", "", "keep what is fetched in this `directory` (default: cocoon/owner in the user's cache directory)")
	need(cmd, "policy")
	cmd.MarkFlagsOneRequired("manifest", "manifests-from")
}

// ownerTrust appraises enclaves as long as a service runs: registry and the
// manifests that it lists are those of the moment.
type ownerTrust struct {
	trust   client.Trust
	source  *registrysource.Source     // nil without a registry
	listed  *registrysource.Collection // nil without a verifier that has manifests
	closers []func() error
}

func (f *ownerTrustFlags) open(ctx context.Context, log *slog.Logger) (_ *ownerTrust, err error) {
	loaded, err := loadTrust(f.policyFile, f.manifests)
	if err != nil {
		return nil, err
	}
	o := &ownerTrust{trust: *loaded}
	o.trust.Clock = f.clock
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	reg := o.trust.Policy.Manifests.Registry
	switch {
	case reg == nil && (f.ton != "" || len(f.verifiers) > 0):
		return nil, usage("--ton-config and --manifests-from go together with a policy that names a registry (manifests.registry)")
	case reg != nil && f.ton == "":
		return nil, usage("the policy names a registry: give the network's global.config.json with --ton-config")
	case reg != nil:
		if o.source, err = registrysource.Open(f.ton, reg, nil); err != nil {
			return nil, err
		}
		o.closers = append(o.closers, o.source.Close)
		o.trust.Registry = o.source.State
	}
	if len(f.verifiers) > 0 {
		from, err := fetchers(f.verifiers)
		if err != nil {
			return nil, err
		}
		o.listed = registrysource.NewCollection(o.trust.Policy, o.trust.Manifests, from)
	}
	if err := f.sources(o, log); err != nil {
		return nil, err
	}
	// A policy or manifest that accepts nobody is better found now.
	if manifests, err := o.manifests(ctx); err != nil {
		return nil, err
	} else if ms, err := appraise.OpenManifests(o.trust.Policy, manifests); err != nil && (len(ms) == 0 || len(f.verifiers) == 0) {
		return nil, manifestFault(err)
	}
	return o, nil
}

// sources has collateral fetched that evidence does not bring.
func (f *ownerTrustFlags) sources(o *ownerTrust, log *slog.Logger) error {
	dir := f.cacheDir
	if dir == "" {
		// Without a home directory there is no cache either.
		if base, err := os.UserCacheDir(); err == nil {
			dir = filepath.Join(base, "cocoon", "owner")
		}
	}
	under := func(name string) string {
		if dir == "" {
			return ""
		}
		return filepath.Join(dir, name)
	}
	intel, err := pcs.New(pcs.Options{BaseURL: f.pcs, CacheDir: under("pcs"), Timeout: tee.DefaultFetchTimeout, Attempts: 2, RetryBase: time.Second, Logger: log})
	if err != nil {
		return err
	}
	o.closers = append(o.closers, func() error { intel.Close(); return nil })
	amd, err := kds.New(kds.Options{BaseURL: f.kds, CacheDir: under("kds"), Timeout: tee.DefaultFetchTimeout, Attempts: 2, RetryBase: time.Second, Logger: log})
	if err != nil {
		return err
	}
	nvidia, err := services.New(services.Options{RIMURL: f.rim, OCSPURL: f.ocsp, CacheDir: under("nvidia"), Logger: log})
	if err != nil {
		return err
	}
	o.closers = append(o.closers, func() error { nvidia.Close(); return nil })
	o.trust.CPUs = tee.CPUs(tee.Options{Sources: tee.Sources{PCS: intel, KDS: amd}})
	o.trust.GPUs = gpus.New(gpus.Options{Source: &gpus.Services{Client: nvidia, Logger: log}})
	return nil
}

func (o *ownerTrust) policy() *policy.Policy { return o.trust.Policy }

// Fresh appraises evidence as of now.
func (o *ownerTrust) Fresh(ctx context.Context, ev *evidence.Evidence, hash, challenge digest.SHA256) (*result.Result, error) {
	t := o.trust
	var err error
	if t.Manifests, err = o.manifests(ctx); err != nil {
		return nil, err
	}
	return t.Fresh(ctx, ev, hash, challenge)
}

// manifests returns the manifests that files gave, and those that the registry
// lists now. Nothing is locked meanwhile: a verifier or a ledger that answers
// slowly holds up who waits for it, and for a stated time.
func (o *ownerTrust) manifests(ctx context.Context) ([]manifest.Published, error) {
	if o.listed == nil {
		return o.trust.Manifests, nil
	}
	state, err := o.source.State(ctx)
	if err != nil {
		return nil, err
	}
	out, err := o.listed.Listed(ctx, state)
	switch {
	case len(out) > 0:
		return out, nil // what could not be had is as good as not listed
	case err != nil:
		return nil, err
	}
	return nil, fault.New(fault.ExitNetwork, "manifest.unavailable", "give a manifest's file, or wait until the registry lists one", "fetching manifests: there is none")
}

// Close ends the connections.
func (o *ownerTrust) Close() error {
	var errs []error
	for _, c := range o.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}
