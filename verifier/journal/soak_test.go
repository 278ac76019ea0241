package journal

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
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
	o.Interval, o.Promises = DefaultInterval, false
	j := open(t, o)
	begin := time.Now()
	for part := range uint64(10) {
		start := time.Now()
		fill(t, j, part*n/10, (part+1)*n/10)
		t.Logf("entries %8d: %6.0f/s", (part+1)*n/10, float64(n/10)/time.Since(start).Seconds())
	}
	t.Logf("all: %.0f/s", float64(n)/time.Since(begin).Seconds())
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
	t.Logf("fsck: %v", time.Since(start))
	start = time.Now()
	j = open(t, o)
	if j.Size() != n {
		t.Errorf("%d entries, want %d", j.Size(), n)
	}
	t.Logf("opening: %v", time.Since(start))
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
