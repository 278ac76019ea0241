package registry

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/exitcode"
	"cocoon/internal/verdictcell"
)

func TestOneNewEntryIsScheduled(t *testing.T) {
	s := full(t)
	gateway := &Gateway{Endpoint: "g:1"}
	verifier := func(name string) VerifierEntry {
		return VerifierEntry{Public: public(name), From: now, Until: Forever, Listed: true}
	}
	fresh := ManifestEntry{SHA256: sum("new"), State: Active}
	for name, c := range map[string]struct {
		entries  []Entry
		want, is bool // whether the state allows it, and whether it has the form
	}{
		"a new manifest":            {[]Entry{fresh}, true, true},
		"one that waits":            {[]Entry{ManifestEntry{SHA256: sum("soon"), State: Active}}, true, true},
		"an active one":             {[]Entry{ManifestEntry{SHA256: sum("manifest"), State: Active}}, false, true},
		"one in grace":              {[]Entry{ManifestEntry{SHA256: sum("old"), State: Active}}, false, true},
		"a revoked one":             {[]Entry{ManifestEntry{SHA256: sum("bad"), State: Active}}, false, true},
		"a new one, revoked":        {[]Entry{ManifestEntry{SHA256: sum("new"), State: Revoked}}, false, false},
		"two":                       {[]Entry{fresh, ManifestEntry{SHA256: sum("newer"), State: Active}}, false, false},
		"a model":                   {[]Entry{ModelEntry{Root: sum("new"), NameHash: sum("n"), Active: true}}, true, true},
		"an active model":           {[]Entry{ModelEntry{Root: sum("model"), Active: true}}, false, true},
		"a retired model":           {[]Entry{ModelEntry{Root: sum("retired"), Active: true}}, false, true},
		"a model to retire":         {[]Entry{ModelEntry{Root: sum("new")}}, false, false},
		"a policy":                  {[]Entry{PolicyEntry{SHA256: sum("new"), Accepted: true}}, true, true},
		"an accepted policy":        {[]Entry{PolicyEntry{SHA256: sum("policy"), Accepted: true}}, false, true},
		"a policy to drop":          {[]Entry{PolicyEntry{SHA256: sum("new")}}, false, false},
		"a verifier":                {[]Entry{verifier("new")}, true, true},
		"a listed verifier":         {[]Entry{verifier("a")}, false, true},
		"one with money to claim":   {[]Entry{verifier("gone")}, false, true},
		"a verifier that waits":     {[]Entry{verifier("soon")}, false, true},
		"a gateway":                 {[]Entry{GatewayEntry{ID: sum("new"), Gateway: gateway}}, true, true},
		"a listed gateway":          {[]Entry{GatewayEntry{ID: sum("gw"), Gateway: gateway}}, false, true},
		"a gateway to remove":       {[]Entry{GatewayEntry{ID: sum("new")}}, false, false},
		"a log, which is no such":   {[]Entry{CheckpointEntry{Origin: sum("new"), Size: 1}}, false, false},
		"a pause, which is no list": {[]Entry{PausedEntry{true}}, false, false},
	} {
		o := order(c.entries...)
		if got := o.Schedulable(s); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
		o.Schedule, o.Later = true, true
		body, err := o.Cell()
		if (err == nil) != c.is {
			t.Errorf("%s: cell: %v", name, err)
		}
		if err != nil {
			continue
		}
		got, err := ReadOrder(body)
		if err != nil || !cmp.Equal(got, o) {
			t.Errorf("%s: read as %+v, %v", name, got, err)
		}
		if _, err := ReadOrder(cell.BeginCell().MustStoreBuilder(body.ToBuilder()).MustStoreUInt(0, 1).EndCell()); err == nil {
			t.Errorf("%s: with one bit more it is read too", name)
		}
	}
	s.Pending[12] = Pending{Owners: true}
	if order(fresh).Schedulable(s) {
		t.Error("scheduled while an order for other owners is pending")
	}
}

func TestAVerifierIsScheduledUnderItsOwnID(t *testing.T) {
	o := order(VerifierEntry{Public: public("new"), From: now, Until: Forever, Listed: true})
	o.Schedule = true
	body, err := o.Cell()
	if err != nil {
		t.Fatal(err)
	}
	bytes := body.BeginParse().MustLoadSlice(body.BitsSize())
	bytes[len(bytes)-30] ^= 1 // of the key: there is no id beside it to differ from
	other, err := ReadOrder(cell.BeginCell().MustStoreSlice(bytes, body.BitsSize()).EndCell())
	if err != nil {
		t.Fatal(err)
	}
	id, _ := idOf(other.Entries[0])
	if own, _ := idOf(o.Entries[0]); id == own || id.Hash != verdictcell.KeyID(other.Entries[0].(VerifierEntry).Public) {
		t.Errorf("another key has the id %x", id.Hash)
	}
}

func TestWhatWaitsCountsWhenItsTimeHasCome(t *testing.T) {
	for name, c := range map[string]struct {
		entry Entry
		code  exitcode.Code // before
	}{
		"manifest": {ManifestEntry{SHA256: sum("manifest"), State: Active}, exitcode.ManifestScheduled},
		"model":    {ModelEntry{Root: sum("model"), NameHash: sum("name"), Active: true}, exitcode.ModelScheduled},
		"policy":   {PolicyEntry{SHA256: sum("policy"), Accepted: true}, exitcode.PolicyScheduled},
		"verifier": {VerifierEntry{Public: public("a"), Until: Forever, Listed: true}, exitcode.VerdictNotYetValid},
		"gateway":  {GatewayEntry{ID: sum("gw"), Gateway: &Gateway{Endpoint: "g:1"}}, exitcode.OK},
	} {
		for from, there := range map[time.Duration]bool{-time.Hour: true, 0: true, time.Second: false} {
			s := state()
			id, _ := idOf(c.entry)
			w := Waiting{From: now.Add(from), Order: 9, Signers: 2, Entry: c.entry}
			if v, ok := c.entry.(VerifierEntry); ok {
				v.From, w.Account = w.From, s.Verifiers[id.Hash].Account
				w.Entry = v
			}
			delete(s.Manifests, id.Hash)
			delete(s.Models, id.Hash)
			delete(s.Policies, id.Hash)
			delete(s.Verifiers, id.Hash)
			s.Waiting[id] = w
			want := c.code
			if there {
				want = exitcode.OK
			}
			q := question(verdict(t, func(*verdictcell.Common) {}, -time.Minute, time.Minute, "a", "b"))
			if got := s.Answer(q); got != want {
				t.Errorf("%s, %s: %v", name, from, got)
			}
			s.Settle(now)
			if _, waits := s.Waiting[id]; waits == there || s.known(id) != there {
				t.Errorf("%s, %s: waits %v, known %v", name, from, waits, s.known(id))
			}
			if got := s.Answer(q); got != want {
				t.Errorf("%s, %s, settled: %v", name, from, got)
			}
		}
	}
}

func TestNoIDIsOfTwoKinds(t *testing.T) {
	s := state()
	s.Policies[sum("model")] = now
	if _, err := s.Data(); err == nil {
		t.Error("a model's root as a policy")
	}
	s = state()
	s.Waiting[ID{KindPolicy, sum("x")}] = Waiting{From: now, Order: 1, Entry: PolicyEntry{SHA256: sum("y"), Accepted: true}}
	if _, err := s.Data(); err == nil {
		t.Error("an entry under another's id")
	}
}

func TestAccountsAreEachVerifiersOwn(t *testing.T) {
	for name, change := range map[string]func(s *State, id [32]byte){
		"another's":    func(s *State, id [32]byte) { v := s.Verifiers[id]; v.Account ^= 1; s.Verifiers[id] = v },
		"never opened": func(s *State, id [32]byte) { v := s.Verifiers[id]; v.Account = s.NextAccount; s.Verifiers[id] = v },
	} {
		s := state()
		change(s, verdictcell.KeyID(public("a")))
		if _, err := s.Data(); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}
