package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/verifier/journal"
)

// latestBytes bounds the verdicts that a Durable keeps for GetVerdict: some
// seconds at full load, which is more than the proof of inclusion takes.
const latestBytes = 96 << 20

// Durable is a Journal on disk: a verdict is in the log of verdicts (package
// journal), tamper-evident and synced, before it is handed out. The log holds
// hashes; the documents of the latest verdicts are kept in memory for
// GetVerdict, and those of all in the archive.
type Durable struct {
	log    *journal.Journal
	latest *memory
}

var _ Log = (*Durable)(nil)

// NewDurable returns a Journal that appends to log. The caller closes the log
// after the server.
func NewDurable(log *journal.Journal, clock func() time.Time) *Durable {
	return &Durable{log: log, latest: newMemory(latestBytes, clock)}
}

// Append implements Journal.
func (d *Durable) Append(ctx context.Context, g *Given) error {
	e := journal.Entry{Time: g.Issued, Expires: g.NotAfter, Key: g.KeyID, Verdict: g.EARSHA256,
		Evidence: g.EvidenceSHA256, Policy: g.PolicySHA256, Manifest: g.ManifestSHA256}
	if g.Cell != "" {
		var v verdictcell.Verdict
		if err := v.UnmarshalText([]byte(g.Cell)); err != nil {
			return fmt.Errorf("reading the verdict for contracts: %w", err)
		}
		h, err := v.Hash()
		if err != nil {
			return fmt.Errorf("hashing the verdict for contracts: %w", err)
		}
		e.Cell = h
	}
	r, err := d.log.Append(ctx, e)
	if err != nil {
		return err
	}
	g.Logged = Logged{Index: r.Index, Leaf: r.Leaf, Promise: string(r.Promise)}
	return d.latest.Append(ctx, g)
}

// Get implements Journal.
func (d *Durable) Get(ctx context.Context, evidence digest.SHA256) (Given, bool, error) {
	return d.latest.Get(ctx, evidence)
}

// Manifest implements Log: a manifest is one entry, however often the service
// starts with it.
func (d *Durable) Manifest(ctx context.Context, manifest digest.SHA256) error {
	_, err := d.log.Find(journal.ByVerdict, manifest, 1)
	if errors.Is(err, journal.ErrNotFound) {
		_, err = d.log.Append(ctx, journal.ManifestEntry(manifest))
	}
	if err != nil {
		return fmt.Errorf("logging manifest %s: %w", manifest, err)
	}
	return nil
}

// Prove implements Log.
func (d *Durable) Prove(ctx context.Context, l *Logged) ([]byte, error) {
	p, err := d.log.ProvePublished(ctx, l.Index, l.Leaf)
	if errors.Is(err, journal.ErrNotPublished) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return p.Text(), nil
}

// Key implements Log.
func (d *Durable) Key() log.Key { return d.log.Key() }

// Read implements Log.
func (d *Durable) Read(ctx context.Context, path string) ([]byte, error) {
	return d.log.ReadPublished(ctx, path)
}
