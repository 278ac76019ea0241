package journal

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/measurements/log/tiles"
)

// envSoak sets the number of entries of TestSoak, for example 1000000.
const envSoak = "COCOON_JOURNAL_SOAK"

// TestSoak fills a journal and reports the rate of each tenth, which a log that
// slows down as it grows would show; what comes out must pass fsck and open
// again whole.
func TestSoak(t *testing.T) {
	n := uint64(3 * SegmentEntries)
	if s := os.Getenv(envSoak); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 40); err != nil {
			t.Fatal(err)
		}
	} else if testing.Short() {
		t.Skip("short")
	}
	dir := t.TempDir()
	o := options(dir)
	o.Interval, o.Promises, o.Publish = DefaultInterval, false, &Publish{}
	j := open(t, o)
	begin, used := time.Now(), cpuTime(t)
	for part := range uint64(10) {
		start := time.Now()
		fill(t, j, part*n/10, (part+1)*n/10)
		t.Logf("entries %8d: %6.0f/s", (part+1)*n/10, float64(n/10)/time.Since(start).Seconds())
	}
	t.Logf("all: %.0f/s, %d more to publish", float64(n)/time.Since(begin).Seconds(), n-j.publishedSize(t))
	for j.publishedSize(t) < n {
		time.Sleep(10 * time.Millisecond) // it reports nothing earlier
	}
	t.Logf("published: %.0f/s, %.1f µs of CPU an entry", float64(n)/time.Since(begin).Seconds(), float64((cpuTime(t)-used).Microseconds())/float64(n))
	start := time.Now()
	const looks = 200
	for i := range uint64(looks) {
		fs, err := j.Find(ByEvidence, hash("evidence", i*n/looks), 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.ProveInclusion(fs[0].Index); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("look-up with proof: %v", time.Since(start)/looks)
	closed(t, j)
	start = time.Now()
	if rep := wholesome(t, dir); rep.Size != n {
		t.Errorf("%+v", rep)
	}
	t.Logf("fsck of the journal: %v", time.Since(start))
	l, err := tiles.Open(filepath.Join(dir, LogDir))
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	if err := l.Fsck(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("fsck of the tiles: %v", time.Since(start))
	start = time.Now()
	j = open(t, o)
	if j.Size() != n {
		t.Errorf("%d entries, want %d", j.Size(), n)
	}
	t.Logf("opening: %v", time.Since(start))
}

func (j *Journal) publishedSize(t *testing.T) uint64 {
	t.Helper()
	cp, err := j.publisher.w.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cp.Size
}

// cpuTime is what this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkAppend(b *testing.B) {
	o := options(b.TempDir())
	o.Interval, o.Promises = DefaultInterval, false
	j := open(b, o)
	var next atomic.Uint64
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := j.Append(context.Background(), entry(next.Add(1))); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
}
