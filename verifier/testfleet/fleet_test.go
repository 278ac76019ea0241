package testfleet_test

import (
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/snp"
	"cocoon/verifier/testfleet"
)

var now = time.Date(2026, 11, 20, 12, 30, 0, 0, time.UTC)

func TestTheFleetIsAcceptedForItsChallenges(t *testing.T) {
	f, err := testfleet.New("test")
	if err != nil {
		t.Fatal(err)
	}
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	p := f.Policy(policy.ClassTest, policy.ClassTDX, policy.ClassSNP)
	ms, err := appraise.OpenManifests(p, []manifest.Published{{Envelope: env}})
	if err != nil {
		t.Fatal(err)
	}
	o := appraise.Options{Policy: p, Manifests: ms, Now: now, RequireChallenge: true,
		CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots()}, SNP: snp.Options{Roots: f.SNPPKI().Roots()}}),
		GPUs: gpus.New(gpus.Options{Roots: f.GPUPKI().Roots(), RIMRoots: f.GPUPKI().RIMRoots()})}
	for _, kind := range testfleet.Kinds() {
		m, err := f.Machine(kind, now)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		one, two := digest.Sum256([]byte("1")), digest.Sum256([]byte("2"))
		for _, c := range []digest.SHA256{one, two} {
			doc, err := m.Evidence(c)
			if err != nil {
				t.Fatal(err)
			}
			ev, err := evidence.Parse(doc)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ev.Marshal(); err != nil || string(again) != string(doc) {
				t.Errorf("%s: not in RFC 8785 form: %v", kind, err)
			}
			o.Challenges = []digest.SHA256{c}
			if r := resulttest.Complete(t, appraise.Appraise(ev, &o)); !r.Accepted {
				t.Errorf("%s: %v", kind, r.Err())
			}
			o.Challenges = []digest.SHA256{digest.Sum256(nil)}
			if r := resulttest.Complete(t, appraise.Appraise(ev, &o)); r.Accepted {
				t.Errorf("%s: accepted for another challenge", kind)
			}
			if m.Size() != len(doc) {
				t.Errorf("%s: %d bytes, said %d", kind, len(doc), m.Size())
			}
		}
	}
	if _, err := f.Machine("sparc", now); err == nil {
		t.Error("a machine of no kind")
	}
}

func TestASeedGivesTheSameFilesEveryTime(t *testing.T) {
	var before map[string][]byte
	for range 2 {
		f, err := testfleet.New(testfleet.ExampleSeed)
		if err != nil {
			t.Fatal(err)
		}
		files, err := f.Files()
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range before {
			if name != testfleet.FileAMD && string(files[name]) != string(b) {
				t.Errorf("%s differs", name)
			}
		}
		before = files
	}
	p, err := policy.Parse(before[testfleet.FilePolicy])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Open(before[testfleet.FileManifest], p.Trust()); err != nil {
		t.Error(err)
	}
}
