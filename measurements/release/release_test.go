package release_test

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
)

func TestEntriesOfAManifestAreFiles(t *testing.T) {
	sum := digest.Sum256(nil)
	for name, want := range map[string]string{
		"image/vmlinuz": "image/vmlinuz", "packs/model.img": "packs/model.img", "firmware/OVMF.fd": "firmware/OVMF.fd", "locks/tools.lock": "locks/tools.lock",
		"deb/libc6_2.41_amd64": "packages/" + sum.String() + ".deb", "tool/mkosi_25_all": "packages/" + sum.String() + ".deb", "toolchain/go1.26": "", "other": "",
	} {
		got, ok := release.Path(manifest.Artifact{Name: name, SHA256: sum})
		if got != want || ok != (want != "") {
			t.Errorf("%s is at %q, %v; want %q", name, got, ok, want)
		}
	}
}

func TestTrustIsStrict(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	k, err := log.NewKey("log.example.org/cocoon", key)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := release.NewTrust([]ed25519.PublicKey{key}, &k).Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := release.ParseTrust(doc)
	if err != nil || got.Threshold != 1 || got.Keys[0] != digest.SHA256(key) || got.Log.String() != k.String() {
		t.Fatalf("%+v, %v", got, err)
	}
	if again, err := got.Encode(); err != nil || !bytes.Equal(again, doc) {
		t.Errorf("written again it is %s, %v", again, err)
	}
	for name, bad := range map[string]string{
		"another format":           strings.Replace(string(doc), `"format":1`, `"format":2`, 1),
		"no threshold":             strings.Replace(string(doc), `"threshold":1`, `"threshold":0`, 1),
		"a threshold out of reach": strings.Replace(string(doc), `"threshold":1`, `"threshold":2`, 1),
		"an unknown field":         strings.Replace(string(doc), `"format"`, `"form"`, 1),
		"another log id":           strings.Replace(string(doc), "cocoon+", "cocoon+0", 1),
		"no keys":                  `{"format":1,"keys":[],"threshold":1}`,
		"a key twice":              strings.Replace(string(doc), `"keys":[`, `"keys":["`+digest.SHA256(key).String()+`",`, 1),
	} {
		if _, err := release.ParseTrust([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestThePageNamesWhatIsToBeCompared(t *testing.T) {
	date := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := &manifest.Manifest{Image: manifest.Image{Name: "cocoon-debug", Version: 3, Profile: "debug", Debug: true, SourceDate: date}, Sunset: date.AddDate(1, 0, 0),
		Artifacts: []manifest.Artifact{{Name: "image/vmlinuz", SHA256: digest.Sum256([]byte("k")), Size: 7}}}
	page, err := release.Page(m, digest.Sum256(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# cocoon-debug 3\n", digest.Sum256(nil).String(), "FOR DEBUGGING ONLY", "sources of 2026-01-01, refused from 2027-01-01", "| image/vmlinuz | `" + digest.Sum256([]byte("k")).String() + "` | 7 |"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page does not say %q:\n%s", want, page)
		}
	}
}

func FuzzParseTrust(f *testing.F) {
	f.Add([]byte(`{"format":1,"keys":["0000000000000000000000000000000000000000000000000000000000000001"],"threshold":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		trust, err := release.ParseTrust(b)
		if err != nil {
			return
		}
		doc, err := trust.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := release.ParseTrust(doc); err != nil {
			t.Fatalf("%s is not read again: %v", doc, err)
		}
	})
}
