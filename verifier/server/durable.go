package server

import (
	"context"
	"fmt"
	"time"

	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/verifier/journal"
)

// Durable is a Journal on disk: a verdict is in the log of verdicts (package
// journal), tamper-evident and synced, before it is handed out. The log holds
// hashes; the documents of the latest verdicts are kept in memory for
// GetVerdict, and those of all in the archive.
type Durable struct {
	log    *journal.Journal
	latest *memory
}

// NewDurable returns a Journal that appends to log. The caller closes the log
// after the server.
func NewDurable(log *journal.Journal, clock func() time.Time) *Durable {
	return &Durable{log: log, latest: newMemory(DefaultMaxGiven, clock)}
}

// Append implements Journal.
func (d *Durable) Append(ctx context.Context, g Given) error {
	e := journal.Entry{Time: g.Issued, Expires: g.NotAfter, Key: g.KeyID, Verdict: digest.Sum256([]byte(g.EAR)),
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
	if _, err := d.log.Append(ctx, e); err != nil {
		return err
	}
	return d.latest.Append(ctx, g)
}

// Get implements Journal.
func (d *Durable) Get(ctx context.Context, evidence digest.SHA256) (Given, bool, error) {
	return d.latest.Get(ctx, evidence)
}
