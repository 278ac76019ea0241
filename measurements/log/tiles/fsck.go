package tiles

import (
	"bytes"
	"context"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// Fsck recomputes the whole tree from the entries and compares every tile and
// the signed root with it. It is not tessera's: that one waits for ever where a
// tile differs and more follow, and trusts a bundle to have as many entries as
// it should, which another's log need not.
func (l *Log) Fsck(ctx context.Context) error {
	c, err := l.Checkpoint(ctx)
	if err != nil {
		return err
	}
	f := &checker{l: l, ctx: ctx, tree: (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0), tiles: map[uint64]*tile{}}
	err = l.walk(ctx, c, func(_ uint64, entry []byte) error {
		if err := f.tree.Append(rfc6962.DefaultHasher.HashLeaf(entry), f.node); err != nil {
			return err
		}
		return f.err
	})
	for level, t := range f.tiles {
		if err == nil && len(t.nodes) > 0 {
			err = f.compare(level, t, uint8(len(t.nodes)/len(digest.SHA256{})))
		}
	}
	if err != nil {
		return fmt.Errorf("checking log: %w", err)
	}
	root := digest.Sum256(nil)
	if c.Size > 0 {
		h, err := f.tree.GetRootHash(nil)
		if err != nil {
			return fmt.Errorf("checking log: %w", err)
		}
		root = digest.SHA256(h)
	}
	if root != c.Root {
		return fmt.Errorf("checking log: the entries' root is %s, %s was signed: %w", root, c.Root, log.ErrProof)
	}
	return nil
}

// checker builds the tiles that follow from the entries, one at a time for each
// level, and compares each when it is full.
type checker struct {
	l     *Log
	ctx   context.Context
	tree  *compact.Range
	tiles map[uint64]*tile // by level
	err   error
}

type tile struct {
	index uint64
	nodes []byte
}

// node takes a node of the tree as it becomes complete. Tiles have every eighth
// level (C2SP tlog-tiles).
func (f *checker) node(id compact.NodeID, h []byte) {
	if f.err != nil || id.Level%layout.TileHeight != 0 {
		return
	}
	level := uint64(id.Level / layout.TileHeight)
	t := f.tiles[level]
	if t == nil {
		t = &tile{}
		f.tiles[level] = t
	}
	t.nodes = append(t.nodes, h...)
	if len(t.nodes) == layout.TileWidth*len(h) {
		f.err = f.compare(level, t, 0)
		t.index, t.nodes = t.index+1, t.nodes[:0]
	}
}

func (f *checker) compare(level uint64, t *tile, partial uint8) error {
	b, err := f.l.f.ReadTile(f.ctx, level, t.index, partial)
	if err != nil {
		return fmt.Errorf("reading tile %s: %w", layout.TilePath(level, t.index, partial), err)
	}
	if partial != 0 && len(b) > len(t.nodes) {
		b = b[:len(t.nodes)] // of a tile that has grown since
	}
	if !bytes.Equal(b, t.nodes) {
		return fmt.Errorf("tile %s differs from the entries: %w", layout.TilePath(level, t.index, partial), log.ErrProof)
	}
	return nil
}
