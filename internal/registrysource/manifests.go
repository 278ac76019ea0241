package registrysource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
)

const (
	// fetchTimeout is what one fetcher has for one manifest.
	fetchTimeout = 10 * time.Second
	// fetchWait is how long one caller waits for manifests; fetching goes on.
	fetchWait = 15 * time.Second
	// fetchAgain is between two attempts to fetch a manifest that nobody has.
	fetchAgain = 30 * time.Second
	// maxFetches is how many manifests are fetched at a time.
	maxFetches = 8
)

// Fetcher returns the manifest with a hash. It checks the hash;
// *verifier/client.Client is one.
type Fetcher interface {
	Manifest(ctx context.Context, hash digest.SHA256) (manifest.Published, error)
}

// Manifests returns every manifest that the registry lists:
// those in have, and the rest from the first fetcher that has them. Trust lies
// in the registry's proven state alone: the hash names the content. A manifest
// that nobody has is an error beside those that were found.
func Manifests(ctx context.Context, reg *appraise.Registry, have []manifest.Published, from []Fetcher) ([]manifest.Published, error) {
	return NewCollection(have, from).Listed(ctx, reg)
}

// Collection has the manifests that a registry lists, for a
// service whose registry changes while it runs. It is safe for concurrent use:
// each manifest is fetched once, however many ask, and who waits for one holds
// up nobody else.
type Collection struct {
	have   []manifest.Published // given
	from   []Fetcher
	flight singleflight.Group // by hash
	places chan struct{}      // one for each fetch that runs

	mu      sync.Mutex
	known   map[digest.SHA256]bool // of have
	fetched map[digest.SHA256]manifest.Published
	failed  map[digest.SHA256]failure
}

// failure is why a manifest could not be had, and when.
type failure struct {
	err error
	at  time.Time
}

// NewCollection returns a collection of these manifests and of what the fetchers
// bring, the first one first.
func NewCollection(have []manifest.Published, from []Fetcher) *Collection {
	c := &Collection{have: have, from: from, places: make(chan struct{}, maxFetches),
		known: map[digest.SHA256]bool{}, fetched: map[digest.SHA256]manifest.Published{}, failed: map[digest.SHA256]failure{}}
	for _, p := range have {
		if v, err := manifest.Read(p.Envelope, nil); err == nil {
			c.known[v.SHA256] = true
		}
	}
	return c
}

// Listed is Manifests. What does not come within fifteen seconds is an error,
// too, and may be there for the next caller.
func (c *Collection) Listed(ctx context.Context, reg *appraise.Registry) ([]manifest.Published, error) {
	missing, errs := c.missing(reg)
	waiting, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	var flights []<-chan singleflight.Result
	for _, hash := range missing {
		// Others wait for it, whatever becomes of who asked first.
		flights = append(flights, c.flight.DoChan(hash.String(), func() (any, error) { return nil, c.bring(context.WithoutCancel(ctx), hash) }))
	}
	for i, f := range flights {
		select {
		case r := <-f:
			errs = append(errs, r.Err)
		case <-waiting.Done():
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("waiting for manifests: %w", err)
			}
			errs = append(errs, fault.New(fault.ExitNetwork, "manifest.unavailable", "try again, or give its file",
				"fetching manifest %s, which the registry lists: it takes longer than %s", missing[i], fetchWait))
		}
	}
	return c.all(), errors.Join(errs...)
}

// missing returns what has to be fetched, in the order of the hashes, and why
// what has lately failed is not tried again yet.
func (c *Collection) missing(reg *appraise.Registry) (list []digest.SHA256, errs []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for hash, m := range reg.Manifests {
		if !m.Listed || c.known[hash] || c.has(hash) {
			continue
		}
		if f, ok := c.failed[hash]; ok && time.Since(f.at) < fetchAgain {
			errs = append(errs, f.err)
			continue
		}
		list = append(list, hash)
	}
	slices.SortFunc(list, compare)
	return list, errs
}

// has is called with the lock held.
func (c *Collection) has(hash digest.SHA256) bool {
	_, ok := c.fetched[hash]
	return ok
}

func compare(a, b digest.SHA256) int { return slices.Compare(a[:], b[:]) }

// all returns what was given, then what was fetched, by hash.
func (c *Collection) all() []manifest.Published {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(c.have)
	var hashes []digest.SHA256
	for hash := range c.fetched {
		hashes = append(hashes, hash)
	}
	slices.SortFunc(hashes, compare)
	for _, hash := range hashes {
		out = append(out, c.fetched[hash])
	}
	return out
}

// settled reports whether a manifest is here, or has lately failed and why.
func (c *Collection) settled(hash digest.SHA256) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.failed[hash]; ok && time.Since(f.at) < fetchAgain {
		return true, f.err
	}
	return c.has(hash), nil
}

// bring fetches one manifest from the first fetcher that has it.
func (c *Collection) bring(ctx context.Context, hash digest.SHA256) error {
	c.places <- struct{}{}
	defer func() { <-c.places }()
	if ok, err := c.settled(hash); ok {
		return err // another fetch has ended since it was missing
	}
	errs := []error{fault.New(fault.ExitNetwork, "manifest.unavailable", "name a verifier that has it, or give its file",
		"fetching manifest %s, which the registry lists", hash)}
	for _, f := range c.from {
		p, err := ask(ctx, f, hash)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.fetched[hash] = p
			delete(c.failed, hash)
			return nil
		}
		errs = append(errs, fmt.Errorf("asking a verifier: %w", err))
	}
	err := errors.Join(errs...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed[hash] = failure{err, time.Now()}
	return err
}

func ask(ctx context.Context, f Fetcher, hash digest.SHA256) (manifest.Published, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return f.Manifest(ctx, hash)
}
