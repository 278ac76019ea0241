package appraise_test

import (
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

// TestASupersededManifestEndsWithItsGrace boots an old release after a later
// manifest gave it a date.
func TestASupersededManifestEndsWithItsGrace(t *testing.T) {
	w := tpmtest.NewWorld(t)
	ev := w.Evidence(t)
	old := w.Manifests(t)[0]
	later := func(grace time.Time, version uint64, name string) *manifest.Verified {
		m := *old.Manifest
		m.Image.Version, m.Image.Name = version, name
		m.Supersedes = []manifest.Superseded{{Manifest: old.SHA256, GraceUntil: grace.UTC().Truncate(time.Second)}}
		boot := w.Boot
		boot.Components.InitrdSHA256 = d("newer initrd")
		fw, err := manifest.NewTPMFirmware(boot.Firmware, boot.Components, boot.Cmdline)
		if err != nil {
			t.Fatal(err)
		}
		m.TPM = &manifest.TPM{Components: boot.Components, Firmwares: []manifest.TPMFirmware{fw}}
		w.Manifest = &m
		return w.Manifests(t)[0]
	}
	before, after := tpmtest.Now.Add(10*time.Minute), tpmtest.Now.Add(-time.Minute)
	untrusted := *w.Policy
	untrusted.Manifests.Hashes, untrusted.Manifests.Keys, untrusted.Manifests.Threshold = append(untrusted.Manifests.Hashes, old.SHA256), nil, 0
	for name, c := range map[string]struct {
		later  *manifest.Verified
		policy *policy.Policy
		want   bool
	}{
		"in grace":                        {later(before, 2, "test-image"), w.Policy, true},
		"after grace":                     {later(after, 2, "test-image"), w.Policy, false},
		"by a manifest of another image":  {later(after, 2, "other-image"), w.Policy, true},
		"by a manifest that is not newer": {later(after, 1, "test-image"), w.Policy, true},
		"by a manifest that is untrusted": {later(after, 2, "test-image"), &untrusted, true},
	} {
		r := resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: c.policy, Manifests: []*manifest.Verified{old, c.later}, Now: tpmtest.Now}))
		if r.Accepted != c.want {
			t.Errorf("%s: accepted %v, want %v: %v", name, r.Accepted, c.want, r.Err())
		}
		if name == "in grace" && r.NotAfter.After(before) {
			t.Errorf("%s: a verdict may live until %s, after the grace's end", name, r.NotAfter)
		}
		if f := r.Failed(); !c.want && (len(f) != 1 || f[0].ID != "manifest.grace") {
			t.Errorf("%s: failed checks are %v", name, f)
		}
	}
}

// TestOfSeveralManifestsTheFittingOneCounts boots an older release while a
// newer one is accepted, too.
func TestOfSeveralManifestsTheFittingOneCounts(t *testing.T) {
	w := tpmtest.NewWorld(t)
	old := w.Manifests(t)[0]
	w.Boot.Components.InitrdSHA256 = d("newer initrd")
	fw, err := manifest.NewTPMFirmware(w.Boot.Firmware, w.Boot.Components, w.Boot.Cmdline)
	if err != nil {
		t.Fatal(err)
	}
	w.Manifest.Image.Version = 2
	w.Manifest.TPM = &manifest.TPM{Components: w.Boot.Components, Firmwares: []manifest.TPMFirmware{fw}}
	newer := w.Manifests(t)[0]
	o := &appraise.Options{Policy: w.Policy, Manifests: []*manifest.Verified{old, newer}, Now: tpmtest.Now}
	for _, c := range []struct {
		initrd digest.SHA256
		want   digest.SHA256
	}{{old.Manifest.TPM.Components.InitrdSHA256, old.SHA256}, {newer.Manifest.TPM.Components.InitrdSHA256, newer.SHA256}} {
		w.Boot.Components.InitrdSHA256 = c.initrd
		r := resulttest.Complete(t, appraise.Appraise(w.Evidence(t), o))
		if !r.Accepted || r.Manifest.SHA256 != c.want {
			t.Errorf("initrd %s: accepted %v by %v, want %s: %v", c.initrd, r.Accepted, r.Manifest, c.want, r.Err())
		}
	}
}
