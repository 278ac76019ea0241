package manifest_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
)

func TestDiffNamesTheFieldsThatDiffer(t *testing.T) {
	x, y := fixture(t), fixture(t)
	if ds, err := manifest.Diff(x, y); err != nil || len(ds) != 0 {
		t.Errorf("of one manifest with itself: %v, %v", ds, err)
	}
	y.Image.Version = 2
	y.Artifacts = append([]manifest.Artifact{{Name: "image/a", SHA256: digest.Sum256(nil)}}, y.Artifacts...)
	y.TDX = nil
	ds, err := manifest.Diff(x, y)
	if err != nil {
		t.Fatal(err)
	}
	got, tdx := []manifest.Difference{}, 0
	for _, d := range ds {
		if len(d.Field) > 3 && d.Field[:4] == "tdx." {
			tdx++
			continue
		}
		got = append(got, d)
	}
	want := []manifest.Difference{
		{Field: "artifacts[image/a].name", New: `"image/a"`}, {Field: "artifacts[image/a].sha256", New: `"` + digest.Sum256(nil).String() + `"`},
		{Field: "artifacts[image/a].size", New: "0"}, {Field: "image.version", Old: "1", New: "2"},
	}
	if diff := cmp.Diff(want, got); diff != "" || tdx == 0 {
		t.Errorf("%d of TDX; others (-want +got):\n%s", tdx, diff)
	}
}

func TestSignersSignOneAfterTheOther(t *testing.T) {
	m := fixture(t)
	pubA, a := newKey(t)
	pubB, b := newKey(t)
	env, err := manifest.Sign(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range [][]byte{a, b} {
		if env, err = manifest.AddSignatures(env, k); err != nil {
			t.Fatal(err)
		}
	}
	together, err := manifest.Sign(m, a, b)
	if err != nil || string(together) != string(env) {
		t.Errorf("signed together it is another envelope, %v", err)
	}
	if v, err := manifest.Open(env, manifest.Trust{Keys: []digest.SHA256{pubA, pubB}, Threshold: 2}); err != nil || len(v.Signers) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := manifest.AddSignatures(env, a); !errors.Is(err, manifest.ErrForm) {
		t.Errorf("signing twice: %v", err)
	}
	if _, err := manifest.AddSignatures([]byte(`{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[]}`), a); !errors.Is(err, manifest.ErrForm) {
		t.Errorf("signing what is no manifest: %v", err)
	}
}
