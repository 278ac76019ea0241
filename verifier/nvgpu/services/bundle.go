package services

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/verifier/nvgpu/ocsp"
)

// Limits of a bundle.
const (
	MaxBundle        = 16 << 20 // bytes
	maxBundleEntries = 4096
	bundleVersion    = 1
)

// Bundle is what the services answered, to bring to a machine without a
// network. It is not trusted: its content is verified when it is used, and
// its times say only how old it claims to be.
type Bundle struct {
	Version int           `json:"version"`
	Created time.Time     `json:"created"`
	Entries []BundleEntry `json:"entries"`
	index   map[string]*entry
}

// BundleEntry is one answer under its key: "ids", "rim ID" or "ocsp KEY".
type BundleEntry struct {
	Key     string    `json:"key"`
	Fetched time.Time `json:"fetched"`
	Data    []byte    `json:"data"`
}

// ParseBundle reads a bundle strictly.
func ParseBundle(b []byte) (*Bundle, error) {
	bad := func(err error) error {
		return fault.New(fault.ExitParse, "rim.bundle", "make the bundle anew", "reading bundle: %w", err)
	}
	var out Bundle
	if err := jcs.Decode(b, MaxBundle, &out); err != nil {
		return nil, bad(err)
	}
	if out.Version != bundleVersion || len(out.Entries) > maxBundleEntries {
		return nil, bad(fmt.Errorf("version %d with %d entries, want version %d and at most %d", out.Version, len(out.Entries), bundleVersion, maxBundleEntries))
	}
	out.index = map[string]*entry{}
	for _, e := range out.Entries {
		if out.index[e.Key] != nil || len(e.Data) > maxEntry {
			return nil, bad(errors.New("an entry is there twice or too long"))
		}
		out.index[e.Key] = &entry{Fetched: e.Fetched, Data: e.Data}
	}
	return &out, nil
}

// Marshal returns the bundle's JSON.
func (b *Bundle) Marshal() ([]byte, error) { return jcs.Marshal(b) }

func (b *Bundle) find(key string) *entry {
	if b == nil {
		return nil
	}
	return b.index[key]
}

// Pair is a certificate with its issuer.
type Pair struct{ Cert, Issuer *x509.Certificate }

// Export gets manifests, the list of ids and OCSP answers, each from the
// cache or the service, and puts them into a bundle. The OCSP answers for the
// manifests' own chains come along.
func (c *Client) Export(ctx context.Context, ids []string, certs []Pair) (*Bundle, error) {
	b := &Bundle{Version: bundleVersion, Created: c.opts.Clock().UTC()}
	var errs []error
	seen := map[string]bool{}
	add := func(key string) {
		if e := c.held(key); e != nil && !seen[key] {
			seen[key] = true
			b.Entries = append(b.Entries, BundleEntry{Key: key, Fetched: e.Fetched.UTC(), Data: e.Data})
		}
	}
	if _, err := c.IDs(ctx); err != nil {
		errs = append(errs, err)
	}
	add("ids")
	for _, id := range ids {
		r, err := c.RIM(ctx, id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		add("rim " + id)
		chain := r.Doc.Chain
		for i := range len(chain) - 1 {
			certs = append(certs, Pair{chain[i], chain[i+1]})
		}
	}
	for _, p := range certs {
		if _, err := c.OCSP(ctx, p.Cert, p.Issuer, nil); err != nil {
			errs = append(errs, err)
			continue
		}
		der, err := ocsp.NewRequest(p.Cert, p.Issuer, nil)
		if err != nil {
			return nil, err
		}
		req, err := ocsp.ParseRequest(der)
		if err != nil {
			return nil, err
		}
		add("ocsp " + req.Key())
	}
	return b, errors.Join(errs...)
}
