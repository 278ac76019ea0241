package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/internal/keyfile"
	"cocoon/internal/manifestfile"
	"cocoon/internal/registrysource"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/client"
	"cocoon/verifier/dcap"
	"cocoon/verifier/policy"
	"cocoon/verifier/server"
	"cocoon/verifier/server/shared"
	"cocoon/verifier/snp"
	"cocoon/verifier/tpm"
)

// fetchTimeout bounds the fetching of manifests.
const fetchTimeout = 2 * time.Minute

// loaded is what a reload replaces as a whole.
type loaded struct {
	trust      server.Trust
	cert       *tls.Certificate // nil: no TLS
	registry   *registrysource.Source
	registryID [32]byte                   // of what it was opened from
	listed     *registrysource.Collection // nil without manifest_sources
	enrollerID [32]byte                   // of what the enroller was made from
	made       []io.Closer
}

// load reads what the config names. From the one before it takes over what
// would be the same: connections to the ledger, and enrolments under way.
func (s *service) load(c *Config, before *loaded) (l *loaded, err error) {
	l = &loaded{}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(l.made))
			l = nil
		}
	}()
	p, err := c.readPolicy()
	if err != nil {
		return l, err
	}
	if err := c.checkJournal(p); err != nil {
		return l, err
	}
	if err := s.openRegistry(c, p, l, before); err != nil {
		return l, err
	}
	manifests, err := c.manifests(p, l)
	if err != nil {
		return l, err
	}
	keys, opened, err := s.keys.open(c)
	l.made = append(l.made, opened...)
	if err != nil {
		return l, err
	}
	l.trust = server.Trust{Policy: p, Manifests: manifests, Signers: keys}
	if l.registry != nil {
		l.trust.Registry = l.registry.State
	}
	cpus := tee.Options{DCAP: dcap.Options{Cache: s.caches.dcap}, SNP: snp.Options{Cache: s.caches.snp}}
	devices := gpus.Options{Cache: s.caches.nvgpu}
	if s.cache != nil {
		devices.Source = &gpus.Services{Client: s.cache, Logger: s.log}
	}
	if err := c.testRoots(p, &cpus, &devices); err != nil {
		return l, err
	}
	if s.cache != nil && !s.cache.Trusts(devices.RIMRoots) {
		return l, fault.New(fault.ExitInternal, "verifier.test_roots", "restart the service", "reading test roots: those of RIM signers have changed, and gpu_cache keeps what the old ones vouch for")
	}
	if err := s.sources(c, &cpus, l); err != nil {
		return l, err
	}
	l.trust.CPUs, l.trust.GPUs = tee.CPUs(cpus), gpus.New(devices)
	if c.AKCA != nil {
		if err := s.enroller(c, p, l, before); err != nil {
			return l, err
		}
	}
	if c.TLS != nil {
		pair, err := tls.LoadX509KeyPair(c.path(c.TLS.Certificate), c.path(c.TLS.Key))
		if err != nil {
			return l, fault.New(fault.ExitInternal, "verifier.tls", "give a PEM chain and its key", "reading certificate: %w", err)
		}
		l.cert = &pair
	}
	announce(s.log, p, manifests)
	return l, nil
}

func announce(log *slog.Logger, p *policy.Policy, manifests []*manifest.Verified) {
	for _, m := range manifests {
		if err := appraise.CheckLogged(p, m); err != nil {
			log.Warn("manifest is refused", "sha256", m.SHA256.String(), "image", m.Manifest.Image.Name, "version", m.Manifest.Image.Version, "error", err)
			continue
		}
		log.Info("manifest accepted", "sha256", m.SHA256.String(), "image", m.Manifest.Image.Name, "version", m.Manifest.Image.Version)
	}
	if p.Environment == policy.Development {
		log.Warn("development policy: no verdict of it says that a machine is confidential", "policy", p.Name, "trust_classes", p.TrustClasses)
	}
}

func (c *Config) readPolicy() (*policy.Policy, error) {
	b, err := c.readFile(c.Policy, policy.MaxSize)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.policy", "put a policy there (docs/policy.md), or correct \"policy\" in the config", "reading policy: %w", err)
	}
	p, err := policy.Parse(b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "verifier.policy", "correct the policy document", "%w", err)
	}
	return p, nil
}

func (c *Config) manifests(p *policy.Policy, l *loaded) ([]*manifest.Verified, error) {
	var published []manifest.Published
	for _, f := range c.Manifests {
		e, err := c.readFile(f, manifest.MaxEnvelope)
		if err != nil {
			return nil, fault.New(fault.ExitInternal, "verifier.manifest", "check \"manifests\" in the config", "reading manifest: %w", err)
		}
		proof, err := manifestfile.Inclusion(c.path(f), p.Manifests.Log != nil)
		if err != nil {
			return nil, fault.New(fault.ExitInternal, "verifier.manifest", "check the file beside the manifest", "%w", err)
		}
		published = append(published, manifest.Published{Envelope: e, Inclusion: proof})
	}
	published, err := c.listed(p, l, published)
	if err != nil {
		return nil, err
	}
	out, err := appraise.OpenManifests(p, published)
	if err != nil {
		return nil, fault.New(fault.ExitPolicy, "verifier.manifest", "name the manifest's hash or its signers in the policy", "%w", err)
	}
	return out, nil
}

// checkJournal refuses verdicts that nobody could find again: a verifier that
// appraises and does not log has to be visible (docs/verifier-api.md, Run it).
// What a development policy accepts nobody relies on.
func (c *Config) checkJournal(p *policy.Policy) error {
	if c.Journal != nil || p.Environment == policy.Development {
		return nil
	}
	return fault.New(fault.ExitInternal, "verifier.journal.missing", "add \"journal\" with dir, origin and key to the config; cocoon-verifier keygen makes a key",
		"the policy is for production, and the config names no journal: every verdict has to be in a log")
}

// openRegistry opens the ledger, where the config names one.
func (s *service) openRegistry(c *Config, p *policy.Policy, l, before *loaded) error {
	if c.Ledger == nil {
		return nil
	}
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.ledger", "name the registry in the policy, and give the network's global.config.json", "setting up ledger: %w", err)
	}
	if p.Manifests.Registry == nil {
		return bad(errors.New("the policy names no registry"))
	}
	network, err := c.readFile(c.Ledger.Config, maxNetwork)
	if err != nil {
		return bad(err)
	}
	if l.registryID, err = jcs.Hash([]any{p.Manifests.Registry, sha256.Sum256(network)}); err != nil {
		return bad(err)
	}
	if before != nil && before.registry != nil && before.registryID == l.registryID {
		l.registry = before.registry
		return nil
	}
	if l.registry, err = registrysource.Open(c.path(c.Ledger.Config), p.Manifests.Registry, s.log); err != nil {
		return bad(err)
	}
	// Not among what a reload closes: the next one may take it over. There are
	// as many as networks were named.
	s.ended = append(s.ended, l.registry)
	return nil
}

// maxNetwork bounds a global.config.json.
const maxNetwork = 4 << 20

// listed adds what the registry lists beside the files, from other verifiers, and
// the proofs of a log that the policy wants and the files do not bring. A manifest
// that none of them has is an error: this verifier would refuse workers that the
// registry accepts. What it lists later is taken in by follow.
func (c *Config) listed(p *policy.Policy, l *loaded, published []manifest.Published) ([]manifest.Published, error) {
	if len(c.Sources) == 0 {
		return published, nil
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
	state, err := l.registry.State(ctx)
	if err != nil {
		return nil, err
	}
	l.listed = registrysource.NewCollection(p, published, from)
	return l.listed.Listed(ctx, state)
}

func (s *service) enroller(c *Config, p *policy.Policy, l, before *loaded) error {
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
	l.trust.AKRoots = [][]byte{cert.Raw}
	// The certificate's key is the authority's: LoadCA has checked that.
	if l.enrollerID, err = jcs.Hash([]any{cert.Raw, p.TPM.AllEKRoots(), c.AKCA.LifetimeSeconds}); err != nil {
		return bad(err)
	}
	if before != nil && before.trust.Enroller != nil && before.enrollerID == l.enrollerID {
		l.trust.Enroller = before.trust.Enroller // and the enrolments under way
		return nil
	}
	o := tpm.EnrollerOptions{EKRoots: roots, CA: ca, Lifetime: time.Duration(c.AKCA.LifetimeSeconds) * time.Second}
	if s.shared != nil {
		o.Pending = shared.Enrolments{Store: s.shared}
	}
	if l.trust.Enroller, err = tpm.NewEnroller(o); err != nil {
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
