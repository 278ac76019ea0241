package tiles_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
)

// signed returns a checkpoint by the log's key.
func signed(t testing.TB, size uint64, root []byte) []byte {
	t.Helper()
	s, err := log.Signer(origin, key("log"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root))}, s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// FuzzLog reads a log of which everything is fuzzed: its checkpoint, or what a
// log's own key signs in it, the first bundle of entries and the first tile.
func FuzzLog(f *testing.F) {
	for _, n := range []int{0, 1, 3} {
		l, dir := newLog(f, n)
		c, err := l.Checkpoint(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		var entries, tile []byte
		if n > 0 {
			p := layout.PartialTileSize(0, 0, c.Size)
			for path, to := range map[string]*[]byte{layout.EntriesPath(0, p): &entries, layout.TilePath(0, 0, p): &tile} {
				if *to, err = os.ReadFile(filepath.Join(dir, path)); err != nil {
					f.Fatal(err)
				}
			}
		}
		f.Add(c.Raw, uint64(0), []byte{}, entries, tile)
		f.Add([]byte{}, c.Size, c.Root[:], entries, tile)
		f.Add([]byte{}, uint64(257), c.Root[:], entries, tile)
		f.Add([]byte{}, uint64(1)<<62, c.Root[:], entries, tile)
	}
	k, err := log.NewKey(origin, key("log").Public().(ed25519.PublicKey))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, checkpoint []byte, size uint64, root, entries, tile []byte) {
		dir := t.TempDir()
		write := func(name string, b []byte) {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if len(checkpoint) == 0 {
			checkpoint = signed(t, size, root)
		}
		write(tiles.KeyFile, []byte(k.String()+"\n"))
		write("checkpoint", checkpoint)
		l, err := tiles.Open(dir)
		if err != nil {
			return
		}
		c, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := layout.PartialTileSize(0, 0, c.Size)
		write(layout.EntriesPath(0, p), entries)
		write(layout.TilePath(0, 0, p), tile)
		var leaves []digest.SHA256
		walked := l.Walk(t.Context(), func(_ uint64, entry []byte) error {
			leaves = append(leaves, digest.SHA256(rfc6962.DefaultHasher.HashLeaf(entry)))
			return nil
		})
		sound := l.Fsck(t.Context()) == nil
		if sound && (walked != nil || uint64(len(leaves)) != c.Size) {
			t.Fatalf("a log of %d entries is sound, and has %d: %v", c.Size, len(leaves), walked)
		}
		for i, leaf := range leaves[:min(len(leaves), 3)] {
			proof, err := l.ProveLeaf(t.Context(), uint64(i), leaf)
			if err != nil && sound {
				t.Fatalf("entry %d of a sound log is not proven: %v", i, err)
			}
			if err == nil {
				if _, err := proof.VerifyLeaf(leaf, k); err != nil {
					t.Fatalf("a proof that does not hold is handed out: %v", err)
				}
			}
		}
		if ms, err := l.Manifests(t.Context()); err == nil && len(ms) > len(leaves) {
			t.Fatalf("%d manifests in %d entries", len(ms), len(leaves))
		}
	})
}
