package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const envCrashDir = "COCOON_TEST_JOURNAL_DIR"

// TestCrashChild is the process that TestJournalKilledAtAnyMoment kills.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(envCrashDir)
	if dir == "" {
		t.Skip("runs as a child of TestJournalKilledAtAnyMoment")
	}
	o := options(dir)
	o.Interval = DefaultInterval / 100
	j := open(t, o)
	var wg sync.WaitGroup
	var next atomic.Uint64
	next.Store(j.Size() << 20)
	for range 32 {
		wg.Go(func() {
			for {
				i := next.Add(1)
				r, err := j.Append(context.Background(), entry(i))
				if err != nil {
					t.Error(err)
					return
				}
				// Handed out from here on.
				fmt.Println("given", i, r.Index)
			}
		})
	}
	wg.Wait()
}

func TestJournalKilledAtAnyMomentHasWhatWasHandedOut(t *testing.T) {
	dir := t.TempDir()
	given := map[uint64]uint64{} // number by index
	var checkpoints [][]byte
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
		cmd.Env = append(os.Environ(), envCrashDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		got := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) != 3 || f[0] != "given" {
				continue // cut by the kill
			}
			i, err1 := strconv.ParseUint(f[1], 10, 64)
			index, err2 := strconv.ParseUint(f[2], 10, 64)
			if err1 != nil || err2 != nil {
				t.Fatalf("%q", lines.Text())
			}
			if _, twice := given[index]; twice {
				t.Fatalf("index %d was given twice", index)
			}
			given[index] = i
			// The pipe runs ahead of this loop, so the kill meets the child
			// somewhere inside a later write.
			if got++; got == 300+217*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		rep := wholesome(t, dir)
		j := open(t, options(dir))
		if rep.Size+rep.Later != j.Size() {
			t.Errorf("fsck saw %d+%d entries, there are %d", rep.Size, rep.Later, j.Size())
		}
		checkpoints = append(checkpoints, j.Checkpoint().Raw)
		closed(t, j)
	}
	if len(given) < 1200 {
		t.Fatalf("only %d verdicts were handed out", len(given))
	}
	j := open(t, options(dir))
	for index, i := range given {
		e, err := j.Entry(index)
		if err != nil {
			t.Fatalf("verdict %d is lost: %v", i, err)
		}
		if diff := cmp.Diff(entry(i), *e); diff != "" {
			t.Fatalf("verdict %d: %s", i, diff)
		}
	}
	for _, cp := range checkpoints {
		if _, err := j.ProveConsistency(cp); err != nil {
			t.Error(err)
		}
	}
	closed(t, j)
	if rep := wholesome(t, dir); rep.Size < uint64(len(given)) {
		t.Errorf("%+v", rep)
	}
}

// copyTo copies a journal's files.
func copyTo(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// state is a journal with a checkpoint over some entries and one later group.
func state(t *testing.T) (dir string, covered, all uint64) {
	t.Helper()
	dir = t.TempDir()
	j := open(t, options(dir))
	fill(t, j, 0, 40)
	if _, err := j.publish(); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(checkpointPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	batch := make([]*pending, 8)
	for i := range batch {
		e := entry(uint64(100 + i))
		text, err := e.Text()
		if err != nil {
			t.Fatal(err)
		}
		batch[i] = &pending{entry: e, text: text}
	}
	close(j.quit)
	<-j.done // so that this is the one who commits
	if err := j.commit(batch); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.segment.Close(), j.hashes.Close(), j.lock.Close()); err != nil {
		t.Fatal(err)
	}
	// As a crash leaves it: no checkpoint at the end.
	if err := os.WriteFile(checkpointPath(dir), old, 0o600); err != nil {
		t.Fatal(err)
	}
	j.closeOnce.Do(func() {})
	return dir, 40, 48
}

func TestATornTailIsCutWhereverItIs(t *testing.T) {
	from, covered, all := state(t)
	for cut := int64(covered) * recordSize; cut <= int64(all)*recordSize; cut += 131 {
		dir := copyTo(t, from)
		if err := os.Truncate(segmentPath(dir, 0), cut); err != nil {
			t.Fatal(err)
		}
		j, err := Open(options(dir))
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if want := uint64(cut / recordSize); j.Size() != want {
			t.Errorf("cut at %d: %d entries, want %d", cut, j.Size(), want)
		}
		fill(t, j, 1000, 1010)
		closed(t, j)
		wholesome(t, dir)
	}
}

// Sectors of one write reach the disk in any order: those after a bad one go
// with it.
func TestAHoleInTheLastGroupIsCut(t *testing.T) {
	from, covered, _ := state(t)
	dir := copyTo(t, from)
	flip(t, segmentPath(dir, 0), int64(covered+2)*recordSize+99)
	j := open(t, options(dir))
	if j.Size() != covered+2 {
		t.Errorf("%d entries, want %d", j.Size(), covered+2)
	}
	closed(t, j)
	wholesome(t, dir)
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Flip bytes of what a checkpoint covers: neither fsck nor Open takes it.
func TestTamperMatrix(t *testing.T) {
	from := t.TempDir()
	j := open(t, options(from))
	fill(t, j, 0, 30)
	closed(t, j)
	for _, name := range []string{"segments/0000000000.log", hashesFile, "checkpoint", KeyFile} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		step := int64(1)
		if len(b) > 2000 {
			step = 61
		}
		dir := copyTo(t, from)
		for at := int64(0); at < int64(len(b)); at += step {
			path := filepath.Join(dir, name)
			flip(t, path, at)
			if rep, err := Fsck(dir); err == nil && rep.Err() == nil {
				t.Errorf("%s: fsck takes a flip at %d", name, at)
			}
			if name != hashesFile { // which is computed again
				if j, err := Open(options(dir)); err == nil {
					t.Errorf("%s: a flip at %d is taken, %d entries", name, at, j.Size())
					closed(t, j)
				}
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		wholesome(t, dir)
	}
}

func TestWhatWasUnderACheckpointIsNeverCut(t *testing.T) {
	from := t.TempDir()
	j := open(t, options(from))
	fill(t, j, 0, 30)
	closed(t, j)
	for name, spoil := range map[string]func(dir string) error{
		"entries are cut off":       func(dir string) error { return os.Truncate(segmentPath(dir, 0), 29*recordSize) },
		"the segment is gone":       func(dir string) error { return os.Remove(segmentPath(dir, 0)) },
		"the checkpoint is gone":    func(dir string) error { return os.Remove(checkpointPath(dir)) },
		"the key is gone":           func(dir string) error { return os.Remove(filepath.Join(dir, KeyFile)) },
		"a segment in between is":   func(dir string) error { return os.Rename(segmentPath(dir, 0), segmentPath(dir, 1)) },
		"all but the checkpoint is": func(dir string) error { return os.RemoveAll(segmentsDir(dir)) },
	} {
		dir := copyTo(t, from)
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(checkpointPath(dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if _, err := Open(options(dir)); err == nil {
			t.Errorf("%s: it opens", name)
		}
		after, err := os.ReadFile(checkpointPath(dir))
		if (err != nil && !errors.Is(err, os.ErrNotExist)) || !bytes.Equal(before, after) {
			t.Errorf("%s: the checkpoint was changed, %v", name, err)
		}
		if rep, err := Fsck(dir); err == nil && rep.Err() == nil {
			t.Errorf("%s: fsck is content", name)
		}
	}
}

// disk is a file on a disk that can be full or broken.
type disk struct {
	room     atomic.Int64 // bytes that can still be written
	badSync  atomic.Bool
	badTrunc atomic.Bool
}

type diskFile struct {
	file
	d *disk
}

func (f diskFile) WriteAt(b []byte, off int64) (int, error) {
	room := f.d.room.Add(-int64(len(b)))
	if room >= 0 {
		return f.file.WriteAt(b, off)
	}
	f.d.room.Add(int64(len(b)))
	n, err := f.file.WriteAt(b[:len(b)/2], off) // some of it gets there
	return n, errors.Join(syscall.ENOSPC, err)
}

func (f diskFile) Sync() error {
	if f.d.badSync.Load() {
		return syscall.EIO
	}
	return f.file.Sync()
}

func (f diskFile) Truncate(size int64) error {
	if f.d.badTrunc.Load() {
		return syscall.EIO
	}
	return f.file.Truncate(size)
}

func onDisk(t *testing.T, d *disk) Options {
	t.Helper()
	o := options(t.TempDir())
	o.open = func(path string) (file, error) {
		f, err := openFile(path)
		return diskFile{f, d}, err
	}
	return o
}

func TestAFullDiskRefusesVerdictsAndRecovers(t *testing.T) {
	d := &disk{}
	d.room.Store(50 * (recordSize + 64))
	o := onDisk(t, d)
	j := open(t, o)
	given := map[uint64]uint64{}
	refused := 0
	for i := range uint64(80) {
		r, err := j.Append(t.Context(), entry(i))
		if err == nil {
			given[r.Index] = i
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		refused++
	}
	if len(given) == 0 || refused == 0 || j.Size() != uint64(len(given)) {
		t.Fatalf("%d given, %d refused, %d there", len(given), refused, j.Size())
	}
	if err := j.Err(); err != nil {
		t.Errorf("a full disk is taken for a broken one: %v", err)
	}
	d.room.Store(1 << 30)
	for i := range uint64(20) {
		r, err := j.Append(t.Context(), entry(1000+i))
		if err != nil {
			t.Fatal(err)
		}
		given[r.Index] = 1000 + i
	}
	closed(t, j)
	wholesome(t, o.Dir)
	j = open(t, o)
	for index, i := range given {
		e, err := j.Entry(index)
		if err != nil || !cmp.Equal(entry(i), *e) {
			t.Errorf("verdict %d at %d: %v, %v", i, index, e, err)
		}
	}
}

func TestABrokenDiskEndsAppends(t *testing.T) {
	for name, spoil := range map[string]func(*disk){
		"a sync fails":               func(d *disk) { d.badSync.Store(true) },
		"the end cannot be restored": func(d *disk) { d.room.Store(10); d.badTrunc.Store(true) },
	} {
		d := &disk{}
		d.room.Store(1 << 30)
		o := onDisk(t, d)
		j := open(t, o)
		if _, err := j.Append(t.Context(), entry(1)); err != nil {
			t.Fatal(err)
		}
		spoil(d)
		if _, err := j.Append(t.Context(), entry(2)); err == nil {
			t.Errorf("%s: a verdict was given", name)
		}
		d.badSync.Store(false)
		d.badTrunc.Store(false)
		d.room.Store(1 << 30)
		if _, err := j.Append(t.Context(), entry(3)); err == nil || j.Err() == nil {
			t.Errorf("%s: a verdict was given afterwards", name)
		}
		closed(t, j)
		j = open(t, o)
		if e, err := j.Entry(0); err != nil || !cmp.Equal(entry(1), *e) {
			t.Errorf("%s: %v, %v", name, e, err)
		}
		if _, err := j.Append(t.Context(), entry(4)); err != nil {
			t.Errorf("%s: after opening again: %v", name, err)
		}
		closed(t, j)
		wholesome(t, o.Dir)
	}
}

func TestAFullDiskKeepsTheLastCheckpoint(t *testing.T) {
	o := options(t.TempDir())
	j := open(t, o)
	fill(t, j, 0, 10)
	// The name that the new checkpoint is written under cannot be a file.
	if err := os.Mkdir(checkpointPath(o.Dir)+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := j.ProveInclusion(3); err == nil {
		t.Error("a proof under a checkpoint that was not published")
	}
	if _, err := j.Append(t.Context(), entry(11)); err != nil {
		t.Errorf("appending needs no checkpoint: %v", err)
	}
	if err := os.Remove(checkpointPath(o.Dir) + ".tmp"); err != nil {
		t.Fatal(err)
	}
	if _, err := j.ProveInclusion(10); err != nil {
		t.Error(err)
	}
	closed(t, j)
	wholesome(t, o.Dir)
}
