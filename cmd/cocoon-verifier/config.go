package main

import (
	"fmt"
	"os"
	"path/filepath"

	"cocoon/internal/fault"
	"cocoon/internal/strictyaml"
	"cocoon/verifier/nvgpu/services"
)

const maxConfig = 64 << 10

// Config is the service's configuration file: one strict YAML document. Paths
// are relative to its directory.
type Config struct {
	Listen     string   `json:"listen"`                     // host:port
	TLS        *TLS     `json:"tls,omitempty"`              // without it the service speaks plain HTTP
	Policy     string   `json:"policy"`                     // policy document
	Manifests  []string `json:"manifests"`                  // DSSE envelopes
	Sources    []string `json:"manifest_sources,omitempty"` // verifiers to fetch the manifests from that the registry lists
	SigningKey string   `json:"signing_key"`                // Ed25519, PKCS #8 PEM: signs verdicts
	MakeKeys   bool     `json:"make_keys,omitempty"`        // makes the keys that are not there yet; for a development policy alone
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
	if err := strictyaml.Decode(b, maxConfig, &c); err != nil {
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
