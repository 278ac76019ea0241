// Package sbom writes the bill of materials of a release: SPDX 2.3 in JSON,
// from the manifest alone, so that anyone can compute the same bytes again.
//
// Definition: SPDX Specification 2.3, clauses 6 (document creation), 7
// (packages), 8 (files) and 11 (relationships); JSON as in its schema.
package sbom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
)

// Document is an SPDX document.
type Document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      CreationInfo   `json:"creationInfo"`
	DocumentDescribes []string       `json:"documentDescribes"`
	Packages          []Package      `json:"packages"`
	Files             []File         `json:"files"`
	Relationships     []Relationship `json:"relationships"`
}

// CreationInfo says when and by what a document was made.
type CreationInfo struct {
	Created  time.Time `json:"created"`
	Creators []string  `json:"creators"`
}

// Checksum is a hash of a package or a file.
type Checksum struct {
	Algorithm     string        `json:"algorithm"` // SHA256
	ChecksumValue digest.SHA256 `json:"checksumValue"`
}

// Package is a Debian package, or the image itself.
type Package struct {
	SPDXID           string        `json:"SPDXID"`
	Name             string        `json:"name"`
	VersionInfo      string        `json:"versionInfo"`
	PackageFileName  string        `json:"packageFileName,omitempty"`
	DownloadLocation string        `json:"downloadLocation"`
	FilesAnalyzed    bool          `json:"filesAnalyzed"`
	LicenseConcluded string        `json:"licenseConcluded"`
	LicenseDeclared  string        `json:"licenseDeclared"`
	CopyrightText    string        `json:"copyrightText"`
	Checksums        []Checksum    `json:"checksums,omitempty"`
	ExternalRefs     []ExternalRef `json:"externalRefs,omitempty"`
}

// ExternalRef is a package URL.
type ExternalRef struct {
	ReferenceCategory string `json:"referenceCategory"` // PACKAGE-MANAGER
	ReferenceType     string `json:"referenceType"`     // purl
	ReferenceLocator  string `json:"referenceLocator"`
}

// File is a file of the release.
type File struct {
	SPDXID           string     `json:"SPDXID"`
	FileName         string     `json:"fileName"`
	Checksums        []Checksum `json:"checksums"`
	LicenseConcluded string     `json:"licenseConcluded"`
	CopyrightText    string     `json:"copyrightText"`
}

// Relationship ties two elements.
type Relationship struct {
	SPDXElementID      string `json:"spdxElementId"`
	RelatedSPDXElement string `json:"relatedSpdxElement"`
	RelationshipType   string `json:"relationshipType"`
}

const (
	noAssertion = "NOASSERTION"
	documentID  = "SPDXRef-DOCUMENT"
	imageID     = "SPDXRef-image"
)

// New describes a manifest. payload is its identity.
func New(m *manifest.Manifest, payload digest.SHA256) (*Document, error) {
	d := &Document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: documentID,
		Name:              fmt.Sprintf("%s-%d", m.Image.Name, m.Image.Version),
		DocumentNamespace: "urn:cocoon:sbom:" + payload.String(),
		CreationInfo:      CreationInfo{Created: m.Image.SourceDate, Creators: []string{"Tool: cocoon"}},
		DocumentDescribes: []string{imageID},
		Packages: []Package{{SPDXID: imageID, Name: m.Image.Name, VersionInfo: fmt.Sprint(m.Image.Version), DownloadLocation: noAssertion,
			LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion}},
		Files: []File{}, Relationships: []Relationship{{documentID, imageID, "DESCRIBES"}},
	}
	for i, a := range m.Artifacts {
		d.addFile(fmt.Sprintf("SPDXRef-artifact-%d", i), a, "CONTAINS")
	}
	for i, a := range m.Inputs {
		kind, rest, _ := strings.Cut(a.Name, "/")
		id := fmt.Sprintf("SPDXRef-input-%d", i)
		switch kind {
		case "deb", "tool":
			p, err := debian(id, rest, a.SHA256)
			if err != nil {
				return nil, err
			}
			d.Packages = append(d.Packages, p)
			relation := Relationship{imageID, id, "CONTAINS"}
			if kind == "tool" {
				relation = Relationship{id, imageID, "BUILD_TOOL_OF"}
			}
			d.Relationships = append(d.Relationships, relation)
		case "toolchain":
			d.Packages = append(d.Packages, Package{SPDXID: id, Name: "go", VersionInfo: strings.TrimPrefix(rest, "go"), DownloadLocation: noAssertion,
				LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion})
			d.Relationships = append(d.Relationships, Relationship{id, imageID, "BUILD_TOOL_OF"})
		default:
			d.addFile(id, a, "GENERATED_FROM")
		}
	}
	return d, nil
}

func (d *Document) addFile(id string, a manifest.Artifact, relation string) {
	d.Files = append(d.Files, File{SPDXID: id, FileName: "./" + a.Name, Checksums: []Checksum{{"SHA256", a.SHA256}}, LicenseConcluded: noAssertion, CopyrightText: noAssertion})
	d.Relationships = append(d.Relationships, Relationship{imageID, id, relation})
}

// debian reads an input's name, NAME_VERSION_ARCH.
func debian(id, name string, sum digest.SHA256) (Package, error) {
	parts := strings.Split(name, "_")
	if len(parts) != 3 {
		return Package{}, fmt.Errorf("describing package %.128q: want NAME_VERSION_ARCH", name)
	}
	purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", url.PathEscape(parts[0]), url.PathEscape(parts[1]), url.QueryEscape(parts[2]))
	return Package{
		SPDXID: id, Name: parts[0], VersionInfo: parts[1], PackageFileName: "./packages/" + sum.String() + ".deb", DownloadLocation: noAssertion,
		LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion, Checksums: []Checksum{{"SHA256", sum}},
		ExternalRefs: []ExternalRef{{"PACKAGE-MANAGER", "purl", purl}},
	}, nil
}

// Encode writes the document, indented, with a line end.
func (d *Document) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d); err != nil {
		return nil, fmt.Errorf("writing SBOM: %w", err)
	}
	return b.Bytes(), nil
}
