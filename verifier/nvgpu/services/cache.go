package services

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/verifier/internal/fetch"
)

// maxEntry bounds a kept answer in bytes: the list of ids is the longest.
const maxEntry = 2 << 20

// entry is one kept answer. It is believed in nothing: manifests and OCSP
// answers are verified again each time they are used.
type entry struct {
	Fetched time.Time `json:"fetched"`
	Data    []byte    `json:"data"`
}

// file is the shape of a cache file. Name guards against files that were
// moved; the format's version is part of it.
type file struct {
	Name  string `json:"name"`
	Entry entry  `json:"entry"`
}

// disk keeps entries as files, one each.
type disk struct {
	dir   string
	scope string // sources and roots; entries of other scopes are never seen
}

func (d *disk) name(key string) string { return "v1 " + d.scope + " " + key }

func (d *disk) path(key string) string {
	sum := sha256.Sum256([]byte(d.name(key)))
	return filepath.Join(d.dir, hex.EncodeToString(sum[:16])+".json")
}

// load reads an entry; (nil, nil) is a miss.
func (d *disk) load(key string) (*entry, error) {
	f, err := os.Open(d.path(key))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const limit = 2*maxEntry + 1<<10 // base64 is a third longer
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	var doc file
	if err := jcs.Decode(b, limit, &doc); err != nil {
		return nil, fmt.Errorf("reading cache file %s: %w", f.Name(), err)
	}
	if doc.Name != d.name(key) {
		return nil, fmt.Errorf("reading cache file %s: it holds %.128q", f.Name(), doc.Name)
	}
	return &doc.Entry, nil
}

func (d *disk) store(key string, e *entry) error {
	b, err := jcs.Marshal(file{Name: d.name(key), Entry: *e})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("making cache directory: %w", err)
	}
	return fetch.WriteAtomic(d.path(key), b)
}

// candidates returns the entries of a key from memory or disk, and from the
// bundle, the one that was fetched last first. One from the future is a
// clock's mistake and is left out.
func (c *Client) candidates(key string) []*entry {
	c.mu.Lock()
	e, ok := c.mem.Get(key)
	c.mu.Unlock()
	if !ok && c.disk != nil {
		d, err := c.disk.load(key)
		if err != nil {
			c.log.LogAttrs(c.ctx, slog.LevelWarn, "ignoring a cache file", slog.String("key", key), slog.Any("error", err))
		}
		e = d
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

// held returns the entry of a key that was fetched last, or nil.
func (c *Client) held(key string) *entry {
	if list := c.candidates(key); len(list) > 0 {
		return list[0]
	}
	return nil
}

// keep stores an entry in memory and on disk.
func (c *Client) keep(key string, e *entry) {
	c.mu.Lock()
	c.mem.Put(key, e)
	c.mu.Unlock()
	if c.disk == nil {
		return
	}
	if err := c.disk.store(key, e); err != nil {
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
