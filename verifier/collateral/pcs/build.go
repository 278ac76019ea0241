package pcs

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/internal/fetch"
)

// build puts a set together from held parts that are valid now and fetched
// ones, verifies it and keeps it. With refresh, parts older than
// RefreshAfter are fetched, too.
func (c *Client) build(ctx context.Context, req Request, refresh bool) (*collateral.Set, error) {
	now := c.opts.Clock()
	c.mu.Lock()
	bad, isBad := c.bad.Get(req)
	c.mu.Unlock()
	if isBad && now.Before(bad.until) {
		return nil, bad.err
	}
	refs := req.parts()
	entries := make([]*entry, len(refs))
	old := make([]*entry, len(refs)) // what was held of a part that is fetched
	var fetch, kept []int
	for i, ref := range refs {
		e := c.heldPart(ctx, ref)
		switch {
		case e == nil || !e.covers(now):
			fetch = append(fetch, i)
		case (refresh || e.common) && c.stale(e, now): // a store may bring back what is long replaced
			old[i] = e
			fetch = append(fetch, i)
		default:
			entries[i] = e
			kept = append(kept, i)
		}
	}
	if err := c.fetchAll(refs, entries, old, fetch, true); err != nil {
		if refresh {
			return nil, err
		}
		taken := c.fallBack(ctx, entries, old, fetch, err)
		if taken == nil {
			return nil, err
		}
		fetch = slices.DeleteFunc(fetch, func(i int) bool { return slices.Contains(taken, i) })
		kept = append(kept, taken...)
	}
	set, err := c.verify(entries, now)
	again := slices.Clone(kept)
	for _, i := range fetch {
		if entries[i].common {
			again = append(again, i)
		}
	}
	if err != nil && len(again) > 0 {
		// A held part may be the bad one (a tampered cache file, dates that
		// lie): try once without anything that was held.
		c.log.LogAttrs(ctx, slog.LevelWarn, "held collateral does not verify, fetching all of it", slog.Any("error", err))
		if err := c.fetchAll(refs, entries, old, again, false); err != nil {
			return nil, err
		}
		fetch = append(fetch, kept...)
		set, err = c.verify(entries, now)
	}
	if err != nil {
		c.mu.Lock()
		c.bad.Put(req, c.nextFailure(bad, err, now))
		c.mu.Unlock()
		return nil, err
	}
	date(set, refs, entries)
	if keepLater(c.log, refs, entries, old) {
		if set, err = c.verify(entries, now); err != nil {
			return nil, err
		}
	}
	c.keep(ctx, req, set, refs, entries, fetch)
	return set, nil
}

// keepLater puts a held part back where the service answered with an older
// one: it must not be able to roll collateral back within its validity. It
// reports whether it did.
func keepLater(log *slog.Logger, refs []partRef, entries, old []*entry) bool {
	any := false
	for i, o := range old {
		if o == nil || !o.Issue.After(entries[i].Issue) {
			continue
		}
		log.LogAttrs(context.Background(), slog.LevelWarn, "service answers with an older document than is held, keeping the held one",
			slog.String("part", refs[i].String()), slog.Time("held", o.Issue), slog.Time("answered", entries[i].Issue))
		o.Fetched = entries[i].Fetched
		entries[i], any = o, true
	}
	return any
}

// fallBack takes what was held of the parts that the service did not answer for,
// and says which: none where one of them was not held. A refresh stays due.
func (c *Client) fallBack(ctx context.Context, entries, old []*entry, fetched []int, err error) (taken []int) {
	for _, i := range fetched {
		if entries[i] != nil {
			continue
		}
		if old[i] == nil {
			return nil
		}
		taken = append(taken, i)
	}
	for _, i := range taken {
		entries[i] = old[i]
	}
	c.log.LogAttrs(ctx, slog.LevelWarn, "the service does not answer, using what another replica fetched", slog.Any("error", err))
	return taken
}

// nextFailure counts a failure on from the last one and says how long to
// leave the service alone.
func (c *Client) nextFailure(last *failure, err error, now time.Time) *failure {
	f := &failure{err: err, count: 1}
	if last != nil {
		f.count = last.count + 1
	}
	f.until = now.Add(fetch.Backoff(c.opts.Rand, holdBase, holdMax, f.count-1))
	return f
}

// stale reports whether an entry is due for a refresh. A fetch time in the
// future (a clock that was set back) counts as due.
func (c *Client) stale(e *entry, now time.Time) bool {
	return now.Before(e.Fetched) || now.Sub(e.Fetched) >= c.opts.RefreshAfter
}

// heldPart returns a part from memory, disk or the shared store, or nil.
func (c *Client) heldPart(ctx context.Context, ref partRef) *entry {
	c.mu.Lock()
	e, ok := c.parts.Get(ref)
	c.mu.Unlock()
	if ok {
		own := *e // entries in memory are shared and never written to
		own.common = false
		return &own
	}
	if c.disk != nil {
		e, err := c.disk.Load(ref.String(), ref.diskLimit())
		if err == nil {
			return e
		}
		if !errors.Is(err, fetch.ErrMiss) {
			c.log.LogAttrs(ctx, slog.LevelWarn, "ignoring a cache file", slog.String("part", ref.String()), slog.Any("error", err))
		}
	}
	e = c.common.Load(ctx, ref.String(), ref.diskLimit())
	if e != nil {
		e.common = true
	}
	return e
}

// fetchAll fetches the parts at the given indices at once. Its error joins
// the failures, one of each code: a service that is down is one problem, not
// four. With shared, what another replica fetched lately is not asked for, unless
// it is older than what was held.
func (c *Client) fetchAll(refs []partRef, entries, old []*entry, indices []int, shared bool) error {
	errs := make([]error, len(indices))
	var wg sync.WaitGroup
	for n, i := range indices {
		wg.Go(func() {
			if shared {
				if e := c.elsewhere(refs[i]); e != nil && (old[i] == nil || !old[i].Issue.After(e.Issue)) {
					entries[i] = e
					return
				}
			}
			v, err, _ := c.gets.Do(refs[i].String(), func() (any, error) { return c.fetchPart(refs[i]) })
			if err != nil {
				errs[n] = err
				return
			}
			e := *v.(*entry) // shared with others that waited
			entries[i] = &e
		})
	}
	wg.Wait()
	var all error
	for _, err := range errs {
		for _, f := range fault.All(err) {
			if !fault.Has(all, f.Code) {
				all = errors.Join(all, f)
			}
		}
	}
	return all
}

// elsewhere returns a part that another replica fetched more lately than a
// refresh is due, or nil.
func (c *Client) elsewhere(ref partRef) *entry {
	now := c.opts.Clock()
	e := c.common.Load(c.ctx, ref.String(), ref.diskLimit())
	if e == nil || !e.covers(now) || c.stale(e, now) {
		return nil
	}
	e.common = true
	return e
}

// fetchPart fetches one part, unless it failed so recently that the service
// is better left alone.
func (c *Client) fetchPart(ref partRef) (*entry, error) {
	if c.opts.Offline {
		return nil, fault.New(fault.ExitNetwork, "dcap.collateral.fetch.offline",
			"fetch it while there is a network: see cocoon collateral fetch", "fetching %s: not held, and offline", ref).Expect("a part that is held, or a network").Found("neither")
	}
	now := c.opts.Clock()
	c.mu.Lock()
	f, failed := c.fails.Get(ref)
	c.mu.Unlock()
	if failed && now.Before(f.until) {
		return nil, f.err
	}
	u := ref.urlFor(c.base)
	if ref.kind == kindRootCRL {
		u = c.rootCRL
	}
	resp, ferr := c.get(c.ctx, u, ref.kind.limit())
	var p *part
	if ferr == nil {
		var err error
		if p, err = decode(ref, resp); err != nil {
			ferr = malformed(u, err)
		}
	}
	now = c.opts.Clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if ferr != nil {
		if c.ctx.Err() == nil { // not our own giving up
			c.fails.Put(ref, c.nextFailure(f, ferr, now))
		}
		return nil, ferr
	}
	c.fails.Remove(ref)
	return &entry{part: *p, Fetched: now}, nil
}

// verify puts the parts together and has them verified: signatures, issuer
// chains, CRLs, and that every part is valid now.
func (c *Client) verify(entries []*entry, now time.Time) (*collateral.Set, error) {
	info, qe, crl, root := entries[0], entries[1], entries[2], entries[3]
	return collateral.Verify(&collateral.Raw{
		PCKCRLIssuerChain:     crl.Chain,
		RootCACRL:             root.Body,
		PCKCRL:                crl.Body,
		TCBInfoIssuerChain:    info.Chain,
		TCBInfo:               info.Body,
		TCBInfoSignature:      info.Signature,
		QEIdentityIssuerChain: qe.Chain,
		QEIdentity:            qe.Body,
		QEIdentitySignature:   qe.Signature,
	}, collateral.Options{Roots: c.opts.Roots, Now: now, Grace: c.opts.Grace})
}

// date copies the verified dates of a set's parts to the entries: a
// document's own, narrowed by those of its issuer chain.
func date(set *collateral.Set, refs []partRef, entries []*entry) {
	byName := map[string]collateral.Part{}
	for _, p := range set.Parts() {
		byName[p.Name] = p
	}
	chains := map[kind]string{kindTCBInfo: collateral.PartTCBChain, kindQEIdentity: collateral.PartQEChain, kindPCKCRL: collateral.PartCRLChain}
	for i, ref := range refs {
		doc := byName[string(ref.kind)]
		entries[i].Issue, entries[i].Next = doc.IssueDate, doc.NextUpdate
		if chain, ok := byName[chains[ref.kind]]; ok && chain.NextUpdate.Before(doc.NextUpdate) {
			entries[i].Next = chain.NextUpdate
		}
	}
}

// keep stores a verified set, and its fetched parts on disk and with the other
// replicas.
func (c *Client) keep(ctx context.Context, req Request, set *collateral.Set, refs []partRef, entries []*entry, fetched []int) {
	h := &held{set: set, kept: len(fetched) == 0, refreshAt: entries[0].Fetched.Add(c.opts.RefreshAfter)}
	for _, e := range entries {
		if at := e.Fetched.Add(c.opts.RefreshAfter); at.Before(h.refreshAt) {
			h.refreshAt = at
		}
	}
	c.mu.Lock()
	for i, ref := range refs {
		c.parts.Put(ref, entries[i])
	}
	if old, ok := c.sets.Get(req); ok && old.set.Hash() == set.Hash() {
		h.set = old.set // callers' caches know this one
	}
	c.sets.Put(req, h)
	c.bad.Remove(req)
	c.mu.Unlock()
	for _, i := range fetched {
		if !entries[i].common {
			c.common.Store(ctx, refs[i].String(), entries[i], entries[i].Next.Sub(c.opts.Clock()))
		}
		if c.disk == nil {
			continue
		}
		if err := c.disk.Store(refs[i].String(), entries[i]); err != nil {
			c.log.LogAttrs(ctx, slog.LevelWarn, "collateral could not be kept on disk", slog.Any("error", err))
		}
	}
}
