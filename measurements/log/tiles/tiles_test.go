package tiles_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
)

const origin = "log.example.org/cocoon"

func key(name string) ed25519.PrivateKey {
	seed := digest.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func manifest(i int) digest.SHA256 { return digest.Sum256(fmt.Append(nil, "manifest ", i)) }

func newLog(t testing.TB, n int) (*tiles.Log, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	l, err := tiles.Init(t.Context(), dir, origin, key("log"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if index, err := l.Append(t.Context(), key("log"), manifest(i)); err != nil || index != uint64(i) {
			t.Fatalf("entry %d: index %d, %v", i, index, err)
		}
	}
	return l, dir
}

// TestMain lets the test program be the one that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TILES_TEST_APPEND"); dir != "" {
		appendForEver(dir)
	}
	os.Exit(m.Run())
}

func TestEveryEntryIsProvenInclusivelyAndConsistently(t *testing.T) {
	l, dir := newLog(t, 0)
	ctx := t.Context()
	var earlier [][]byte
	for i := range 5 {
		c, err := l.Checkpoint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		earlier = append(earlier, c.Raw)
		if _, err := l.Append(ctx, key("log"), manifest(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		p, err := l.ProveInclusion(ctx, manifest(i))
		if err != nil {
			t.Fatal(err)
		}
		again, err := log.ParseInclusion(p.Text())
		if err != nil {
			t.Fatal(err)
		}
		if c, err := again.Verify(manifest(i), l.Key()); err != nil || c.Size != 5 {
			t.Errorf("manifest %d: %v, %v", i, c, err)
		}
		if _, err := again.Verify(manifest(i+1), l.Key()); !errors.Is(err, log.ErrProof) {
			t.Errorf("a proof for manifest %d shows another: %v", i, err)
		}
		q, err := l.ProveConsistency(ctx, earlier[i])
		if err != nil {
			t.Fatal(err)
		}
		back, err := log.ParseConsistency(q.Text())
		if err != nil {
			t.Fatal(err)
		}
		if from, to, err := back.Verify(l.Key()); err != nil || from.Size != uint64(i) || to.Size != 5 {
			t.Errorf("from %d: %v", i, err)
		}
	}
	if index, err := l.Append(ctx, key("log"), manifest(3)); err != nil || index != 3 {
		t.Errorf("appending again: index %d, %v", index, err)
	}
	if _, err := l.ProveInclusion(ctx, manifest(9)); !errors.Is(err, tiles.ErrNotLogged) {
		t.Errorf("a manifest that is not logged: %v", err)
	}
	if _, err := tiles.Init(ctx, dir, origin, key("log")); !errors.Is(err, tiles.ErrExists) {
		t.Errorf("a log over a log: %v", err)
	}
	if _, err := l.Append(ctx, key("other"), manifest(7)); err == nil {
		t.Error("another key appends")
	}
	o, err := tiles.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Fsck(ctx); err != nil {
		t.Error(err)
	}
}

// TestFsckFindsAnyChangedByte flips a byte of each file that the log serves.
func TestFsckFindsAnyChangedByte(t *testing.T) {
	l, dir := newLog(t, 3)
	n := 0
	for _, name := range []string{"checkpoint", "tile/entries/000.p/3", "tile/0/000.p/3"} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			bad := append([]byte{}, good...)
			bad[i] ^= 1
			if err := os.WriteFile(path, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			n++
			if l.Fsck(t.Context()) == nil {
				t.Errorf("%s: byte %d changed, and fsck is content", name, i)
			}
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Fsck(t.Context()); err != nil || n < 300 {
		t.Errorf("after %d changes: %v", n, err)
	}
}

// appendForEver appends and says what it was promised.
func appendForEver(dir string) {
	l, err := tiles.Open(dir)
	for i := 0; err == nil; i++ {
		if _, err = l.Append(context.Background(), key("log"), manifest(i)); err == nil {
			fmt.Println(i)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestAKilledProgramLosesNothingThatWasPromised kills a program that appends
// and opens the log again.
func TestAKilledProgramLosesNothingThatWasPromised(t *testing.T) {
	l, dir := newLog(t, 0)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	promised := -1
	for round := range 3 {
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), "TILES_TEST_APPEND="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var i int
			if _, err := fmt.Sscan(lines.Text(), &i); err != nil {
				t.Fatal(err)
			}
			if promised = max(promised, i); i >= 2*(round+1) {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if err := l.Fsck(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i := range promised + 1 {
			if _, err := l.ProveInclusion(t.Context(), manifest(i)); err != nil {
				t.Errorf("round %d: manifest %d of %d: %v", round, i, promised, err)
			}
		}
	}
	if promised < 6 {
		t.Errorf("only %d entries were promised", promised+1)
	}
	if _, err := l.Append(t.Context(), key("log"), manifest(1000)); err != nil {
		t.Error(err)
	}
}

// TestFsckEndsWhereAnEarlyTileDiffers changes the first tile of a log that has
// more.
func TestFsckEndsWhereAnEarlyTileDiffers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w, err := tiles.OpenWriter(tiles.WriterOptions{Dir: dir, Origin: origin, Key: key("log"), Interval: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var entries [][]byte
	for i := range 1000 {
		entries = append(entries, fmt.Appendf(nil, "entry %d", i))
	}
	if err := w.Append(t.Context(), 0, entries); err != nil {
		t.Fatal(err)
	}
	if err := w.Append(t.Context(), 0, entries[:1]); !errors.Is(err, tiles.ErrOrder) {
		t.Errorf("an entry for a place that is taken: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tiles.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Fsck(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tile/0/000", "tile/entries/000", "tile/0/002", "tile/1/000.p/3"} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte{}, good...)
		bad[10] ^= 1
		for _, b := range [][]byte{bad, good[:len(good)/2]} {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if l.Fsck(t.Context()) == nil {
				t.Errorf("%s was changed, and fsck is content", name)
			}
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
