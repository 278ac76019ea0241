package registry

import (
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/contracts/exitcode"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func sum(s string) [32]byte { return sha256.Sum256([]byte(s)) }

func key(name string) ed25519.PrivateKey {
	seed := sum("registry test " + name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func owners(names ...string) Owners {
	var keys []ed25519.PublicKey
	for _, n := range names {
		keys = append(keys, public(n))
	}
	return NewOwners(2, keys...)
}

func public(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

func state() *State {
	s := New(owners("o1", "o2", "o3"), true)
	s.Version, s.Threshold = 9, 2
	for _, n := range []string{"a", "b", "c"} {
		s.AddVerifier(key(n).Public().(ed25519.PublicKey), now)
	}
	s.Manifests[sum("manifest")] = Manifest{State: Active}
	s.Manifests[sum("old")] = Manifest{State: Grace, GraceUntil: now.Add(time.Hour)}
	s.Manifests[sum("bad")] = Manifest{State: Revoked}
	s.Models[sum("model")] = Model{NameHash: sum("name"), Active: true}
	s.Models[sum("retired")] = Model{NameHash: sum("name"), Active: false}
	s.Policies[sum("policy")] = now
	return s
}

// full has something in every part.
func full(t testing.TB) *State {
	t.Helper()
	s := state()
	s.Verifiers[verdictcell.KeyID(public("gone"))] = Verifier{Public: public("gone"), Account: s.NextAccount + 2, Earned: 7}
	s.NextAccount += 5
	soon := Waiting{From: now.Add(time.Hour), Order: 9, Signers: 3}
	gateway := Gateway{Payout: toncell.Address{Hash: sum("gw 2")}, Endpoint: "gw2.example.org:443"}
	for _, e := range []Entry{
		ManifestEntry{SHA256: sum("soon"), State: Active}, ModelEntry{Root: sum("model soon"), NameHash: sum("name"), Active: true},
		PolicyEntry{SHA256: sum("policy soon"), Accepted: true}, GatewayEntry{ID: sum("gw soon"), Gateway: &gateway},
		VerifierEntry{Public: public("soon"), From: now.Add(2 * time.Hour), Until: Forever, Listed: true},
	} {
		id, _ := idOf(e)
		soon.Entry = e
		if id.Kind == KindVerifier {
			soon.Account, soon.Earned = s.NextAccount, 5
			s.NextAccount++
		}
		s.Waiting[id] = soon
	}
	s.VerifiersWait, s.VerifiersWaitUntil = 1, soon.From
	s.Gateways[sum("gw")] = Gateway{Payout: toncell.Address{Hash: sum("gw")}, Endpoint: "gw.example.org:443"}
	s.Checkpoints[sum("log")] = Checkpoint{Size: 9, Root: sum("root"), At: now}
	s.Bonds[verdictcell.KeyID(public("a"))] = Bond{Owner: toncell.Address{Hash: sum("bond")}, Amount: 5, Unbonding: 6, UnlockAt: now}
	s.Owed, s.Slashed, s.VerifierFee, s.MinBond, s.MinWorkerStake, s.NextOrder = 18, 19, 4, 5, 6, 12
	c, err := order(allEntries()...).Cell()
	if err != nil {
		t.Fatal(err)
	}
	s.Pending[11] = Pending{ReadyAt: now, Signers: 2, Order: c}
	return s
}

func TestStateRoundTrips(t *testing.T) {
	for name, s := range map[string]*State{"full": full(t), "empty": New(owners("a", "b"), false)} {
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, got, sameCells); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestOnlyDevnetRegistriesStartWithVTPM(t *testing.T) {
	if New(owners("a", "b"), false).TrustClasses&verdictcell.VTPM.Bit() != 0 {
		t.Error("a production registry accepts vtpm")
	}
	if New(owners("a", "b"), true).TrustClasses&verdictcell.VTPM.Bit() == 0 {
		t.Error("a development registry does not accept vtpm")
	}
}

func TestDataThatNoOrderCouldMakeIsRefused(t *testing.T) {
	s := state()
	s.Devnet = false
	if _, err := s.Data(); err == nil {
		t.Error("a production registry accepts vtpm")
	}
	s = state()
	s.Freshness = MaxFreshness*time.Second + time.Second
	if _, err := s.Data(); err == nil {
		t.Error("signatures of more than an hour")
	}
}

func TestMisplacedVerifiersAreRefused(t *testing.T) {
	s := state()
	s.Verifiers[sum("wrong id")] = Verifier{Public: key("x").Public().(ed25519.PublicKey)}
	if _, err := s.Data(); err == nil {
		t.Error("a key was listed under another id")
	}
}

func verdict(t *testing.T, change func(*verdictcell.Common), from, until time.Duration, names ...string) *verdictcell.Verdict {
	t.Helper()
	c := verdictcell.Common{
		GlobalID: -239, Registry: toncell.Address{Hash: sum("registry")}, TrustClass: verdictcell.TDX, ReceiptKey: sum("receipt"),
		Payout: toncell.Address{Hash: sum("payout")}, Manifest: sum("manifest"), ModelRoot: sum("model"),
		PolicyHash: sum("policy"), EvidenceSHA256: sum("evidence"),
	}
	if change != nil {
		change(&c)
	}
	hash, err := c.Hash()
	if err != nil {
		t.Fatal(err)
	}
	var sigs []verdictcell.Signature
	for _, n := range names {
		s, err := verdictcell.Sign(key(n), hash, uint64(now.Add(from).Unix()), uint64(now.Add(until).Unix()))
		if err != nil {
			t.Fatal(err)
		}
		sigs = append(sigs, s)
	}
	v, err := verdictcell.New(c, sigs...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func question(v *verdictcell.Verdict) Question {
	return Question{Verdict: v, Registry: toncell.Address{Hash: sum("registry")}, GlobalID: -239, Now: now}
}

func TestAnswers(t *testing.T) {
	type common = verdictcell.Common
	minute := time.Minute
	for name, tc := range map[string]struct {
		v      *verdictcell.Verdict
		change func(*State, *Question)
		want   exitcode.Code
	}{
		"a good verdict":                {v: verdict(t, nil, -minute, minute, "a", "b")},
		"a manifest in grace":           {v: verdict(t, func(c *common) { c.Manifest = sum("old") }, -minute, minute, "a", "b")},
		"a policy that is not accepted": {v: verdict(t, func(c *common) { c.PolicyHash = sum("?") }, -minute, minute, "a", "b"), want: exitcode.PolicyNotAccepted},
		"no fee for the verifiers": {v: verdict(t, nil, -minute, minute, "a", "b"),
			change: func(s *State, _ *Question) { s.VerifierFee = 1 }, want: exitcode.VerifierFeeLow},
		"a key whose time is over": {v: verdict(t, nil, -minute, minute, "a", "b"), change: func(s *State, q *Question) {
			s.Verifiers[verdictcell.KeyID(public("a"))] = Verifier{Public: public("a"), Until: q.Now, Listed: true}
		}, want: exitcode.VerdictExpired},
		"three of two":         {v: verdict(t, nil, -minute, minute, "a", "b", "c")},
		"one of two":           {v: verdict(t, nil, -minute, minute, "a"), want: exitcode.SignaturesTooFew},
		"a stranger":           {v: verdict(t, nil, -minute, minute, "a", "x"), want: exitcode.VerifierUnknown},
		"another network":      {v: verdict(t, func(c *common) { c.GlobalID = -3 }, -minute, minute, "a", "b"), want: exitcode.VerdictGlobalID},
		"another registry":     {v: verdict(t, func(c *common) { c.Registry = toncell.Address{} }, -minute, minute, "a", "b"), want: exitcode.VerdictRegistry},
		"a class not accepted": {v: verdict(t, func(c *common) { c.TrustClass = verdictcell.SGX }, -minute, minute, "a", "b"), want: exitcode.TrustClassRefused},
		"an unknown manifest":  {v: verdict(t, func(c *common) { c.Manifest = sum("?") }, -minute, minute, "a", "b"), want: exitcode.ManifestUnknown},
		"a revoked manifest":   {v: verdict(t, func(c *common) { c.Manifest = sum("bad") }, -minute, minute, "a", "b"), want: exitcode.ManifestRevoked},
		"an unknown model":     {v: verdict(t, func(c *common) { c.ModelRoot = sum("?") }, -minute, minute, "a", "b"), want: exitcode.ModelUnknown},
		"a retired model":      {v: verdict(t, func(c *common) { c.ModelRoot = sum("retired") }, -minute, minute, "a", "b"), want: exitcode.ModelRetired},
		"before its time":      {v: verdict(t, nil, minute, 2*minute, "a", "b"), want: exitcode.VerdictNotYetValid},
		"at its last second":   {v: verdict(t, nil, -minute, 0, "a", "b"), want: exitcode.VerdictExpired},
		"after its grace":      {v: verdict(t, func(c *common) { c.Manifest = sum("old") }, -minute, minute, "a", "b"), change: func(s *State, q *Question) { s.Manifests[sum("old")] = Manifest{Grace, q.Now} }, want: exitcode.ManifestGraceOver},
		"for longer than asked": {v: verdict(t, nil, -minute, minute, "a", "b"), change: func(s *State, _ *Question) { s.Freshness = time.Minute },
			want: exitcode.VerdictInterval},
		"while paused": {v: verdict(t, nil, -minute, minute, "a", "b"), change: func(s *State, _ *Question) { s.Paused = true }, want: exitcode.RegistryPaused},
	} {
		t.Run(name, func(t *testing.T) {
			s, q := state(), question(tc.v)
			if tc.change != nil {
				tc.change(s, &q)
			}
			if got := s.Answer(q); got != tc.want {
				t.Errorf("answer %v, want %v", got, tc.want)
			}
			err := s.Check(q)
			if (err == nil) != (tc.want == exitcode.OK) || (err != nil && !fault.Has(err, "contract."+tc.want.String())) {
				t.Errorf("check: %v", err)
			}
		})
	}
}

func TestCheckReportsEveryReason(t *testing.T) {
	v := verdict(t, func(c *verdictcell.Common) { c.GlobalID, c.Manifest, c.ModelRoot = -3, sum("?"), sum("?") }, -time.Hour, -time.Minute, "a", "x")
	s := state()
	s.Threshold, s.Paused = 3, true
	q := question(v)
	s.VerifierFee = 1
	err := s.Check(q)
	for _, c := range []exitcode.Code{exitcode.RegistryPaused, exitcode.VerdictGlobalID, exitcode.ManifestUnknown,
		exitcode.ModelUnknown, exitcode.VerdictExpired, exitcode.VerifierUnknown, exitcode.SignaturesTooFew, exitcode.VerifierFeeLow} {
		if !fault.Has(err, "contract."+c.String()) {
			t.Errorf("%v is not reported", c)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []*State{full(f), New(owners("a", "b"), false)} {
		data, err := s.Data()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data.ToBOC())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := toncell.ParseBOC(b, toncell.Limits{Bytes: 64 << 10, Cells: 1024, Depth: 300})
		if err != nil {
			return
		}
		s, err := Decode(data)
		if err != nil {
			return
		}
		again, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(again); err != nil || !cmp.Equal(s, got, sameCells) {
			t.Fatalf("%+v became %+v, %v", s, got, err)
		}
	})
}
