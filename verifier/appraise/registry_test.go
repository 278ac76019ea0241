package appraise_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// TestARegistryDecidesAboutManifestAndModel appraises under a policy that
// names a registry and no key or hash of its own.
func TestARegistryDecidesAboutManifestAndModel(t *testing.T) {
	w := tpmtest.NewWorld(t)
	w.Policy.Manifests = policy.Manifests{
		Hashes: []digest.SHA256{}, Keys: []digest.SHA256{}, Revoked: []digest.SHA256{},
		Registry: &policy.Registry{Address: "0:registry", NetworkID: -3, MaxAgeSeconds: 60},
	}
	if err := w.Policy.Validate(); err != nil {
		t.Fatal(err)
	}
	manifests, err := appraise.OpenManifests(w.Policy, []manifest.Published{{Envelope: w.Envelope(t)}})
	if err != nil {
		t.Fatal(err)
	}
	id, model := manifests[0].SHA256, w.Config.Model.Verity.Root
	ev := w.Evidence(t)
	grace := tpmtest.Now.Add(10 * time.Minute)
	for name, c := range map[string]struct {
		change   func(*appraise.Registry)
		none     bool
		want     []string
		notAfter time.Time
	}{
		"listed":               {notAfter: tpmtest.Now.Add(time.Hour)},
		"in grace":             {change: func(r *appraise.Registry) { r.Manifests[id] = appraise.ManifestState{Listed: true, Until: grace} }, notAfter: grace},
		"grace over":           {change: func(r *appraise.Registry) { r.Manifests[id] = appraise.ManifestState{Listed: true, Until: tpmtest.Now} }, want: []string{"manifest.registry", "manifest.trusted"}},
		"revoked":              {change: func(r *appraise.Registry) { r.Manifests[id] = appraise.ManifestState{} }, want: []string{"manifest.registry", "manifest.trusted"}},
		"not listed":           {change: func(r *appraise.Registry) { delete(r.Manifests, id) }, want: []string{"manifest.registry", "manifest.trusted"}},
		"model not listed":     {change: func(r *appraise.Registry) { delete(r.Models, model) }, want: []string{"model.registry"}},
		"model retired":        {change: func(r *appraise.Registry) { r.Models[model] = false }, want: []string{"model.registry"}},
		"an old state":         {change: func(r *appraise.Registry) { r.Time = tpmtest.Now.Add(-61 * time.Second) }, want: []string{"manifest.trusted", "registry.state"}},
		"another registry":     {change: func(r *appraise.Registry) { r.Address = "0:other" }, want: []string{"manifest.trusted", "registry.state"}},
		"another network":      {change: func(r *appraise.Registry) { r.NetworkID = -239 }, want: []string{"manifest.trusted", "registry.state"}},
		"no state of registry": {none: true, want: []string{"manifest.trusted", "registry.state"}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := &appraise.Registry{Address: "0:registry", NetworkID: -3, Time: tpmtest.Now.Add(-time.Second),
				Manifests: map[digest.SHA256]appraise.ManifestState{id: {Listed: true}}, Models: map[digest.SHA256]bool{model: true}}
			if c.change != nil {
				c.change(reg)
			}
			if c.none {
				reg = nil
			}
			r := resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: manifests, Registry: reg, Now: tpmtest.Now}))
			if diff := cmp.Diff(c.want, failedIDs(r)); diff != "" {
				t.Errorf("failed checks (-want +got):\n%s", diff)
			}
			if r.Accepted != (len(c.want) == 0) {
				t.Errorf("accepted %v", r.Accepted)
			}
			if r.Accepted && !r.NotAfter.Equal(c.notAfter) {
				t.Errorf("good until %s, want %s", r.NotAfter, c.notAfter)
			}
		})
	}
}

// TestOpeningUnderAnotherTrustIsNoWayAround hands in a manifest that was
// opened under a trust of the caller's own.
func TestOpeningUnderAnotherTrustIsNoWayAround(t *testing.T) {
	w := tpmtest.NewWorld(t)
	v, err := manifest.Read(w.Envelope(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := resulttest.Complete(t, appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: []*manifest.Verified{v}, Now: tpmtest.Now}))
	if diff := cmp.Diff([]string{"manifest.trusted"}, failedIDs(r)); diff != "" || r.Accepted {
		t.Errorf("accepted %v, failed checks (-want +got):\n%s", r.Accepted, diff)
	}
}
