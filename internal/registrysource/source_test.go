package registrysource

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/contracts/chain"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
	"cocoon/verifier/tpmtest"
)

func TestOnlyWhatTheRegistryAcceptsIsListed(t *testing.T) {
	hash := func(s string) digest.SHA256 { return digest.Sum256([]byte(s)) }
	until := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	reg := &registry.State{
		Manifests: map[[32]byte]registry.Manifest{
			hash("active"): {State: registry.Active}, hash("grace"): {State: registry.Grace, GraceUntil: until},
			hash("revoked"): {State: registry.Revoked}, hash("unknown"): {State: 99},
		},
		Models: map[[32]byte]registry.Model{hash("served"): {Active: true}, hash("gone"): {}},
	}
	got := State("as the policy spells it", reg, &chain.State{GlobalID: -239, Utime: 1_700_000_000})
	want := &appraise.Registry{
		Address: "as the policy spells it", NetworkID: -239, Time: time.Unix(1_700_000_000, 0),
		Manifests: map[digest.SHA256]appraise.ManifestState{
			hash("active"): {Listed: true}, hash("grace"): {Listed: true, Until: until},
		},
		Models: map[digest.SHA256]bool{hash("served"): true, hash("gone"): false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	if _, err := Open("absent.json", &policy.Registry{Address: "nowhere"}, nil); !fault.Has(err, "registry.address") {
		t.Errorf("got %v", err)
	}
}

// shelf is a verifier that has some envelopes.
type shelf map[digest.SHA256]manifest.Published

func (s shelf) Manifest(_ context.Context, hash digest.SHA256) (manifest.Published, error) {
	if p, ok := s[hash]; ok {
		return p, nil
	}
	return manifest.Published{}, errors.New("not here")
}

func TestManifestsComeFromWhoeverHasThem(t *testing.T) {
	w := tpmtest.NewWorld(t)
	env := manifest.Published{Envelope: w.Envelope(t), Inclusion: []byte("proof")}
	hash := w.Manifests(t)[0].SHA256
	listed := &appraise.Registry{Manifests: map[digest.SHA256]appraise.ManifestState{hash: {Listed: true}}}
	for name, c := range map[string]struct {
		have []manifest.Published
		from []Fetcher
		want int
		code string
	}{
		"a file":                     {[]manifest.Published{env}, nil, 1, ""},
		"the second verifier":        {nil, []Fetcher{shelf{}, shelf{hash: env}}, 1, ""},
		"a file and a verifier":      {[]manifest.Published{env}, []Fetcher{shelf{hash: env}}, 1, ""},
		"nobody":                     {nil, []Fetcher{shelf{}}, 0, "manifest.unavailable"},
		"nobody, beside a wrong one": {[]manifest.Published{{Envelope: []byte("{}")}}, nil, 1, "manifest.unavailable"},
	} {
		got, err := Manifests(context.Background(), w.Policy, listed, c.have, c.from)
		if len(got) != c.want || (err == nil) != (c.code == "") || (c.code != "" && !fault.Has(err, c.code)) {
			t.Errorf("%s: %d envelopes, %v", name, len(got), err)
		}
		if c.code == "" && string(got[0].Inclusion) != "proof" {
			t.Errorf("%s: the proof has not come along: %q", name, got[0].Inclusion)
		}
	}
	got, err := Manifests(context.Background(), w.Policy, &appraise.Registry{Manifests: map[digest.SHA256]appraise.ManifestState{hash: {}}}, nil, []Fetcher{shelf{hash: env}})
	if len(got) != 0 || err != nil {
		t.Errorf("a manifest that is not listed was fetched: %d, %v", len(got), err)
	}
}
