package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"cocoon/internal/fault"
	"cocoon/internal/strictyaml"
	"cocoon/verifier/nvgpu/services"
)

const maxConfig = 64 << 10

// EvidenceTEE has the service collect evidence by the TEE that it runs in.
const EvidenceTEE = "tee"

// Config is the service's configuration file: one strict YAML document. Paths
// are relative to its directory. What is marked so is read again at a reload;
// everything else needs a restart.
type Config struct {
	Listen string `json:"listen"`        // host:port
	TLS    *TLS   `json:"tls,omitempty"` // without it the service speaks plain HTTP; its files: reload
	// Evidence of the machine that this runs in: EvidenceTEE, or a file that
	// somebody writes, read at each request.
	Evidence string `json:"evidence,omitempty"`

	Policy     string       `json:"policy"`                     // policy document; reload
	Manifests  []string     `json:"manifests"`                  // DSSE envelopes; reload
	Sources    []string     `json:"manifest_sources,omitempty"` // verifiers to fetch the manifests from that the registry lists; reload
	TestRoots  *TestRoots   `json:"test_roots,omitempty"`       // authorities to believe instead of the makers'; for a development policy alone; reload
	SigningKey string       `json:"signing_key,omitempty"`      // Ed25519, PKCS #8 PEM: signs verdicts, at any time; reload
	Signing    []SigningKey `json:"signing_keys,omitempty"`     // instead: keys that follow one another; reload
	MakeKeys   bool         `json:"make_keys,omitempty"`        // makes the key files that are not there yet; for a development policy alone
	AKCA       *AKCA        `json:"ak_ca,omitempty"`            // without it no TPM key is enrolled; reload
	Ledger     *Ledger      `json:"ledger,omitempty"`           // needed where the policy names a registry; reload

	Archive  string   `json:"archive,omitempty"`  // directory that keeps evidence and results
	Journal  *Journal `json:"journal,omitempty"`  // log of verdicts on disk; without it, under a development policy alone, they are remembered in memory
	Replicas int      `json:"replicas,omitempty"` // of this service behind one address; more than one need a shared store
	Shared   *Shared  `json:"shared_store,omitempty"`
	Limits   Limits   `json:"limits,omitzero"` // 0: the default of each
	// GPUCache serves NVIDIA's RIM and OCSP answers to others, below /v1/rim/
	// and at /ocsp, and gives this service those that GPU evidence does not bring
	// along; without it the service does neither.
	GPUCache *services.Config `json:"gpu_cache,omitempty"`
	// Where collateral of CPUs comes from that evidence does not bring; without
	// them it is the evidence's own.
	PCS *PCS   `json:"pcs,omitempty"`
	KDS *KDS   `json:"kds,omitempty"`
	dir string // of the file
}

// fixed returns what only a restart changes.
func (c *Config) fixed() Config {
	f := *c
	f.Policy, f.Manifests, f.Sources, f.TestRoots, f.SigningKey, f.Signing, f.MakeKeys, f.AKCA, f.Ledger = "", nil, nil, nil, "", nil, false, nil, nil
	if f.TLS != nil {
		f.TLS = &TLS{}
	}
	return f
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
	// Witnesses is a policy of witnesses, in sigsum's format, who cosign each
	// checkpoint before it is published.
	Witnesses string `json:"witnesses,omitempty"`
}

// AKCA issues attestation key certificates.
type AKCA struct {
	Certificate     string `json:"certificate"` // PEM
	Key             string `json:"key"`         // PKCS #8 PEM
	LifetimeSeconds int64  `json:"lifetime_seconds,omitempty"`
}

// Ledger says where to read the registry from.
type Ledger struct {
	Config string `json:"config"` // the network's global.config.json
}

// Shared is the store that replicas have in common (package shared).
type Shared struct {
	URL          string `json:"url"`                     // redis://host:port/db, rediss:// or unix://, without a password
	PasswordFile string `json:"password_file,omitempty"` // readable by its owner only
	Prefix       string `json:"prefix,omitempty"`        // of every key, where others use the store, too
	// SecretFile has a secret of the replicas, readable by its owner only, that
	// the store does not have: it authenticates what they fetched. Without it,
	// each fetches for itself.
	SecretFile string `json:"secret_file,omitempty"`
}

// Limits of the service. Those of clients are of all replicas that share a store.
type Limits struct {
	PerSecond        float64 `json:"per_second,omitempty"` // requests of one client
	Burst            int     `json:"burst,omitempty"`
	Concurrent       int     `json:"concurrent,omitempty"`         // appraisals at a time
	Queue            int     `json:"queue,omitempty"`              // appraisals that wait
	QueueMillis      int     `json:"queue_milliseconds,omitempty"` // that one who is let in is expected to wait, at most
	ChallengeSeconds int64   `json:"challenge_seconds,omitempty"`
	ArchiveBytes     int64   `json:"archive_bytes,omitempty"` // accepted evidence stops at them
	ArchiveDays      int     `json:"archive_days,omitempty"`  // after which evidence is removed; 0: never
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
	if err := strictyaml.Decode(b, maxConfig, &c); err != nil {
		return nil, bad(err)
	}
	if err := c.validate(); err != nil {
		return nil, bad(err)
	}
	c.dir = filepath.Dir(path)
	return &c, nil
}

// validate reports everything that contradicts itself.
func (c *Config) validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	l := &c.Limits
	bad(l.PerSecond < 0 || l.Burst < 0 || l.Concurrent < 0 || l.Queue < 0 || l.QueueMillis < 0 || l.QueueMillis > 60_000 || l.ChallengeSeconds < 0 || l.ChallengeSeconds > 3600 || l.ArchiveBytes < 0 || l.ArchiveDays < 0 || l.ArchiveDays > 36500,
		"a limit is out of range")
	bad(c.Listen == "" || c.Policy == "" || len(c.Manifests)+len(c.Sources) == 0, "listen, policy, and manifests or manifest_sources are needed")
	bad((c.SigningKey == "") == (len(c.Signing) == 0), "signing_key or signing_keys is needed, and not both")
	for i := range c.Signing {
		if err := c.Signing[i].validate(); err != nil {
			errs = append(errs, fmt.Errorf("signing_keys: key %d: %w", i+1, err))
		}
	}
	bad(c.TLS != nil && (c.TLS.Certificate == "" || c.TLS.Key == ""), "tls needs certificate and key")
	if j := c.Journal; j != nil {
		bad(j.Dir == "" || j.Key == "", "a journal needs dir and key")
		bad(j.Origin == "", "a journal needs an origin, which names it for good: host and path, such as verifier.example/verdicts")
	}
	bad(len(c.Sources) > 0 && c.Ledger == nil, "manifest_sources need a ledger: the registry says which manifests to fetch")
	bad(c.Replicas < 0 || c.Replicas > 1024, "replicas is out of range")
	// Each would accept a challenge that another has seen used.
	bad(c.Replicas > 1 && c.Shared == nil, "%d replicas need a shared_store: without one, each accepts its challenges alone", c.Replicas)
	bad(c.Shared != nil && c.Shared.URL == "", "a shared_store needs a url")
	errs = append(errs, validateSources(c.PCS, c.KDS))
	if c.GPUCache != nil {
		if err := c.GPUCache.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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
