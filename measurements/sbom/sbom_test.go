package sbom_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/sbom"
)

func fixture() *manifest.Manifest {
	a := func(name string) manifest.Artifact {
		return manifest.Artifact{Name: name, SHA256: digest.Sum256([]byte(name)), Size: 1}
	}
	return &manifest.Manifest{
		Image:     manifest.Image{Name: "cocoon-cpu", Version: 3, SourceDate: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
		Artifacts: []manifest.Artifact{a("image/vmlinuz")},
		Inputs:    []manifest.Artifact{a("deb/libc6_2.41-12+deb13u1_amd64"), a("locks/tools.lock"), a("tool/mkosi_1:25.3~x_all"), a("toolchain/go1.26.8")},
	}
}

// TestDocumentsHaveWhatSPDXRequires checks the fields that the specification
// makes mandatory (clauses 6, 7, 8 and 11), on the JSON.
func TestDocumentsHaveWhatSPDXRequires(t *testing.T) {
	d, err := sbom.New(fixture(), digest.Sum256(nil))
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	ids := map[string]bool{}
	want := func(what string, o map[string]any, patterns map[string]string) {
		t.Helper()
		for key, p := range patterns {
			s, ok := o[key].(string)
			if !ok || !regexp.MustCompile("^(?:"+p+")$").MatchString(s) {
				t.Errorf("%s: %s is %v, want %s", what, key, o[key], p)
			}
		}
		if s, ok := o["SPDXID"].(string); ok {
			if !id.MatchString(s) || ids[s] {
				t.Errorf("%s: SPDXID %s is malformed or used twice", what, s)
			}
			ids[s] = true
		}
	}
	want("document", doc, map[string]string{"spdxVersion": `SPDX-2\.3`, "dataLicense": `CC0-1\.0`, "SPDXID": "SPDXRef-DOCUMENT", "name": ".+", "documentNamespace": "[a-z]+:[^#]+"})
	want("creation", doc["creationInfo"].(map[string]any), map[string]string{"created": `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`})
	if c := doc["creationInfo"].(map[string]any)["creators"].([]any); len(c) == 0 || !regexp.MustCompile(`^(Tool|Person|Organization): `).MatchString(c[0].(string)) {
		t.Errorf("creators are %v", c)
	}
	names := []string{}
	for _, p := range doc["packages"].([]any) {
		p := p.(map[string]any)
		want("package", p, map[string]string{"SPDXID": ".+", "name": ".+", "downloadLocation": "NOASSERTION|NONE|.+://.+", "licenseConcluded": ".+", "copyrightText": ".+"})
		names = append(names, p["name"].(string)+" "+p["versionInfo"].(string))
		if analysed, ok := p["filesAnalyzed"].(bool); !ok || analysed {
			t.Error("a package claims that its files were analysed")
		}
	}
	if !slices.Equal(names, []string{"cocoon-cpu 3", "libc6 2.41-12+deb13u1", "mkosi 1:25.3~x", "go 1.26.8"}) {
		t.Errorf("packages are %q", names)
	}
	for _, f := range doc["files"].([]any) {
		f := f.(map[string]any)
		want("file", f, map[string]string{"SPDXID": ".+", "fileName": `\./.+`, "licenseConcluded": ".+", "copyrightText": ".+"})
		c := f["checksums"].([]any)[0].(map[string]any)
		want("checksum", c, map[string]string{"algorithm": "SHA256", "checksumValue": "[0-9a-f]{64}"})
	}
	for _, r := range doc["relationships"].([]any) {
		r := r.(map[string]any)
		want("relationship", r, map[string]string{"relationshipType": "DESCRIBES|CONTAINS|BUILD_TOOL_OF|GENERATED_FROM"})
		for _, end := range []string{"spdxElementId", "relatedSpdxElement"} {
			if !ids[r[end].(string)] {
				t.Errorf("relationship to %v, which is not in the document", r[end])
			}
		}
	}
	if len(ids) != 7 {
		t.Errorf("%d elements", len(ids))
	}
}

func TestPackagesWithoutAVersionAreRefused(t *testing.T) {
	m := fixture()
	m.Inputs[0].Name = "deb/libc6"
	if _, err := sbom.New(m, digest.SHA256{}); err == nil {
		t.Error("accepted")
	}
}
