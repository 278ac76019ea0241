package appraise

import (
	"fmt"
	"slices"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// Registry is what a registry on a ledger said at one block. Whoever fills it
// has proven the state against the ledger (DESIGN section 5); this package
// holds evidence against it.
type Registry struct {
	Address   string    // as the policy names it
	NetworkID int32     // TON global id
	Time      time.Time // of the block that proves the state
	Manifests map[digest.SHA256]ManifestState
	Models    map[digest.SHA256]bool // verity root: served by the network
}

// ManifestState is what a registry says of a manifest.
type ManifestState struct {
	Listed bool      // active, or in grace
	Until  time.Time // end of the grace; zero: no end
}

// good reports whether a manifest is accepted at a time.
func (r *Registry) good(m digest.SHA256, now time.Time) bool {
	s := r.Manifests[m]
	return s.Listed && (s.Until.IsZero() || now.Before(s.Until))
}

// graceEnd returns when a manifest stops being accepted, zero if there is no
// end.
func graceEnd(r *Registry, m digest.SHA256) time.Time {
	if r == nil {
		return time.Time{}
	}
	return r.Manifests[m].Until
}

// checkTrust checks that the policy accepts the manifest: by its hash, by
// enough of the keys, or by the registry; where a registry is named, it has to
// list the manifest and the model whatever else holds. What passes here is no
// more than named by those whom the policy trusts: it ends what it supersedes,
// and whether it is itself accepted is for checkManifest.
func (a *appraisal) checkTrust(m *manifest.Verified) {
	p := &a.o.Policy.Manifests
	signed := 0
	for _, k := range m.Signers {
		if slices.Contains(p.Keys, k) {
			signed++
		}
	}
	trusted := slices.Contains(p.Hashes, m.SHA256) || p.Threshold > 0 && signed >= p.Threshold
	if p.Registry == nil {
		if !trusted {
			a.fail(result.SubImage, "manifest.trusted", trustText(p), m.SHA256.String(), "the policy does not accept the manifest", "name its hash or its signers in the policy")
			return
		}
		a.pass(result.SubImage, "manifest.trusted", m.SHA256.String())
		return
	}
	listed := a.checkRegistry(p.Registry, m)
	if !trusted && !listed {
		a.fail(result.SubImage, "manifest.trusted", trustText(p), m.SHA256.String(), "neither policy nor registry accepts the manifest", "publish the manifest in the registry")
		return
	}
	a.pass(result.SubImage, "manifest.trusted", m.SHA256.String())
}

// checkRegistry checks the registry's state and what it says of manifest and
// model. It reports whether the manifest is listed.
func (a *appraisal) checkRegistry(want *policy.Registry, m *manifest.Verified) bool {
	r := a.o.Registry
	const remedy = "connect to the ledger of the policy's registry"
	name := fmt.Sprintf("%s on network %d", want.Address, want.NetworkID)
	if r == nil {
		a.fail(result.SubImage, "registry.state", name, "none", "the policy wants a registry's state", remedy)
		return false
	}
	if r.Address != want.Address || r.NetworkID != want.NetworkID {
		a.fail(result.SubImage, "registry.state", name, fmt.Sprintf("%s on network %d", truncate(r.Address, 128), r.NetworkID), "the state is of another registry", remedy)
		return false
	}
	oldest := a.now.Add(-time.Duration(want.MaxAgeSeconds) * time.Second)
	at := r.Time.UTC().Format(time.RFC3339)
	if r.Time.Before(oldest) {
		a.fail(result.SubImage, "registry.state", "after "+oldest.UTC().Format(time.RFC3339), at, "the registry's state is old", "check the lite-servers and the clock")
		return false
	}
	a.pass(result.SubImage, "registry.state", at)
	listed := r.good(m.SHA256, a.now)
	if listed {
		a.pass(result.SubImage, "manifest.registry", m.SHA256.String())
	} else {
		a.fail(result.SubImage, "manifest.registry", "a manifest that the registry lists", m.SHA256.String(), "the registry does not list the manifest, or its grace is over", "boot an image whose manifest is listed")
	}
	for _, model := range a.ev.Config.ServedModels() {
		root := model.Verity.Root
		if r.Models[root] {
			a.pass(result.SubModel, "model.registry", root.String())
		} else {
			a.fail(result.SubModel, "model.registry", "a model that the registry lists", root.String(), "the registry does not list the model", "serve a model that is listed")
		}
	}
	return listed
}

func trustText(p *policy.Manifests) string {
	switch {
	case p.Registry != nil:
		return "a manifest that registry " + p.Registry.Address + " lists"
	case len(p.Hashes) > 0:
		return join(p.Hashes)
	}
	return fmt.Sprintf("%d signatures by %s", p.Threshold, join(p.Keys))
}
