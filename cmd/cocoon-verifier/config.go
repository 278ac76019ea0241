package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
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

const maxConfig = 64 << 10

// fetchTimeout bounds the fetching of manifests at start.
const fetchTimeout = 2 * time.Minute

// Config is the service's configuration file. Paths are relative to its
// directory.
type Config struct {
	Listen     string   `json:"listen"`                     // host:port
	TLS        *TLS     `json:"tls,omitempty"`              // without it the service speaks plain HTTP
	Policy     string   `json:"policy"`                     // policy document
	Manifests  []string `json:"manifests"`                  // DSSE envelopes
	Sources    []string `json:"manifest_sources,omitempty"` // verifiers to fetch the manifests from that the registry lists
	SigningKey string   `json:"signing_key"`                // Ed25519, PKCS #8 PEM: signs verdicts
	AKCA       *AKCA    `json:"ak_ca,omitempty"`            // without it no TPM key is enrolled
	Ledger     *Ledger  `json:"ledger,omitempty"`           // needed where the policy names a registry
	Archive    string   `json:"archive,omitempty"`          // directory that keeps evidence and results
	Journal    *Journal `json:"journal,omitempty"`          // log of verdicts on disk; without it they are remembered in memory only
	Limits     Limits   `json:"limits,omitzero"`            // 0: the default of each
	// GPUCache serves NVIDIA's RIM and OCSP answers to others, below /v1/rim/
	// and at /ocsp, and gives this service those that GPU evidence does not bring
	// along; without it the service does neither.
	GPUCache *services.Config `json:"gpu_cache,omitempty"`
	dir      string           // of the file
}

// TLS is the service's certificate.
type TLS struct {
	Certificate string `json:"certificate"` // PEM chain
	Key         string `json:"key"`
}

// Journal is the append-only log of verdicts: what is not in it is not handed
// out.
type Journal struct {
	Dir    string `json:"dir"`    // made where it does not exist
	Origin string `json:"origin"` // the log's name, a URL without a scheme
	Key    string `json:"key"`    // Ed25519, PKCS #8 PEM: signs checkpoints
}

// AKCA issues attestation key certificates.
type AKCA struct {
	Certificate     string `json:"certificate"` // PEM
	Key             string `json:"key"`         // PKCS #8 PEM
	LifetimeSeconds int64  `json:"lifetime_seconds,omitempty"`
}

// Limits of the service.
type Limits struct {
	PerSecond        float64 `json:"per_second,omitempty"` // requests of one client
	Burst            int     `json:"burst,omitempty"`
	Concurrent       int     `json:"concurrent,omitempty"` // appraisals at a time
	ChallengeSeconds int64   `json:"challenge_seconds,omitempty"`
	ArchiveBytes     int64   `json:"archive_bytes,omitempty"`
}

func readConfig(path string) (*Config, error) {
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.config", "see docs/verifier-api.md", "reading config: %w", err)
	}
	if path == "" {
		return nil, bad(fmt.Errorf("--config is missing"))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, bad(err)
	}
	var c Config
	if err := jcs.Decode(b, maxConfig, &c); err != nil {
		return nil, bad(err)
	}
	l := &c.Limits
	if l.PerSecond < 0 || l.Burst < 0 || l.Concurrent < 0 || l.ChallengeSeconds < 0 || l.ChallengeSeconds > 3600 || l.ArchiveBytes < 0 {
		return nil, bad(fmt.Errorf("a limit is out of range"))
	}
	if c.GPUCache != nil {
		if err := c.GPUCache.Validate(); err != nil {
			return nil, bad(err)
		}
	}
	if c.Listen == "" || c.Policy == "" || c.SigningKey == "" || len(c.Manifests)+len(c.Sources) == 0 {
		return nil, bad(fmt.Errorf("listen, policy, signing_key, and manifests or manifest_sources are needed"))
	}
	if c.Journal != nil && (c.Journal.Dir == "" || c.Journal.Origin == "" || c.Journal.Key == "") {
		return nil, bad(fmt.Errorf("a journal needs dir, origin and key"))
	}
	if len(c.Sources) > 0 && c.Ledger == nil {
		return nil, bad(fmt.Errorf("manifest_sources need a ledger: the registry says which manifests to fetch"))
	}
	c.dir = filepath.Dir(path)
	return &c, nil
}

func (c *Config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// readFile reads a file of the config within a limit.
func (c *Config) readFile(p string, limit int64) ([]byte, error) {
	st, err := os.Stat(c.path(p))
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, limit %d", p, st.Size(), limit)
	}
	return os.ReadFile(c.path(p))
}

// server loads everything that the config names and makes the service.
func (c *Config) server(log *slog.Logger, cache *services.Client, verdicts *journal.Journal) (*server.Server, error) {
	b, err := c.readFile(c.Policy, policy.MaxSize)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.policy", "check \"policy\" in the config", "reading policy: %w", err)
	}
	p, err := policy.Parse(b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "verifier.policy", "correct the policy document", "%w", err)
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
		log.Warn("development policy: trust class vtpm shows measured boot, not confidentiality", "policy", p.Name)
	}
	return server.New(o)
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
