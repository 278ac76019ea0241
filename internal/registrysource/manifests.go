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
	"cocoon/verifier/policy"
)

const (
	// fetchTimeout is what one fetcher has for one manifest.
	fetchTimeout = 10 * time.Second
	// fetchWait is how long one caller waits for manifests; fetching goes on.
	fetchWait = 15 * time.Second
	// fetchAgain is between two attempts to fetch a manifest that nobody has, or
	// of which nobody has a good proof.
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
// those in have, and the rest from a fetcher that has them. Trust lies
// in the registry's proven state alone: the hash names the content. Where the
// policy names a log, the proof that the log has a manifest is looked for at every
// fetcher, also for those in have; one of which nobody has it is returned without,
// for the appraisal to say so. A manifest that nobody has is an error beside those
// that were found.
func Manifests(ctx context.Context, p *policy.Policy, reg *appraise.Registry, have []manifest.Published, from []Fetcher) ([]manifest.Published, error) {
	return NewCollection(p, have, from).Listed(ctx, reg)
}

// Collection has the manifests that a registry lists, for a
// service whose registry changes while it runs. It is safe for concurrent use:
// each manifest is fetched once, however many ask, and who waits for one holds
// up nobody else.
type Collection struct {
	from   []Fetcher
	good   func(manifest.Published) bool // its proof shows what the policy wants
	flight singleflight.Group            // by hash
	places chan struct{}                 // one for each fetch that runs

	mu      sync.Mutex
	have    []manifest.Published  // given
	known   map[digest.SHA256]int // index in have
	fetched map[digest.SHA256]manifest.Published
	proven  map[digest.SHA256]bool // here, and good: nothing more is asked for
	failed  map[digest.SHA256]failure
}

// failure is why a manifest or its proof could not be had, and when.
type failure struct {
	err error
	at  time.Time
}

// NewCollection returns a collection of these manifests and of what the fetchers
// bring, the first one first, for a policy.
func NewCollection(p *policy.Policy, have []manifest.Published, from []Fetcher) *Collection {
	return newCollection(have, from, func(m manifest.Published) bool {
		if p.Manifests.Log == nil {
			return true
		}
		ms, err := appraise.OpenManifests(p, []manifest.Published{m})
		return err == nil && appraise.CheckLogged(p, ms[0]) == nil
	})
}

func newCollection(have []manifest.Published, from []Fetcher, good func(manifest.Published) bool) *Collection {
	c := &Collection{have: slices.Clone(have), from: from, good: good, places: make(chan struct{}, maxFetches), known: map[digest.SHA256]int{},
		fetched: map[digest.SHA256]manifest.Published{}, proven: map[digest.SHA256]bool{}, failed: map[digest.SHA256]failure{}}
	for i, p := range have {
		if v, err := manifest.Read(p.Envelope, nil); err == nil {
			c.known[v.SHA256] = i
			c.proven[v.SHA256] = c.proven[v.SHA256] || good(p)
		}
	}
	return c
}

// Listed is Manifests. What does not come within fifteen seconds is an error,
// too, and may be there for the next caller. Nobody waits for another attempt at
// a proof.
func (c *Collection) Listed(ctx context.Context, reg *appraise.Registry) ([]manifest.Published, error) {
	missing, errs := c.missing(reg)
	waiting, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	flights := make([]<-chan singleflight.Result, len(missing))
	for i, m := range missing {
		// Others wait for it, whatever becomes of who asked first.
		flights[i] = c.flight.DoChan(m.hash.String(), func() (any, error) { return nil, c.bring(context.WithoutCancel(ctx), m.hash) })
	}
	for i, f := range flights {
		if !missing[i].wait {
			continue
		}
		select {
		case r := <-f:
			errs = append(errs, r.Err)
		case <-waiting.Done():
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("waiting for manifests: %w", err)
			}
			if !c.here(missing[i].hash) {
				errs = append(errs, fault.New(fault.ExitNetwork, "manifest.unavailable", "try again, or give its file",
					"fetching manifest %s, which the registry lists: it takes longer than %s", missing[i].hash, fetchWait))
			}
		}
	}
	return c.all(), errors.Join(errs...)
}

// wanted is a manifest to fetch.
type wanted struct {
	hash digest.SHA256
	wait bool // for it: it is not here, or nobody has been asked for its proof
}

// missing returns what has to be fetched, in the order of the hashes, and why
// what has lately failed is not tried again yet.
func (c *Collection) missing(reg *appraise.Registry) (list []wanted, errs []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for hash, m := range reg.Manifests {
		if !m.Listed || c.proven[hash] {
			continue
		}
		here := c.has(hash)
		if here && len(c.from) == 0 {
			continue
		}
		f, tried := c.failed[hash]
		switch {
		case !tried || time.Since(f.at) >= fetchAgain:
			list = append(list, wanted{hash, !here || !tried})
		case !here:
			errs = append(errs, f.err)
		}
	}
	slices.SortFunc(list, func(a, b wanted) int { return compare(a.hash, b.hash) })
	return list, errs
}

// has is called with the lock held.
func (c *Collection) has(hash digest.SHA256) bool {
	_, given := c.known[hash]
	_, ok := c.fetched[hash]
	return given || ok
}

func (c *Collection) here(hash digest.SHA256) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.has(hash)
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

// settled reports whether nothing more is to be fetched of a manifest, or has
// lately failed and why.
func (c *Collection) settled(hash digest.SHA256) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.failed[hash]; ok && time.Since(f.at) < fetchAgain {
		return true, f.err
	}
	return c.proven[hash], nil
}

// keep takes what a fetcher brought. Of what is not good the first that came stays,
// one with a proof before one without: it says what is wrong. Of a manifest that
// was given only the proof is taken.
func (c *Collection) keep(hash digest.SHA256, p manifest.Published, good bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := c.known[hash]; ok {
		if good {
			c.have[i].Inclusion = p.Inclusion
		}
	} else if old, ok := c.fetched[hash]; good || !ok || len(old.Inclusion) == 0 {
		c.fetched[hash] = p
	}
	if good {
		c.proven[hash] = true
		delete(c.failed, hash)
	}
}

// bring fetches one manifest from the first fetcher that has it with what the
// policy wants. Without that the fetchers are asked again later, and it is no error
// that it is here without: a fetcher that leaves out a proof, or does not have it
// yet, keeps nobody from getting it elsewhere.
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
			good := c.good(p)
			c.keep(hash, p, good)
			if good {
				return nil
			}
			continue
		}
		errs = append(errs, fmt.Errorf("asking a verifier: %w", err))
	}
	err := errors.Join(errs...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.has(hash) {
		err = nil // what it lacks is for the appraisal to say
	}
	c.failed[hash] = failure{err, time.Now()}
	return err
}

func ask(ctx context.Context, f Fetcher, hash digest.SHA256) (manifest.Published, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return f.Manifest(ctx, hash)
}
