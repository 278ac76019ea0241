package services

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/rim"
)

// Config is the section gpu_cache of a service's configuration: a cache of
// NVIDIA's RIM and OCSP services that the service runs for others.
type Config struct {
	RIM        string `json:"rim,omitempty"`         // base URL; empty: NVIDIA's
	OCSP       string `json:"ocsp,omitempty"`        // URL; empty: NVIDIA's, or that of the cache that RIM names
	Dir        string `json:"dir,omitempty"`         // where answers are kept; empty: in memory
	TTLSeconds int64  `json:"ttl_seconds,omitempty"` // 0: DefaultTTL
	// TimeoutSeconds bounds one request to the services; 0: DefaultTimeout.
	TimeoutSeconds int64 `json:"timeout_seconds,omitempty"`
}

// maxTTL bounds ttl_seconds: manifests are signed anew and may be withdrawn.
const maxTTL = 7 * 24 * time.Hour

const maxTimeout = time.Minute

// Validate checks the section.
func (c *Config) Validate() error {
	if c.TTLSeconds < 0 || c.TTLSeconds > int64(maxTTL/time.Second) {
		return fault.New(fault.ExitParse, "rim.service.config", fmt.Sprintf("give 0 to %d seconds", int64(maxTTL/time.Second)), "reading gpu_cache: ttl_seconds is out of range")
	}
	if c.TimeoutSeconds < 0 || c.TimeoutSeconds > int64(maxTimeout/time.Second) {
		return fault.New(fault.ExitParse, "rim.service.config", fmt.Sprintf("give 0 to %d seconds", int64(maxTimeout/time.Second)), "reading gpu_cache: timeout_seconds is out of range")
	}
	return nil
}

// Open makes the client that the section describes; Dir is relative to base,
// nil roots are NVIDIA's, a nil store is shared with nobody, and a nil clock is the
// system's.
func (c *Config) Open(base string, roots *rim.Roots, store *Shared, clock func() time.Time, log *slog.Logger) (*Client, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	dir := c.Dir
	if dir != "" && !filepath.IsAbs(dir) {
		dir = filepath.Join(base, dir)
	}
	return New(Options{RIMURL: c.RIM, OCSPURL: c.OCSP, Roots: roots, CacheDir: dir, Shared: store, TTL: time.Duration(c.TTLSeconds) * time.Second,
		Timeout: time.Duration(c.TimeoutSeconds) * time.Second, Clock: clock, Logger: log})
}
