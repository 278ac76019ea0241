package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/internal/keyfile"
	"cocoon/internal/registrysource"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/policy"
	"cocoon/verifier/server"
	"cocoon/verifier/snp"
	"cocoon/verifier/tpm"
)

const maxConfig = 64 << 10

// Config is the service's configuration file. Paths are relative to its
// directory.
type Config struct {
	Listen     string   `json:"listen"`            // host:port
	TLS        *TLS     `json:"tls,omitempty"`     // without it the service speaks plain HTTP
	Policy     string   `json:"policy"`            // policy document
	Manifests  []string `json:"manifests"`         // DSSE envelopes
	SigningKey string   `json:"signing_key"`       // Ed25519, PKCS #8 PEM: signs verdicts
	AKCA       *AKCA    `json:"ak_ca,omitempty"`   // without it no TPM key is enrolled
	Ledger     *Ledger  `json:"ledger,omitempty"`  // needed where the policy names a registry
	Archive    string   `json:"archive,omitempty"` // directory that keeps evidence and results
	Limits     Limits   `json:"limits,omitzero"`   // 0: the default of each
	dir        string   // of the file
}

// TLS is the service's certificate.
type TLS struct {
	Certificate string `json:"certificate"` // PEM chain
	Key         string `json:"key"`
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
	if c.Listen == "" || c.Policy == "" || c.SigningKey == "" || len(c.Manifests) == 0 {
		return nil, bad(fmt.Errorf("listen, policy, manifests and signing_key are needed"))
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
func (c *Config) server(log *slog.Logger) (*server.Server, error) {
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
	manifests, err := appraise.OpenManifests(p, envelopes)
	if err != nil {
		return nil, fault.New(fault.ExitPolicy, "verifier.manifest", "name the manifest's hash or its signers in the policy", "%w", err)
	}
	key, err := keyfile.ReadEd25519(c.path(c.SigningKey))
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.signing_key", "make keys with cocoon-verifier keygen", "%w", err)
	}
	o := server.Options{
		Policy: p, Manifests: manifests, Key: key, Build: build(), Log: log, ArchiveDir: c.path(c.Archive),
		PerSecond: c.Limits.PerSecond, Burst: c.Limits.Burst, Concurrent: c.Limits.Concurrent,
		ChallengeTTL: time.Duration(c.Limits.ChallengeSeconds) * time.Second, ArchiveMaxBytes: c.Limits.ArchiveBytes,
	}
	// Collateral for quotes comes with the evidence.
	o.CPUs = tee.CPUs(tee.Options{DCAP: dcap.Options{Cache: dcap.NewCache(dcap.CacheOptions{})}, SNP: snp.Options{Cache: snp.NewCache(snp.CacheOptions{})}})
	if c.AKCA != nil {
		if err := c.enroller(p, &o); err != nil {
			return nil, err
		}
	}
	if c.Ledger != nil {
		if p.Manifests.Registry == nil {
			return nil, fault.New(fault.ExitInternal, "verifier.ledger", "name the registry in the policy", "setting up ledger: the policy names no registry")
		}
		r, err := registrysource.Open(c.path(c.Ledger.Config), p.Manifests.Registry, log)
		if err != nil {
			return nil, err
		}
		o.Registry = r.State
	}
	for _, m := range manifests {
		log.Info("manifest accepted", "sha256", m.SHA256.String(), "image", m.Manifest.Image.Name, "version", m.Manifest.Image.Version)
	}
	if p.Environment == policy.Development {
		log.Warn("development policy: trust class vtpm shows measured boot, not confidentiality", "policy", p.Name)
	}
	return server.New(o)
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
