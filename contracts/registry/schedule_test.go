package registry

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/exitcode"
	"cocoon/internal/verdictcell"
)

func TestOnlyOneNewManifestIsScheduled(t *testing.T) {
	s := state()
	s.Waiting[sum("waits")] = Waiting{From: now.Add(time.Hour), Order: 3}
	fresh := ManifestEntry{SHA256: sum("new"), State: Active}
	for name, c := range map[string]struct {
		entries  []Entry
		want, is bool // whether the state allows it, and whether it has the form
	}{
		"a new manifest":     {[]Entry{fresh}, true, true},
		"one that waits":     {[]Entry{ManifestEntry{SHA256: sum("waits"), State: Active}}, true, true},
		"an active one":      {[]Entry{ManifestEntry{SHA256: sum("manifest"), State: Active}}, false, true},
		"one in grace":       {[]Entry{ManifestEntry{SHA256: sum("old"), State: Active}}, false, true},
		"a revoked one":      {[]Entry{ManifestEntry{SHA256: sum("bad"), State: Active}}, false, true},
		"a new one, revoked": {[]Entry{ManifestEntry{SHA256: sum("new"), State: Revoked}}, false, false},
		"two":                {[]Entry{fresh, ManifestEntry{SHA256: sum("newer"), State: Active}}, false, false},
		"a model":            {[]Entry{ModelEntry{Root: sum("new"), Active: true}}, false, false},
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
}

func TestWhatWaitsIsActiveWhenItsTimeHasCome(t *testing.T) {
	for name, c := range map[string]struct {
		w      Waiting
		active bool // at now
		waits  bool
		code   exitcode.Code
	}{
		"later":                                {Waiting{From: now.Add(time.Second), Order: 9}, false, true, exitcode.ManifestScheduled},
		"now":                                  {Waiting{From: now, Order: 9}, true, false, exitcode.OK},
		"in force before the owners came":      {Waiting{From: now.Add(-time.Minute), Order: 3}, true, false, exitcode.OK},
		"former owners', for after they went":  {Waiting{From: now.Add(-time.Second), Order: 3}, false, false, exitcode.ManifestUnknown},
		"in force before their former owners":  {Waiting{From: now.Add(-time.Hour), Order: 1}, true, false, exitcode.OK},
		"dropped by owners who are gone, too":  {Waiting{From: now.Add(-2 * time.Minute), Order: 1}, false, false, exitcode.ManifestUnknown},
		"of owners between, in force":          {Waiting{From: now.Add(-2 * time.Minute), Order: 2}, true, false, exitcode.OK},
		"former owners', and not its time yet": {Waiting{From: now.Add(time.Minute), Order: 3}, false, false, exitcode.ManifestUnknown},
	} {
		s := state()
		s.OwnersFrom, s.OwnersSince = 9, now.Add(-time.Minute)
		s.OwnerChanges[2] = now.Add(-time.Hour)
		delete(s.Manifests, sum("manifest"))
		s.Waiting[sum("manifest")] = c.w
		q := question(verdict(t, func(*verdictcell.Common) {}, -time.Minute, time.Minute, "a", "b"))
		if got := s.Answer(q); got != c.code {
			t.Errorf("%s: %v", name, got)
		}
		s.Settle(now)
		_, waits := s.Waiting[sum("manifest")]
		if m, ok := s.Manifests[sum("manifest")]; ok != c.active || ok && m.State != Active || waits != c.waits {
			t.Errorf("%s: %+v %v, waits %v", name, m, ok, waits)
		}
		if got := s.Answer(q); got != c.code {
			t.Errorf("%s, settled: %v", name, got)
		}
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
