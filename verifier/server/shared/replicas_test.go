package shared_test

import (
	"bytes"
	"context"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/journal"
	"cocoon/verifier/result"
	"cocoon/verifier/server"
	"cocoon/verifier/server/shared"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

// sharing is a replica that shares all that there is to share.
func sharing(t *testing.T, w *tpmtest.World, f *fake, change func(*server.Options)) *client.Client {
	t.Helper()
	clock := func() time.Time { return tpmtest.Now }
	store := open(t, f, shared.Options{})
	roots, err := tpm.ParseRoots(w.Policy.TPM.EKRoots)
	if err != nil {
		t.Fatal(err)
	}
	enroller, err := tpm.NewEnroller(tpm.EnrollerOptions{EKRoots: roots, CA: w.AKCA, Clock: clock, Pending: shared.Enrolments{Store: store}})
	if err != nil {
		t.Fatal(err)
	}
	o := server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signer: w.ManifestKey, Enroller: enroller, AKRoots: w.Policy.TPM.AKRoots},
		Challenges: store, Verdicts: shared.Verdicts{Store: store}, Limits: shared.Limits{Store: store}, Clock: clock, Burst: 1000, PerSecond: 1000}
	if change != nil {
		change(&o)
	}
	h, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := client.New(client.Options{BaseURL: srv.URL, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAVerdictOfOneReplicaIsHadFromAnother gets it there until it ends, and
// while the store is there.
func TestAVerdictOfOneReplicaIsHadFromAnother(t *testing.T) {
	f, w := newFake(t), tpmtest.NewWorld(t)
	j, err := journal.Open(journal.Options{Dir: t.TempDir(), Origin: "log.example/a", Key: w.ManifestKey, Promises: true})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	a, b := sharing(t, w, f, func(o *server.Options) { o.Journal = server.NewDurable(j, o.Clock) }), sharing(t, w, f, nil)
	ctx := t.Context()
	ch, err := a.Challenge(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ev := w.Evidence(t, ch.Challenge)
	v, err := a.Verify(ctx, ev)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ev.Hash()
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Stored(ctx, h)
	if err != nil || got.EAR != v.EAR || got.Cell != v.Cell {
		t.Fatalf("from the other replica: %+v, %v", got, err)
	}
	if _, err := b.Logged(ctx, h); !fault.Has(err, "verifier.log.elsewhere") || !strings.Contains(err.Error(), "log.example/a, as entry 1") {
		t.Errorf("the proof from the other replica: %v", err)
	}
	if _, err := b.Stored(ctx, digest.Sum256(nil)); !fault.Has(err, wire.CodeNoVerdict) {
		t.Errorf("a verdict that nobody gave: %v", err)
	}
	// A store that swaps documents is not believed.
	keys := f.Keys()
	i := slices.IndexFunc(keys, func(k string) bool { return len(k) > 64 && k[:len("cocoon:verdict:of:")] == "cocoon:verdict:of:" })
	if i < 0 {
		t.Fatal(keys)
	}
	doc, err := f.Get(keys[i])
	if err != nil {
		t.Fatal(err)
	}
	other := digest.Sum256([]byte("other"))
	if err := f.Set("cocoon:verdict:of:"+other.String(), doc); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Stored(ctx, other); err == nil {
		t.Errorf("a verdict on other evidence: %+v", got)
	}
	f.FastForward(2 * time.Hour)
	if _, err := b.Stored(ctx, h); !fault.Has(err, wire.CodeNoVerdict) {
		t.Errorf("after its end: %v", err)
	}
	f.Close()
	if _, err := b.Stored(ctx, h); err == nil || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("without the store: %v", err)
	}
	if got, err := a.Stored(ctx, h); err != nil || got.EAR != v.EAR {
		t.Errorf("its own, without the store: %v", err)
	}
}

// fewBytes puts verdicts of 4 KiB where 12 KiB are kept, one of them twice, and
// looks which are there.
func fewBytes(t *testing.T, s shared.Verdicts) {
	t.Helper()
	hash := func(i int) digest.SHA256 { return digest.Sum256([]byte{byte(i)}) }
	put := func(i, size int) {
		t.Helper()
		if err := s.Put(t.Context(), &server.Given{EvidenceSHA256: hash(i), EAR: strings.Repeat("x", size), NotAfter: tpmtest.Now}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	there := func() (list []int) {
		for i := range 10 {
			if _, ok, err := s.Get(t.Context(), hash(i)); err != nil {
				t.Fatal(err)
			} else if ok {
				list = append(list, i)
			}
		}
		return list
	}
	want := func(want ...int) {
		t.Helper()
		if got := there(); !slices.Equal(got, want) {
			t.Errorf("%v are kept, want %v", got, want)
		}
	}
	for i := range 5 {
		put(i, 4<<10)
	}
	want(3, 4)
	put(3, 4<<10) // counted once
	want(3, 4)
	put(5, 4<<10)
	want(3, 5)
	put(6, 100) // small ones have room
	put(7, 100)
	want(3, 5, 6, 7)
	put(8, 64<<10) // alone there is always room
	want(8)
	put(9, 4<<10)
	want(9)
}

func TestSharedVerdictsAreBoundedInBytes(t *testing.T) {
	fewBytes(t, shared.Verdicts{Store: open(t, newFake(t), shared.Options{MaxVerdictBytes: 12 << 10})})
}

// TestSharedVerdictsAreBounded keeps the latest ones.
func TestSharedVerdictsAreBounded(t *testing.T) {
	s := shared.Verdicts{Store: open(t, newFake(t), shared.Options{MaxVerdicts: 3})}
	hash := func(i int) digest.SHA256 { return digest.Sum256([]byte{byte(i)}) }
	for i := range 5 {
		if err := s.Put(t.Context(), &server.Given{EvidenceSHA256: hash(i), EAR: "token", NotAfter: tpmtest.Now}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		g, ok, err := s.Get(t.Context(), hash(i))
		if err != nil || ok != (i >= 2) || ok && (g.EAR != "token" || !g.NotAfter.Equal(tpmtest.Now)) {
			t.Errorf("verdict %d: %+v, %v, %v", i, g, ok, err)
		}
	}
	large := &server.Given{EvidenceSHA256: hash(9), EAR: strings.Repeat("x", 64<<10), Checks: bytes.Repeat([]byte{'x'}, result.MaxChecks), NotAfter: tpmtest.Now}
	if err := s.Put(t.Context(), large, time.Minute); err != nil {
		t.Fatal(err)
	}
	if g, ok, err := s.Get(t.Context(), hash(9)); err != nil || !ok || g.EAR != large.EAR || !bytes.Equal(g.Checks, large.Checks) {
		t.Errorf("a verdict with as many checks as there may be: found %v, %v", ok, err)
	}
	if err := s.Put(t.Context(), &server.Given{EAR: strings.Repeat("x", 2<<20)}, time.Minute); err == nil {
		t.Error("a verdict of two megabytes is kept")
	}
}

// TestOneLimitForAllReplicas asks both in turn; each alone would answer more.
func TestOneLimitForAllReplicas(t *testing.T) {
	f, w := newFake(t), tpmtest.NewWorld(t)
	tight := func(o *server.Options) { o.PerSecond, o.Burst = 0.001, 6 }
	a, b := sharing(t, w, f, tight), sharing(t, w, f, tight)
	answered := 0
	for i := range 20 {
		switch _, err := []*client.Client{a, b}[i%2].Challenge(t.Context()); {
		case err == nil:
			answered++
		case !fault.Has(err, wire.CodeRateLimited):
			t.Fatal(err)
		}
	}
	if answered != 6 {
		t.Errorf("%d requests were answered, want 6", answered)
	}
	// Without the store each has its own limit, and challenges say what is wrong.
	c := sharing(t, w, f, tight)
	f.Close()
	for i := range 8 {
		_, err := c.Manifests(t.Context())
		if limited := fault.Has(err, wire.CodeRateLimited); limited != (i >= 6) {
			t.Errorf("request %d: %v", i, err)
		}
	}
}

// TestBucketsFill takes tokens as time passes, by the store's clock.
func TestBucketsFill(t *testing.T) {
	f := newFake(t)
	s := shared.Limits{Store: open(t, f, shared.Options{})}
	one, two := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64")
	now := time.Unix(1_800_000_000, 0)
	f.SetTime(now)
	take := func(p netip.Prefix) bool {
		t.Helper()
		ok, err := s.Allow(context.Background(), p, 2, 3)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for i, want := range []bool{true, true, true, false} {
		if take(one) != want {
			t.Errorf("request %d", i)
		}
	}
	if !take(two) {
		t.Error("another client has to wait")
	}
	f.SetTime(now.Add(500 * time.Millisecond))
	if !take(one) || take(one) {
		t.Error("half a second fills one of two a second")
	}
	f.SetTime(now.Add(-time.Hour)) // a clock that goes back gives nothing
	if take(one) {
		t.Error("a clock that goes back fills the bucket")
	}
	f.FastForward(time.Minute)
	if len(f.Keys()) != 0 {
		t.Errorf("buckets that are full are kept: %v", f.Keys())
	}
}

// TestAnEnrolmentBegunAtOneReplicaEndsAtAnother does so once, within bounds, and
// without the store seeing what it keeps.
func TestAnEnrolmentBegunAtOneReplicaEndsAtAnother(t *testing.T) {
	f, w := newFake(t), tpmtest.NewWorld(t)
	a, b := sharing(t, w, f, nil), sharing(t, w, f, nil)
	ctx, m := t.Context(), w.TPM
	begin := func() (*tpm.EnrollResponse, []byte) {
		t.Helper()
		rsp, err := a.Enroll(ctx, &tpm.EnrollRequest{EKChain: m.EKChain, EKPublic: m.EKPublic, AKPublic: m.AKPublic})
		if err != nil {
			t.Fatal(err)
		}
		credential, err := m.Activate(rsp.CredentialBlob, rsp.Secret)
		if err != nil {
			t.Fatal(err)
		}
		return rsp, credential
	}
	rsp, credential := begin()
	cert, err := b.Activate(ctx, &tpm.ActivateRequest{Session: rsp.Session, Credential: credential})
	if err != nil {
		t.Fatal(err)
	}
	ch, err := a.Challenge(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ev := w.Evidence(t, ch.Challenge)
	ev.CPU.CertChain = cert.CertChain
	if _, err := a.Verify(ctx, ev); err != nil {
		t.Errorf("evidence under the certificate: %v", err)
	}
	for name, c := range map[string]*client.Client{"where it began": a, "where it ended": b} {
		if _, err := c.Activate(ctx, &tpm.ActivateRequest{Session: rsp.Session, Credential: credential}); !fault.Has(err, "tpm.enroll.session") {
			t.Errorf("once more, %s: %v", name, err)
		}
	}
	// What another puts into the store is no enrolment, and neither is one of
	// another session.
	rsp, credential = begin()
	record := func(session digest.SHA256) string { return "cocoon:first:enrol:session:" + session.String() }
	doc, err := f.Get(record(rsp.Session))
	if err != nil {
		t.Fatal(err)
	}
	forged := digest.Sum256([]byte("forged"))
	for name, d := range map[string]string{"of another session": doc, "made up": `{"credential":""}`, "nothing": ""} {
		if err := f.Set(record(forged), d); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Activate(ctx, &tpm.ActivateRequest{Session: forged, Credential: credential}); !fault.Has(err, "tpm.enroll.session") {
			t.Errorf("a record %s: %v", name, err)
		}
	}
	f.FastForward(2 * time.Minute)
	if _, err := b.Activate(ctx, &tpm.ActivateRequest{Session: rsp.Session, Credential: credential}); !fault.Has(err, "tpm.enroll.session") {
		t.Errorf("after its time: %v", err)
	}
	// After a restart of the store none is under way.
	rsp, credential = begin()
	f.restart(t, "second")
	if _, err := b.Activate(ctx, &tpm.ActivateRequest{Session: rsp.Session, Credential: credential}); err == nil {
		t.Error("an enrolment outlives a restart of the store")
	}
	f.Close()
	if _, err := a.Enroll(ctx, &tpm.EnrollRequest{EKChain: m.EKChain, EKPublic: m.EKPublic, AKPublic: m.AKPublic}); !fault.Has(err, "tpm.enroll.store") {
		t.Errorf("without the store: %v", err)
	}
}

// TestEnrolmentsUnderWayAreBounded puts more than there may be.
func TestEnrolmentsUnderWayAreBounded(t *testing.T) {
	f := newFake(t)
	s := shared.Enrolments{Store: open(t, f, shared.Options{})}
	hash := func(i int) digest.SHA256 { return digest.Sum256([]byte{byte(i)}) }
	now := time.Now()
	put := func(session, ek, most int) error {
		now = now.Add(time.Millisecond) // the oldest is of another millisecond
		f.SetTime(now)
		return s.Put(t.Context(), hash(session), hash(ek), []byte{byte(session)}, time.Minute, most)
	}
	for i := range tpm.MaxPendingPerEK + 1 {
		if err := put(i, 100, 10); err != nil {
			t.Fatal(err)
		}
	}
	for i := range tpm.MaxPendingPerEK + 1 {
		b, err := s.Take(t.Context(), hash(i))
		if err != nil || (b != nil) != (i > 0) || b != nil && b[0] != byte(i) {
			t.Errorf("session %d: %v, %v", i, b, err)
		}
	}
	for i := range 10 {
		if err := put(10+i, 110+i, 10); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(30, 130, 10); err != tpm.ErrPendingFull {
		t.Errorf("one more than there may be: %v", err)
	}
	if b, err := s.Take(t.Context(), hash(10)); err != nil || b == nil {
		t.Errorf("%v, %v", b, err)
	}
	if err := put(30, 130, 10); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	f.FastForward(2 * time.Minute)
	if keys := f.Keys(); len(keys) != 0 {
		t.Errorf("nothing expires: %v", keys)
	}
}
