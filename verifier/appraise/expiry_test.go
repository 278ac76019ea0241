package appraise_test

import (
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// TestAVerdictEndsWithTheFirstOfItsBounds has each thing that a machine's verdict
// rests on end first in turn: certificates, manifest, registry, policy. A second
// after it the evidence is refused, unless it is the verdict's own life that ended.
// TEEs and GPUs are in the tests of packages tee and nvgpu.
func TestAVerdictEndsWithTheFirstOfItsBounds(t *testing.T) {
	const bound = 10 * time.Minute
	end := tpmtest.Now.Add(bound)
	reissue := func(t *testing.T, w *tpmtest.World, ev *evidence.Evidence, to time.Time) {
		der, err := w.AKCA.Issue(w.TPM.AKPublic, w.TPM.AK.Public(), w.EKCA.Cert, tpmtest.Now.Add(-5*time.Minute), to)
		if err != nil {
			t.Fatal(err)
		}
		ev.CPU.CertChain = [][]byte{der, w.AKCA.Cert.Raw}
	}
	registry := func(w *tpmtest.World, o *appraise.Options, s appraise.ManifestState) {
		w.Policy.Manifests.Registry = &policy.Registry{Address: "0:aa", NetworkID: -3, MaxAgeSeconds: 3600}
		o.Registry = &appraise.Registry{Address: "0:aa", NetworkID: -3, Time: tpmtest.Now.Add(time.Minute), Manifests: map[digest.SHA256]appraise.ManifestState{o.Manifests[0].SHA256: s},
			Models: map[digest.SHA256]bool{w.Config.Model.Verity.Root: true}}
	}
	for name, c := range map[string]struct {
		world    func(*testing.T, *tpmtest.World)
		evidence func(*testing.T, *tpmtest.World, *evidence.Evidence)
		options  func(*testing.T, *tpmtest.World, *appraise.Options)
		want     time.Duration
		lives    bool
	}{
		"an hour":              {want: time.Hour, lives: true},
		"an hour whoever asks": {world: func(_ *testing.T, w *tpmtest.World) { w.Policy.Freshness.VerdictSeconds = 7200 }, want: time.Hour, lives: true},
		"the policy":           {world: func(_ *testing.T, w *tpmtest.World) { w.Policy.Freshness.VerdictSeconds = int64(bound / time.Second) }, want: bound, lives: true},
		"AK certificate":       {evidence: func(t *testing.T, w *tpmtest.World, ev *evidence.Evidence) { reissue(t, w, ev, end) }, want: bound},
		"the AK's authority": {world: func(t *testing.T, w *tpmtest.World) {
			var err error
			if w.AKCA, err = tpm.NewCA("test AK CA", tpmtest.Now.Add(-time.Hour), time.Hour+bound); err != nil {
				t.Fatal(err)
			}
			w.Policy.TPM.AKRoots = [][]byte{w.AKCA.Cert.Raw}
		}, want: bound},
		"the manifest's sunset": {world: func(_ *testing.T, w *tpmtest.World) { w.Manifest.Sunset = end }, want: bound},
		"a later manifest's grace": {options: func(t *testing.T, w *tpmtest.World, o *appraise.Options) {
			m := *w.Manifest
			m.Image.Version, m.Supersedes = 2, []manifest.Superseded{{Manifest: o.Manifests[0].SHA256, GraceUntil: end}}
			w.Boot.Components.InitrdSHA256 = d("newer initrd")
			fw, err := manifest.NewTPMFirmware(w.Boot.Firmware, w.Boot.Components, w.Boot.Cmdline)
			if err != nil {
				t.Fatal(err)
			}
			m.TPM = &manifest.TPM{Components: w.Boot.Components, Firmwares: []manifest.TPMFirmware{fw}}
			w.Manifest = &m
			o.Manifests = append(o.Manifests, w.Manifests(t)...)
		}, want: bound},
		"the registry's grace": {options: func(_ *testing.T, w *tpmtest.World, o *appraise.Options) {
			registry(w, o, appraise.ManifestState{Listed: true, Until: end})
		}, want: bound},
		"no grace of the registry's": {options: func(_ *testing.T, w *tpmtest.World, o *appraise.Options) {
			registry(w, o, appraise.ManifestState{Listed: true})
		}, want: time.Hour, lives: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := tpmtest.NewWorld(t)
			if c.world != nil {
				c.world(t, w)
			}
			ev := w.Evidence(t)
			if c.evidence != nil {
				c.evidence(t, w, ev)
			}
			o := &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now}
			if c.options != nil {
				c.options(t, w, o)
			}
			r := resulttest.Complete(t, appraise.Appraise(ev, o))
			if want := tpmtest.Now.Add(c.want); !r.Accepted || !r.NotAfter.Equal(want) {
				t.Fatalf("accepted %v until %s, want %s: %v", r.Accepted, r.NotAfter, want, r.Err())
			}
			o.Now = tpmtest.Now.Add(c.want + time.Second)
			if r := resulttest.Complete(t, appraise.Appraise(ev, o)); r.Accepted != c.lives {
				t.Errorf("a second after it: accepted %v, failed %v", r.Accepted, r.Failed())
			}
		})
	}
}
