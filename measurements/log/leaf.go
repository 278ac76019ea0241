package log

import (
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"cocoon/measurements/digest"
)

// HashLeaf returns the hash of any entry in the tree (RFC 6962 section 2.1).
func HashLeaf(entry []byte) digest.SHA256 {
	return digest.SHA256(rfc6962.DefaultHasher.HashLeaf(entry))
}

// CheckLeaf checks that an entry with a leaf hash is in the log at an index.
// It serves logs whose entries are not manifests.
func (c *Checkpoint) CheckLeaf(leaf digest.SHA256, index uint64, hashes []digest.SHA256) error {
	if index >= c.Size || len(hashes) > maxHashes {
		return fmt.Errorf("checking inclusion: index %d in a log of %d entries: %w", index, c.Size, ErrProof)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, leaf[:], rawHashes(hashes), c.Root[:]); err != nil {
		return fmt.Errorf("checking inclusion of entry %d: %w: %w", index, ErrProof, err)
	}
	return nil
}

// VerifyLeaf checks that the proof shows an entry with a leaf hash in the
// key's log, and returns the checkpoint that it rests on.
func (p *Inclusion) VerifyLeaf(leaf digest.SHA256, k Key) (*Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, k)
	if err != nil {
		return nil, err
	}
	return c, c.CheckLeaf(leaf, p.Index, p.Hashes)
}
