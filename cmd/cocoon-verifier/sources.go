package main

import (
	"context"
	"errors"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/pck"
	"cocoon/verifier/snp/kds"
)

// PCS is where Intel's collateral comes from that evidence does not bring, or
// brings out of date.
type PCS struct {
	URL            string `json:"url,omitempty"`      // of a PCS or PCCS; "": Intel's
	RootCRL        string `json:"root_crl,omitempty"` // URL; "": as the service has it
	Cache          string `json:"cache,omitempty"`    // directory that keeps it between runs; "": memory alone
	TimeoutSeconds int64  `json:"timeout_seconds,omitempty"`
}

// KDS is where AMD's certificates and revocation lists come from.
type KDS struct {
	URL            string `json:"url,omitempty"` // "": AMD's
	Cache          string `json:"cache,omitempty"`
	TimeoutSeconds int64  `json:"timeout_seconds,omitempty"`
}

// Bounds of the sources. A request to a maker's service may be made twice.
const (
	maxSourceSeconds = 60
	sourceAttempts   = 2
	sourceRetryBase  = time.Second
)

func validateSources(p *PCS, k *KDS) error {
	if p != nil && (p.TimeoutSeconds < 0 || p.TimeoutSeconds > maxSourceSeconds) || k != nil && (k.TimeoutSeconds < 0 || k.TimeoutSeconds > maxSourceSeconds) {
		return errors.New("pcs, kds: timeout_seconds is out of range")
	}
	return nil
}

// sources gives appraisers the makers' services that the config names. What is
// held in memory goes with a reload; what is on disk stays.
func (s *service) sources(c *Config, o *tee.Options, l *loaded) (err error) {
	if p := c.PCS; p != nil {
		o.Sources.PCS, err = pcs.New(pcs.Options{BaseURL: p.URL, RootCRLURL: p.RootCRL, Roots: o.DCAP.Roots, CacheDir: c.path(p.Cache), Shared: s.fetched,
			Timeout: wait(p.TimeoutSeconds), Attempts: sourceAttempts, RetryBase: sourceRetryBase, Clock: s.clock, Logger: s.log})
		if err != nil {
			return err
		}
		client := o.Sources.PCS
		l.made = append(l.made, closer(func() error { client.Close(); return nil }))
		l.trust.Collateral = collateralOf(client, o.DCAP.Roots)
	}
	l.trust.DCAPRoots = o.DCAP.Roots
	if k := c.KDS; k != nil {
		o.Sources.KDS, err = kds.New(kds.Options{BaseURL: k.URL, Roots: o.SNP.Roots, CacheDir: c.path(k.Cache), Shared: s.fetched,
			Timeout: wait(k.TimeoutSeconds), Attempts: sourceAttempts, RetryBase: sourceRetryBase, Clock: s.clock, Logger: s.log})
	}
	return err
}

func wait(seconds int64) time.Duration {
	if seconds == 0 {
		return tee.DefaultFetchTimeout
	}
	return time.Duration(seconds) * time.Second
}

// collateralOf is for TCBStatus.
func collateralOf(client *pcs.Client, roots *pck.Roots) func(context.Context, []byte) (*collateral.Set, error) {
	return func(ctx context.Context, quote []byte) (*collateral.Set, error) {
		req, err := pcs.RequestOf(quote, nil, true, roots)
		if err != nil {
			return nil, fault.New(fault.ExitParse, "dcap.quote.parse", "send one whole raw quote with its PCK certificate chain", "reading quote: %w", err)
		}
		ctx, cancel := context.WithTimeout(ctx, tee.DefaultFetchTimeout)
		defer cancel()
		return client.Set(ctx, req)
	}
}
