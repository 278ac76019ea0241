package services

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/fetch"
)

// maxEntry bounds a kept answer in bytes: the list of ids is the longest.
const maxEntry = 2 << 20

// entry is one kept answer. It is believed in nothing: manifests and OCSP
// answers are verified again each time they are used.
type entry struct {
	Fetched time.Time `json:"fetched"`
	Data    []byte    `json:"data"`

	common bool // it is the shared store's: believed once it verified
}

// maxFile bounds its file: base64 in JSON is a third longer than what it
// holds.
const maxFile = 2*maxEntry + 1<<10

// candidates returns the entries of a key from memory, disk or another replica,
// and from the bundle, the one that was fetched last first. One from the future is
// a clock's mistake and is left out.
func (c *Client) candidates(key string) []*entry {
	c.mu.Lock()
	e, ok := c.mem.Get(key)
	c.mu.Unlock()
	if !ok && c.disk != nil {
		d, err := c.disk.Load(key, maxFile)
		if err != nil && !errors.Is(err, fetch.ErrMiss) {
			c.log.LogAttrs(c.ctx, slog.LevelWarn, "ignoring a cache file", slog.String("key", key), slog.Any("error", err))
		}
		e = d
	}
	if e == nil {
		e = c.elsewhere(key)
	}
	var out []*entry
	for _, e := range []*entry{e, c.opts.Bundle.find(key)} {
		if e != nil && !e.Fetched.After(c.opts.Clock().Add(time.Minute)) {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b *entry) int { return b.Fetched.Compare(a.Fetched) })
	return out
}

// elsewhere returns what another replica fetched of a key, or nil. The list of ids
// is nobody's word but the service's.
func (c *Client) elsewhere(key string) *entry {
	if key == keyIDs {
		return nil
	}
	e := c.common.Load(c.ctx, key, maxFile)
	if e != nil {
		e.common = true
	}
	return e
}

// fresh reports whether what was fetched then need not be asked for again. What was
// fetched in the future, by a clock that was set back, is of no known age.
func fresh(fetched, now time.Time, ttl time.Duration) bool {
	age := now.Sub(fetched)
	return age >= 0 && age < ttl
}

// fresher returns what another replica fetched of a key within ttl, where good
// says that it verifies and is no older than what is held. It is kept in memory.
func (c *Client) fresher(key string, ttl time.Duration, good func(*entry) bool) *entry {
	e := c.elsewhere(key)
	if e == nil {
		return nil
	}
	if !fresh(e.Fetched, c.opts.Clock(), ttl) || !good(e) {
		return nil
	}
	return c.believe(key, e)
}

// believe keeps in memory what another replica fetched and verified here.
func (c *Client) believe(key string, e *entry) *entry {
	own := &entry{Fetched: e.Fetched, Data: e.Data}
	c.mu.Lock()
	c.mem.Put(key, own)
	c.mu.Unlock()
	return own
}

// held returns the entry of a key that was fetched last, or nil.
func (c *Client) held(key string) *entry {
	if list := c.candidates(key); len(list) > 0 {
		return list[0]
	}
	return nil
}

// keep stores an entry in memory, on disk, and for the other replicas for a time;
// 0: not for them.
func (c *Client) keep(key string, e *entry, share time.Duration) {
	c.mu.Lock()
	c.mem.Put(key, e)
	c.mu.Unlock()
	c.common.Store(c.ctx, key, e, share)
	if c.disk == nil {
		return
	}
	if err := c.disk.Store(key, e); err != nil {
		c.log.LogAttrs(c.ctx, slog.LevelWarn, "an answer could not be kept on disk", slog.Any("error", err))
	}
}

// once runs get for a key: one at a time, under the client's own context, so
// that a caller that gives up does not take the answer away from the others,
// and not again so soon after it failed.
func (c *Client) once(ctx context.Context, key string, get func(context.Context) (*entry, error)) (*entry, error) {
	if c.opts.Offline {
		return nil, fault.New(fault.ExitNetwork, "rim.service.offline", "fetch it while there is a network, or bring a bundle", "fetching %s: not held, and offline", key)
	}
	ch := c.flight.DoChan(key, func() (any, error) {
		c.mu.Lock()
		f, failed := c.fails.Get(key)
		c.mu.Unlock()
		if failed && c.opts.Clock().Before(f.until) {
			return nil, f.err
		}
		e, err := get(c.ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err == nil {
			c.fails.Remove(key)
			return e, nil
		}
		if c.ctx.Err() == nil { // not our own giving up
			n := &failure{err: err, count: 1}
			if failed {
				n.count += f.count
			}
			n.until = c.opts.Clock().Add(fetch.Backoff(c.opts.Rand, holdBase, holdMax, n.count-1))
			c.fails.Put(key, n)
		}
		return nil, err
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*entry), nil
	case <-ctx.Done():
		return nil, fault.New(fault.ExitNetwork, "rim.service.cancelled", "give it more time, or bring a bundle", "fetching %s: %w", key, ctx.Err())
	}
}
