package registrysource

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/contracts/chain"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
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
