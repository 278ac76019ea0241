// Package release says what the directory of a release looks like: where each
// file is, how the manifest's entries name them, and which files follow from
// the manifest and are written, or held against it, byte for byte.
package release

import (
	"crypto/ed25519"
	_ "embed"
	"fmt"
	"strings"
	"text/template"
	"time"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/manifest"
)

// Files and directories of a release. An artifact or input of the manifest
// whose name starts with one of the directories is the file at that path.
const (
	ImageDir    = "image"    // what boots
	PacksDir    = "packs"    // engine and model
	FirmwareDir = "firmware" // firmware files that the registers are computed for
	LocksDir    = "locks"    // package lock, and what the build took for it
	PackagesDir = "packages" // every package of image and tools, named SHA256.deb
	LogDir      = "log"      // proofs of the transparency log

	ManifestFile    = "manifest.json"   // DSSE envelope
	CoRIMFile       = "manifest.corim"  // the manifest's reference values as CoRIM
	SBOMFile        = "sbom.spdx.json"  // SPDX 2.3
	KeysFile        = "keys.json"       // Trust, as the release itself states it
	PageFile        = "README.md"       // what to check and how
	InclusionFile   = "log/inclusion"   // C2SP tlog-proof
	ConsistencyFile = "log/consistency" // log.Consistency
)

// SavedDir holds what an audit saw outside the release, in a saved bundle.
const SavedDir = "audit"

// Path returns where the file of a manifest's entry is, and whether it has
// one: packages are kept under their hash, a toolchain is named only.
func Path(a manifest.Artifact) (string, bool) {
	dir, _, _ := strings.Cut(a.Name, "/")
	switch dir {
	case ImageDir, PacksDir, FirmwareDir, LocksDir:
		return a.Name, true
	case "deb", "tool":
		return PackagePath(a.SHA256), true
	}
	return "", false
}

// PackagePath returns where a package is.
func PackagePath(sum digest.SHA256) string { return PackagesDir + "/" + sum.String() + ".deb" }

// MaxTrust bounds a Trust document, in bytes.
const MaxTrust = 64 << 10

// Trust says whose word counts for releases: the keys that sign manifests and
// how many of them it takes, and the key of the log.
type Trust struct {
	Format    int             `json:"format"` // 1
	Keys      []digest.SHA256 `json:"keys"`   // raw Ed25519 keys
	Threshold int             `json:"threshold"`
	Log       *log.Key        `json:"log,omitempty"`
}

// NewTrust returns the document for keys that all have to sign.
func NewTrust(keys []ed25519.PublicKey, k *log.Key) *Trust {
	t := &Trust{Format: 1, Keys: []digest.SHA256{}, Threshold: len(keys), Log: k}
	for _, key := range keys {
		t.Keys = append(t.Keys, digest.SHA256(key))
	}
	return t
}

// ParseTrust reads a Trust document, strictly.
func ParseTrust(doc []byte) (*Trust, error) {
	var t Trust
	if err := jcs.Decode(doc, MaxTrust, &t); err != nil {
		return nil, fmt.Errorf("reading keys of a release: %w", err)
	}
	seen := map[digest.SHA256]bool{}
	for _, k := range t.Keys {
		seen[k] = true
	}
	if t.Format != 1 || len(t.Keys) == 0 || len(t.Keys) > 32 || len(seen) != len(t.Keys) || t.Threshold < 1 || t.Threshold > len(t.Keys) {
		return nil, fmt.Errorf("reading keys of a release: want format 1, 1 to 32 distinct keys and a threshold that they can meet")
	}
	return &t, nil
}

// Encode writes the document as it stands in a release: RFC 8785 and a line
// end.
func (t *Trust) Encode() ([]byte, error) {
	b, err := jcs.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("writing keys of a release: %w", err)
	}
	return append(b, '\n'), nil
}

//go:embed page.tmpl
var pageText string

// Page returns the release's page: what is in it, and what to check and how.
func Page(m *manifest.Manifest, payload digest.SHA256) ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"date": func(t time.Time) string { return t.Format(time.DateOnly) },
		"path": func(a manifest.Artifact) string { p, _ := Path(a); return p },
	}).Parse(pageText)
	if err != nil {
		return nil, fmt.Errorf("reading the page's template: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, struct {
		*manifest.Manifest
		SHA256 digest.SHA256
	}{m, payload}); err != nil {
		return nil, fmt.Errorf("writing the release's page: %w", err)
	}
	return []byte(b.String()), nil
}
