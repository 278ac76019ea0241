package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/internal/registrysource"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/client"
	"cocoon/verifier/dcap"
	"cocoon/verifier/journal"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/services"
	"cocoon/verifier/policy"
	"cocoon/verifier/server"
	"cocoon/verifier/snp"
	"cocoon/verifier/tpm"
)

// fetchTimeout bounds the fetching of manifests at start.
const fetchTimeout = 2 * time.Minute

// server loads everything that the config names and makes the service.
func (c *Config) server(log *slog.Logger, cache *services.Client, verdicts *journal.Journal) (*server.Server, error) {
	p, err := c.readPolicy()
	if err != nil {
		return nil, err
	}
	var envelopes [][]byte
	for _, f := range c.Manifests {
		e, err := c.readFile(f, manifest.MaxEnvelope)
		if err != nil {
			return nil, fault.New(fault.ExitInternal, "verifier.manifest", "check \"manifests\" in the config", "reading manifest: %w", err)
		}
		envelopes = append(envelopes, e)
	}
	registry, err := c.registry(p, log)
	if err != nil {
		return nil, err
	}
	if envelopes, err = c.listed(registry, envelopes); err != nil {
		return nil, err
	}
	manifests, err := appraise.OpenManifests(p, envelopes)
	if err != nil {
		return nil, fault.New(fault.ExitPolicy, "verifier.manifest", "name the manifest's hash or its signers in the policy", "%w", err)
	}
	key, err := keyfile.ReadEd25519(c.path(c.SigningKey))
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.signing_key", "make keys with cocoon-verifier keygen", "%w", err)
	}
	o := server.Options{
		Trust: server.Trust{Policy: p, Manifests: manifests, GPUs: gpuAppraiser(cache, log), Signer: key},
		Build: build(), Log: log, ArchiveDir: c.path(c.Archive),
		PerSecond: c.Limits.PerSecond, Burst: c.Limits.Burst, Concurrent: c.Limits.Concurrent,
		ChallengeTTL: time.Duration(c.Limits.ChallengeSeconds) * time.Second, ArchiveBytes: c.Limits.ArchiveBytes,
	}
	if verdicts != nil {
		o.Journal = server.NewDurable(verdicts, time.Now)
	}
	// Collateral for quotes comes with the evidence.
	o.CPUs = tee.CPUs(tee.Options{DCAP: dcap.Options{Cache: dcap.NewCache(dcap.CacheOptions{})}, SNP: snp.Options{Cache: snp.NewCache(snp.CacheOptions{})}})
	if c.AKCA != nil {
		if err := c.enroller(p, &o); err != nil {
			return nil, err
		}
	}
	if registry != nil {
		o.Registry = registry.State
	}
	for _, m := range manifests {
		log.Info("manifest accepted", "sha256", m.SHA256.String(), "image", m.Manifest.Image.Name, "version", m.Manifest.Image.Version)
	}
	if p.Environment == policy.Development {
		log.Warn("development policy: no verdict of it says that a machine is confidential", "policy", p.Name, "trust_classes", p.TrustClasses)
	}
	return server.New(o)
}

func (c *Config) readPolicy() (*policy.Policy, error) {
	b, err := c.readFile(c.Policy, policy.MaxSize)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.policy", "check \"policy\" in the config", "reading policy: %w", err)
	}
	p, err := policy.Parse(b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "verifier.policy", "correct the policy document", "%w", err)
	}
	return p, nil
}

// registry opens the ledger, nil where the config names none.
func (c *Config) registry(p *policy.Policy, log *slog.Logger) (*registrysource.Source, error) {
	if c.Ledger == nil {
		return nil, nil
	}
	if p.Manifests.Registry == nil {
		return nil, fault.New(fault.ExitInternal, "verifier.ledger", "name the registry in the policy", "setting up ledger: the policy names no registry")
	}
	return registrysource.Open(c.path(c.Ledger.Config), p.Manifests.Registry, log)
}

// listed adds what the registry lists beside the files, from other verifiers.
// A manifest that none of them has is an error: this verifier would refuse
// workers that the registry accepts.
func (c *Config) listed(registry *registrysource.Source, envelopes [][]byte) ([][]byte, error) {
	if len(c.Sources) == 0 {
		return envelopes, nil
	}
	var from []registrysource.Fetcher
	for _, u := range c.Sources {
		f, err := client.New(client.Options{BaseURL: u})
		if err != nil {
			return nil, fault.New(fault.ExitInternal, "verifier.config", "correct \"manifest_sources\" in the config", "%w", err)
		}
		from = append(from, f)
	}
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	state, err := registry.State(ctx)
	if err != nil {
		return nil, err
	}
	return registrysource.Manifests(ctx, state, envelopes, from)
}

// gpuAppraiser appraises GPUs with what their evidence brings along and, where
// there is a cache of NVIDIA's services, with what that has.
func gpuAppraiser(cache *services.Client, log *slog.Logger) appraise.GPU {
	o := gpus.Options{Cache: nvgpu.NewCache(nvgpu.CacheOptions{})}
	if cache != nil {
		o.Source = &gpus.Services{Client: cache, Logger: log}
	}
	return gpus.New(o)
}

// handler is the service, with the cache beside it where one is configured.
// end ends the cache's requests and closes the journal.
func (c *Config) handler(log *slog.Logger) (h http.Handler, end func() error, err error) {
	var closers []func() error
	closeAll := func() error {
		var errs []error
		for _, f := range slices.Backward(closers) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	if err := c.makeKeys(log); err != nil {
		return nil, nil, err
	}
	verdicts, err := c.journal(log)
	if err != nil {
		return nil, nil, err
	}
	if verdicts != nil {
		closers = append(closers, verdicts.Close)
	}
	var cache *services.Client
	if c.GPUCache != nil {
		if cache, err = c.GPUCache.Open(c.dir, log); err != nil {
			return nil, nil, err
		}
		closers = append(closers, func() error { cache.Close(); return nil })
	}
	srv, err := c.server(log, cache, verdicts)
	if err != nil {
		return nil, nil, err
	}
	if cache == nil {
		return srv, closeAll, nil
	}
	mux := http.NewServeMux()
	mux.Handle("/", srv)
	rims := cache.Handler()
	mux.Handle("/v1/rim/", rims)
	mux.Handle("/ocsp", rims)
	return mux, closeAll, nil
}

// journal opens the log of verdicts, nil where the config names none.
func (c *Config) journal(log *slog.Logger) (*journal.Journal, error) {
	if c.Journal == nil {
		return nil, nil
	}
	key, err := keyfile.ReadEd25519(c.path(c.Journal.Key))
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.journal", "make keys with cocoon-verifier keygen", "opening journal: %w", err)
	}
	j, err := journal.Open(journal.Options{Dir: c.path(c.Journal.Dir), Origin: c.Journal.Origin, Key: key, Log: log})
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.journal", "run cocoon-verifier fsck on it, and see that no other verifier uses it", "opening journal: %w", err)
	}
	return j, nil
}

func (c *Config) enroller(p *policy.Policy, o *server.Options) error {
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.ak_ca", "make keys with cocoon-verifier keygen, and name EK roots in the policy", "setting up enrolment: %w", err)
	}
	cert, err := keyfile.ReadCert(c.path(c.AKCA.Certificate))
	if err != nil {
		return bad(err)
	}
	key, err := keyfile.Read(c.path(c.AKCA.Key))
	if err != nil {
		return bad(err)
	}
	if p.TPM == nil {
		return bad(fmt.Errorf("the policy has no tpm section"))
	}
	roots, err := tpm.ParseRoots(p.TPM.AllEKRoots())
	if err != nil {
		return bad(err)
	}
	ca, err := tpm.LoadCA(cert, key)
	if err != nil {
		return bad(err)
	}
	o.AKRoots = [][]byte{cert.Raw}
	o.Enroller, err = tpm.NewEnroller(tpm.EnrollerOptions{EKRoots: roots, CA: ca, Lifetime: time.Duration(c.AKCA.LifetimeSeconds) * time.Second})
	if err != nil {
		return bad(err)
	}
	return nil
}

// build names this binary in verdicts.
func build() string {
	v := "unknown"
	if i, ok := debug.ReadBuildInfo(); ok {
		v = i.Main.Version
		for _, s := range i.Settings {
			if s.Key == "vcs.revision" {
				v = s.Value
			}
		}
	}
	return "cocoon-verifier " + v
}
