package pcs_test

import (
	"context"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/collateral/pcstest"
	"cocoon/verifier/internal/fetch"
	"cocoon/verifier/internal/fetch/fetchtest"
	"cocoon/verifier/tdxtest"
)

// replica is a client without a disk that shares a store.
func (r *rig) replica(s *fetchtest.Store) *pcs.Client {
	return r.client(func(o *pcs.Options) { o.CacheDir, o.Shared, o.Attempts = "", fetchtest.Shared(s), 1 })
}

func (r *rig) down(down bool) {
	var f *pcstest.Fault
	if down {
		f = &pcstest.Fault{Status: 503}
	}
	for _, p := range pcstest.Parts() {
		r.server.Misbehave(p, f)
	}
}

func TestOneReplicasFetchServesAnother(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	want := mustSet(t, r.replica(store), request()).Hash()
	r.down(true)
	b := r.replica(store)
	set, from, err := b.Lookup(context.Background(), request())
	if err != nil || set.Hash() != want || !from.Held {
		t.Fatalf("from the other replica: %v, %v", from, err)
	}
	if n := r.server.Total(); n != 4 {
		t.Errorf("%d requests for four parts", n)
	}
	ttls := store.TTLs()
	if len(ttls) != 4 {
		t.Errorf("%d entries are kept", len(ttls))
	}
	for _, ttl := range ttls {
		if ttl <= 0 || ttl > fetch.SharedFor {
			t.Errorf("an entry is kept for %v", ttl)
		}
	}
	// Another service's, and what is verified under other roots, is not there.
	elsewhere := r.client(func(o *pcs.Options) {
		o.CacheDir, o.Shared, o.Attempts, o.RootCRLURL = "", fetchtest.Shared(store), 1, r.url+"/root.der"
	})
	if _, err := elsewhere.Set(context.Background(), request()); err == nil {
		t.Error("collateral of another service")
	}
}

// TestARefreshOfOneReplicaServesAnother lets both hold what is due for a refresh.
func TestARefreshOfOneReplicaServesAnother(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	a, b := r.replica(store), r.replica(store)
	mustSet(t, a, request())
	mustSet(t, b, request())
	r.advance(pcs.DefaultRefreshAfter)
	r.add("standard", func(c *tdxtest.Collateral) {
		c.Info.Evaluation, c.QE.Evaluation = 21, 21
		c.Info.IssueDate, c.QE.IssueDate = r.clock(), r.clock()
	})
	for name, c := range map[string]*pcs.Client{"first": a, "second": b} {
		mustSet(t, c, request())
		waitFor(t, "the refreshed set", func() bool { return mustSet(t, c, request()).TCBInfo().Evaluation == 21 })
		if n := r.server.Total(); n != 8 {
			t.Errorf("after the %s refresh %d requests", name, n)
		}
	}
}

// TestAStoreThatLiesCostsAFetch damages what one replica shared: another has
// good collateral all the same, and none where the service is away.
func TestAStoreThatLiesCostsAFetch(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	want := mustSet(t, r.replica(store), request()).Hash()
	for name, spoil := range fetchtest.Spoilers("body") {
		n := r.server.Total()
		spoiled := store.Spoil(spoil)
		if got := mustSet(t, r.replica(spoiled), request()).Hash(); got != want {
			t.Errorf("%s: other collateral", name)
		}
		if got := r.server.Total() - n; got != 4 {
			t.Errorf("%s: %d requests, want 4", name, got)
		}
		// And what it fetched is in the place of what was spoiled.
		r.down(true)
		if got := mustSet(t, r.replica(spoiled), request()).Hash(); got != want {
			t.Errorf("%s: other collateral afterwards", name)
		}
		if _, err := r.replica(store.Spoil(spoil)).Set(context.Background(), request()); !fault.Has(err, "dcap.collateral.fetch.server") {
			t.Errorf("%s, and the service is away: %v", name, err)
		}
		r.down(false)
	}
}

func TestAStoreThatIsAwayCostsAFetch(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	mustSet(t, r.replica(store), request())
	store.Away(true)
	for want := 8; want <= 12; want += 4 {
		c := r.replica(store)
		mustSet(t, c, request())
		mustSet(t, c, request())
		if n := r.server.Total(); n != want {
			t.Errorf("%d requests, want %d", n, want)
		}
	}
}

// lately makes of entries what a replica would have fetched now.
func (r *rig) lately(entry []byte) []byte { return fetchtest.Fetched(entry, r.clock()) }

// TestAStoreDoesNotSayWhenSomethingWasFetched lets collateral be replaced within
// its validity, by one that revokes a TCB for example: who is due for a refresh
// asks, and so does who holds nothing, whatever a store says of its age.
func TestAStoreDoesNotSayWhenSomethingWasFetched(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	want := mustSet(t, r.replica(store), request()).Hash()
	r.advance(pcs.DefaultRefreshAfter / 2)
	held := r.client(func(o *pcs.Options) { o.Shared = fetchtest.Shared(store) })
	r.add("standard", func(c *tdxtest.Collateral) { c.Info.Evaluation, c.QE.Evaluation = 20, 20 })
	if mustSet(t, held, request()).Hash() != want {
		t.Error("what was fetched half the time ago is not used")
	}
	r.advance(pcs.DefaultRefreshAfter / 2)
	r.add("standard", func(c *tdxtest.Collateral) {
		c.Info.Evaluation, c.QE.Evaluation = 21, 21
		c.Info.IssueDate, c.QE.IssueDate = r.clock(), r.clock()
	})
	forged := store.Forge(r.lately)
	waitFor(t, "the refreshed set", func() bool { return mustSet(t, held, request()).TCBInfo().Evaluation == 21 })
	for what, s := range map[string]*fetchtest.Store{"made younger": forged, "brought back": store.Forge(func(e []byte) []byte { return e })} {
		if got := mustSet(t, r.replica(s), request()).TCBInfo().Evaluation; got != 21 {
			t.Errorf("%s, with nothing held: evaluation %d", what, got)
		}
	}
}

// TestWhatIsHeldIsRefreshedBesideAForgedStore has only the disk hold anything.
func TestWhatIsHeldIsRefreshedBesideAForgedStore(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	mustSet(t, r.client(func(o *pcs.Options) { o.Shared = fetchtest.Shared(store) }), request())
	r.advance(pcs.DefaultRefreshAfter)
	r.add("standard", func(c *tdxtest.Collateral) {
		c.Info.Evaluation, c.QE.Evaluation = 21, 21
		c.Info.IssueDate, c.QE.IssueDate = r.clock(), r.clock()
	})
	forged := store.Forge(r.lately)
	c := r.client(func(o *pcs.Options) { o.Shared = fetchtest.Shared(forged) })
	waitFor(t, "the refreshed set", func() bool { return mustSet(t, c, request()).TCBInfo().Evaluation == 21 })
}

// TestWhatIsLongFetchedIsAskedForFirst: a store may have it from before what
// replaced it, so it counts where the service does not answer.
func TestWhatIsLongFetchedIsAskedForFirst(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	want := mustSet(t, r.replica(store), request()).Hash()
	old := store.Forge(func(e []byte) []byte { return e })
	r.advance(pcs.DefaultRefreshAfter)
	r.down(true)
	set, from, err := r.replica(old).Lookup(context.Background(), request())
	if err != nil || set.Hash() != want || !from.Held {
		t.Errorf("beside a service that is down: %v, %v", from, err)
	}
	r.down(false)
	n := r.server.Total()
	if _, from, err = r.replica(old).Lookup(context.Background(), request()); err != nil || from.Held || r.server.Total() != n+4 {
		t.Errorf("beside a service that answers: %v, %v, %d requests", from, err, r.server.Total()-n)
	}
}

// TestAnOlderPartOfAnotherReplicaIsPassedOver: one that was answered from a cache
// on the way, say, after this replica had a newer one.
func TestAnOlderPartOfAnotherReplicaIsPassedOver(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	edition := func(n int, issue time.Time) {
		r.add("standard", func(c *tdxtest.Collateral) {
			c.Info.Evaluation, c.QE.Evaluation = n, n
			c.Info.IssueDate, c.QE.IssueDate = issue, issue
		})
	}
	start := r.clock()
	edition(21, start)
	c := r.client(nil)
	mustSet(t, c, request())
	r.advance(time.Hour)
	edition(20, start.Add(-time.Hour))
	mustSet(t, r.replica(store), request())
	r.advance(pcs.DefaultRefreshAfter - time.Hour)
	edition(22, r.clock())
	c = r.client(func(o *pcs.Options) { o.Shared = fetchtest.Shared(store) })
	waitFor(t, "the refreshed set", func() bool { return mustSet(t, c, request()).TCBInfo().Evaluation == 22 })
}
