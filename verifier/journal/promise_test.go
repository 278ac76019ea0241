package journal

import (
	"bytes"
	"crypto/ed25519"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// signer returns a journal that has nothing but what promises need, and its key.
func signer(t testing.TB) (*Journal, log.Key) {
	t.Helper()
	k, err := log.NewKey(origin, testKey.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	j := open(t, options(t.TempDir()))
	return j, k
}

// TestEachOfAGroupHasAPromise makes the promises of groups of all small sizes and
// of the largest, and holds each against every index but its own.
func TestEachOfAGroupHasAPromise(t *testing.T) {
	j, k := signer(t)
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 31, 32, 33, maxGroup - 1, maxGroup} {
		g := &group{first: 1 << 40, leaves: make([]digest.SHA256, n)}
		for i := range g.leaves {
			g.leaves[i] = hash("leaf", uint64(i))
		}
		for i := range n {
			raw, err := j.promise(g, g.first+uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			p, err := OpenPromise(raw, k)
			if err != nil || p.Index != g.first+uint64(i) || p.Leaf != g.leaves[i] || p.Origin != origin {
				t.Fatalf("%d of %d: %+v, %v\n%s", i, n, p, err, raw)
			}
		}
	}
}

// TestPromisesOfOneWriteAreSignedOnce appends at the same time and opens every
// promise.
func TestPromisesOfOneWriteAreSignedOnce(t *testing.T) {
	j, k := signer(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			r, err := j.Append(t.Context(), entry(uint64(i)))
			if err != nil {
				t.Error(err)
				return
			}
			p, err := OpenPromise(r.Promise, k)
			if err != nil || p.Index != r.Index || p.Leaf != r.Leaf {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
	wg.Wait()
}

func TestOtherPromisesAreRefused(t *testing.T) {
	j, k := signer(t)
	g := &group{first: 100, leaves: []digest.SHA256{hash("leaf", 0), hash("leaf", 1), hash("leaf", 2), hash("leaf", 3), hash("leaf", 4)}}
	raw, err := j.promise(g, 102)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPromise(raw, k); err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for _, bit := range []byte{1, 0x20} {
			b := bytes.Clone(raw)
			b[i] ^= bit
			if p, err := OpenPromise(b, k); err == nil {
				t.Fatalf("byte %d: %+v", i, p)
			}
		}
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	ok, err := log.NewKey(origin, other.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPromise(raw, ok); err == nil {
		t.Error("it is good under another key")
	}
	signed := func(text string) []byte {
		b, err := note.Sign(&note.Note{Text: text}, j.signer)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	root := &g.levels[len(g.levels)-1][0]
	path := g.path(2)
	with := func(index uint64, leaf digest.SHA256, path []digest.SHA256, text string) []byte {
		return promiseText(&Promise{Index: index, Leaf: leaf}, path, signed(text))
	}
	good := groupText(origin, 100, 5, root)
	if _, err := OpenPromise(with(102, g.leaves[2], path, good), k); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing":             nil,
		"an older form":       signed("cocoon-log-promise@v1\n" + origin + "\n102\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
		"the note alone":      signed(good),
		"another index":       with(103, g.leaves[2], path, good),
		"before the group":    with(99, g.leaves[2], path, good),
		"after the group":     with(105, g.leaves[2], path, good),
		"another leaf":        with(102, g.leaves[3], path, good),
		"a node as leaf":      with(100, g.levels[1][0], g.path(0)[1:], good),
		"no path":             with(102, g.leaves[2], nil, good),
		"a longer path":       with(102, g.leaves[2], append(path[:len(path):len(path)], path[0]), good),
		"too long a path":     with(102, g.leaves[2], make([]digest.SHA256, maxPath+1), good),
		"a group of none":     with(102, g.leaves[2], path, groupText(origin, 102, 0, root)),
		"a group too large":   with(102, g.leaves[2], path, groupText(origin, 100, maxGroup+1, root)),
		"another log":         with(102, g.leaves[2], path, groupText("other.example/log", 100, 5, root)),
		"a number with zeros": with(102, g.leaves[2], path, "cocoon-log-group@v1\n"+origin+"\n0100\n5\n"+good[len(good)-45:]),
		"a checkpoint":        with(102, g.leaves[2], path, origin+"\n105\n"+good[len(good)-45:]),
		"more lines":          with(102, g.leaves[2], path, good+"x\n"),
		"huge":                make([]byte, maxPromise+1),
	} {
		if p, err := OpenPromise(b, k); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
