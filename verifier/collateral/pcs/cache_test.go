package pcs_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/syncbuf"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/collateral/pcstest"
	"cocoon/verifier/tdxtest"
)

func TestASecondClientReadsTheDisk(t *testing.T) {
	r := newRig(t)
	want := mustSet(t, r.client(nil), request()).Hash()
	n := r.server.Total()
	if got := mustSet(t, r.client(nil), request()).Hash(); got != want {
		t.Error("collateral from disk differs")
	}
	if got := mustSet(t, r.client(func(o *pcs.Options) { o.Offline = true }), request()).Hash(); got != want {
		t.Error("collateral of an offline client differs")
	}
	if r.server.Total() != n {
		t.Error("the service was asked although everything is on disk")
	}
	files, err := os.ReadDir(r.dir)
	if err != nil || len(files) != 4 {
		t.Errorf("cache has %d files, %v", len(files), err)
	}
}

func TestOfflineMissesAreFaults(t *testing.T) {
	_, err := newRig(t).client(func(o *pcs.Options) { o.Offline = true }).Set(context.Background(), request())
	if !fault.Has(err, "dcap.collateral.fetch.offline") || fault.ExitCode(err) != fault.ExitNetwork || len(fault.All(err)) != 1 {
		t.Errorf("got %v", err)
	}
}

// TestABadCacheFileIsAMiss damages each file in many ways: the client gets
// good collateral every time, and never what the file says.
func TestABadCacheFileIsAMiss(t *testing.T) {
	r := newRig(t)
	want := mustSet(t, r.client(nil), request()).Hash()
	files, err := filepath.Glob(filepath.Join(r.dir, "*.json"))
	if err != nil || len(files) != 4 {
		t.Fatalf("cache has %d files, %v", len(files), err)
	}
	other, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range files {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			other = good
		}
		flipped := append([]byte(nil), good...)
		at := strings.Index(string(good), `"body":"`) + 60
		if flipped[at] == 'A' {
			flipped[at] = 'B'
		} else {
			flipped[at] = 'A'
		}
		for name, bad := range map[string][]byte{
			"empty":                             {},
			"truncated":                         good[:len(good)/2],
			"not JSON":                          []byte("hello"),
			"another part":                      other,
			"a byte of the signed body changed": flipped,
			"a later expiry":                    []byte(strings.Replace(string(good), `"next":"2026`, `"next":"2999`, 1)),
			"oversized":                         append(append([]byte(nil), good...), make([]byte, 8<<20)...),
		} {
			if name == "another part" && string(other) == string(good) {
				continue
			}
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := mustSet(t, r.client(nil), request()).Hash(); got != want {
				t.Errorf("%s: client returned other collateral", name)
			}
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCacheOfOtherRootsOrServicesIsNotSeen(t *testing.T) {
	r := newRig(t)
	mustSet(t, r.client(nil), request())
	other, err := tdxtest.New("other")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*pcs.Options){
		"other roots":   func(o *pcs.Options) { o.Roots, o.Offline = other.Roots(), true },
		"other service": func(o *pcs.Options) { o.BaseURL, o.Offline = "http://127.0.0.1:1", true },
	} {
		if _, err := r.client(change).Set(context.Background(), request()); !fault.Has(err, "dcap.collateral.fetch.offline") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAnUnwritableCacheIsNoFailure(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(r.dir, nil, 0o600); err != nil { // a file where the directory should be
		t.Fatal(err)
	}
	mustSet(t, r.client(nil), request())
}

func TestAPartThatExpiredIsFetchedAloneAgain(t *testing.T) {
	r := newRig(t)
	r.add("", func(c *tdxtest.Collateral) { c.Info.NextUpdate = tdxtest.Now.Add(time.Hour) })
	c := r.client(nil)
	mustSet(t, c, request())
	r.advance(2 * time.Hour)
	r.add("", func(c *tdxtest.Collateral) { c.Info.IssueDate = tdxtest.Now })
	set := mustSet(t, c, request())
	if !set.TCBInfo().IssueDate.Equal(tdxtest.Now) {
		t.Errorf("TCB info is still the one of %s", set.TCBInfo().IssueDate)
	}
	if n, q := r.server.Requests(pcstest.TCBInfo), r.server.Requests(pcstest.QEIdentity); n != 2 || q != 1 {
		t.Errorf("%d requests for TCB info, %d for the QE identity", n, q)
	}
}

func TestManyCallersMakeOneRequest(t *testing.T) {
	r := newRig(t)
	hold := make(chan struct{})
	r.server.Misbehave(pcstest.TCBInfo, &pcstest.Fault{Hold: hold})
	c := r.client(nil)
	var wg sync.WaitGroup
	sets := make([]*collateral.Set, 64)
	for i := range sets {
		wg.Go(func() {
			set, err := c.Set(context.Background(), request())
			if err != nil {
				t.Error(err)
			}
			sets[i] = set
		})
	}
	// Nobody gets an answer before the hold ends, so all are waiting, or come
	// later and find the set.
	close(hold)
	wg.Wait()
	for _, s := range sets {
		if s != sets[0] {
			t.Fatal("callers got different sets")
		}
	}
	for _, p := range pcstest.Parts() {
		if n := r.server.Requests(p); n != 1 {
			t.Errorf("%d requests for %s", n, p)
		}
	}
}

func TestACallerThatGivesUpTakesNothingFromTheOthers(t *testing.T) {
	r := newRig(t)
	hold := make(chan struct{})
	r.server.Misbehave(pcstest.TCBInfo, &pcstest.Fault{Hold: hold})
	c := r.client(nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Set(ctx, request()); !fault.Has(err, "dcap.collateral.fetch.cancelled") {
		t.Fatalf("got %v", err)
	}
	close(hold)
	mustSet(t, c, request())
	if n := r.server.Requests(pcstest.TCBInfo); n != 1 {
		t.Errorf("%d requests for TCB info", n)
	}
}

// waitFor polls a condition that a background goroutine brings about.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 12000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

func TestStaleCollateralIsReturnedWhileItIsRefreshed(t *testing.T) {
	r := newRig(t)
	c := r.client(nil)
	first := mustSet(t, c, request())
	r.add("", func(c *tdxtest.Collateral) {
		c.Info.IssueDate = tdxtest.Now.Add(time.Minute)
		c.Info.Evaluation, c.QE.Evaluation = 21, 21
	})
	hold := make(chan struct{})
	r.server.Misbehave(pcstest.TCBInfo, &pcstest.Fault{Hold: hold})
	r.advance(pcs.DefaultRefreshAfter)
	for range 50 {
		if mustSet(t, c, request()) != first {
			t.Fatal("the held set was not returned")
		}
	}
	close(hold)
	waitFor(t, "the refreshed set", func() bool { return mustSet(t, c, request()).TCBInfo().Evaluation == 21 })
	if n := r.server.Requests(pcstest.TCBInfo); n != 2 {
		t.Errorf("%d requests for TCB info", n)
	}
}

func TestARefreshThatFailsLeavesWhatIsHeld(t *testing.T) {
	for name, f := range map[string]pcstest.Fault{
		"service down":    {Status: 503},
		"wrong signature": pcstest.WrongSignature,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := r.client(func(o *pcs.Options) { o.Attempts = 1 })
			first := mustSet(t, c, request())
			r.server.Misbehave(pcstest.TCBInfo, &f)
			r.advance(pcs.DefaultRefreshAfter)
			mustSet(t, c, request())
			waitFor(t, "the refresh", func() bool { return r.server.Requests(pcstest.TCBInfo) >= 2 })
			if mustSet(t, c, request()) != first {
				t.Error("the held set was lost")
			}
			if got := mustSet(t, r.client(func(o *pcs.Options) { o.Offline = true }), request()).Hash(); got != first.Hash() {
				t.Error("the set on disk was lost")
			}
			r.advance(40 * 24 * time.Hour) // past its expiry
			if _, err := c.Set(context.Background(), request()); err == nil {
				t.Error("an expired set was returned")
			}
		})
	}
}

func TestTheServiceCannotRollCollateralBack(t *testing.T) {
	r := newRig(t)
	r.add("", func(c *tdxtest.Collateral) {
		c.Info.IssueDate = tdxtest.Now.Add(-time.Hour)
		c.Info.Evaluation = 21
	})
	var log syncbuf.Buffer
	c := r.client(func(o *pcs.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	if n := mustSet(t, c, request()).TCBInfo().Evaluation; n != 21 {
		t.Fatalf("evaluation is %d", n)
	}
	r.add("", func(c *tdxtest.Collateral) { c.Info.IssueDate = tdxtest.Now.Add(-20 * time.Hour) }) // evaluation 20, valid still
	r.advance(pcs.DefaultRefreshAfter)
	mustSet(t, c, request())
	waitFor(t, "the older document to be turned down", func() bool { return strings.Contains(log.String(), "older document") })
	for i := range 100 {
		if n := mustSet(t, c, request()).TCBInfo().Evaluation; n != 21 {
			t.Fatalf("evaluation went back to %d", n)
		}
		if i == 50 {
			c.Close() // waits for the refresh
		}
	}
	if n := mustSet(t, r.client(nil), request()).TCBInfo().Evaluation; n != 21 {
		t.Errorf("evaluation on disk went back to %d", n)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	r := newRig(t)
	c := r.client(func(o *pcs.Options) { o.MemorySets, o.CacheDir, o.Attempts = 2, "", 1 })
	// Sets of two evaluations and a channel: the first is forgotten.
	for i := range 3 {
		r.add("", func(c *tdxtest.Collateral) { c.Info.Evaluation, c.QE.Evaluation = 30+i, 30+i })
		req := request()
		req.Evaluation = uint32(30 + i)
		mustSet(t, c, req)
	}
	n := r.server.Requests(pcstest.TCBInfo)
	req := request()
	req.Evaluation = 32
	mustSet(t, c, req)
	if r.server.Requests(pcstest.TCBInfo) != n {
		t.Error("the latest set was forgotten")
	}
}

func TestConcurrentUseOfManyKeys(t *testing.T) {
	r := newRig(t)
	for i := range 6 {
		r.add("", func(c *tdxtest.Collateral) { c.Info.Evaluation, c.QE.Evaluation = 30+i, 30+i })
	}
	c := r.client(func(o *pcs.Options) { o.MemorySets = 3; o.RefreshAfter = time.Nanosecond })
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 25 {
				req := request()
				req.Evaluation = uint32(30 + (g+i)%6)
				set, err := c.Set(context.Background(), req)
				if err != nil {
					t.Error(err)
					return
				}
				if set.TCBInfo().Evaluation != int(req.Evaluation) {
					t.Errorf("asked for %d, got %d", req.Evaluation, set.TCBInfo().Evaluation)
				}
				r.advance(time.Millisecond)
			}
		})
	}
	wg.Wait()
	c.Close()
}
