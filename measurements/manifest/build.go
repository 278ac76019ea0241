package manifest

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"sort"
	"time"

	"cocoon/internal/bootargs"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/pcr"
)

// MaxRelease bounds a Release document, in bytes.
const MaxRelease = 256 << 10

// Release is what the people who publish an image decide, beside what the
// build produced: a strict JSON document of theirs.
type Release struct {
	Format    int         `json:"format"` // 1
	Engine    string      `json:"engine"` // kind of the engine in the pack
	Args      []ArgRule   `json:"engine_args"`
	ModelName string      `json:"model_name"` // of the model in the pack
	Config    ConfigRules `json:"config"`
	GPUs      []GPUFloor  `json:"gpu_floors"`
	TCB       TCBFloor    `json:"tcb_floor"`
	LifeDays  int         `json:"life_days"` // from the build's source date to the sunset
}

// releaseJSON are the rules of this repository's own images.
//
//go:embed release.json
var releaseJSON []byte

// DefaultRelease returns the rules that come with this package: a worker
// without GPUs and without a ledger, and the engine arguments that the
// supervisor knows.
func DefaultRelease() (*Release, error) { return ParseRelease(releaseJSON) }

// ParseRelease reads a Release, strictly.
func ParseRelease(b []byte) (*Release, error) {
	var r Release
	if err := jcs.Decode(b, MaxRelease, &r); err != nil {
		return nil, fmt.Errorf("parsing release rules: %w", err)
	}
	if r.Format != 1 {
		return nil, fmt.Errorf("parsing release rules: format %d, want 1", r.Format)
	}
	if r.LifeDays < 1 || r.LifeDays > 3650 {
		return nil, fmt.Errorf("parsing release rules: life of %d days, want 1 to 3650", r.LifeDays)
	}
	return &r, nil
}

// Inputs are the outputs of a build and the decisions that go with it.
type Inputs struct {
	Image     Image
	Epoch     time.Time     // source date of the build
	Files     pcr.Files     // kernel, initrd and command line, read anew from the build
	Artifacts []Artifact    // every file of image and packs, in any order
	Inputs    []Artifact    // package lock, toolchain, packages, in any order
	Engine    digest.SHA256 // dm-verity root of the engine's pack
	Model     digest.SHA256 // dm-verity root of the model's pack
	Models    []Model       // that are allowed beside it, in their order
	Firmwares []pcr.Firmware
	TDX       *TDX // registers under TDX, nil: not for TDX
	SNP       *SNP // launch digests under SEV-SNP, nil: not for SEV-SNP
	Release   Release

	Supersedes []Superseded // earlier manifests, in any order
}

// Build computes a manifest. Nothing in it depends on the clock or the
// machine: the same inputs give the same bytes.
func Build(in Inputs) (*Manifest, error) {
	components, err := pcr.Measure(in.Files)
	if err != nil {
		return nil, fmt.Errorf("building manifest: %w", err)
	}
	root, err := bootargs.Parse(in.Files.Cmdline)
	if err != nil {
		return nil, fmt.Errorf("building manifest: reading command line: %w", err)
	}
	date := in.Epoch.UTC().Truncate(time.Second)
	in.Image.SourceDate = date
	in.Image.Debug = root.Debug
	m := &Manifest{
		Format:    Format,
		Image:     in.Image,
		Artifacts: byName(in.Artifacts),
		Inputs:    byName(in.Inputs),
		Boot:      Boot{Cmdline: in.Files.Cmdline, RootVerity: digest.SHA256(root.Hash)},
		TDX:       in.TDX,
		SNP:       in.SNP,
		Config:    in.Release.Config,
		Engines:   []Engine{{Kind: in.Release.Engine, ImageDigest: in.Engine, Args: append([]ArgRule{}, in.Release.Args...)}},
		Models:    append([]Model{{Name: in.Release.ModelName, VerityRoot: in.Model}}, in.Models...),
		GPUs:      append([]GPUFloor{}, in.Release.GPUs...),
		TCB:       in.Release.TCB,
		Supersedes: slices.SortedFunc(slices.Values(in.Supersedes), func(a, b Superseded) int {
			return bytes.Compare(a.Manifest[:], b.Manifest[:])
		}),
		Sunset: date.AddDate(0, 0, in.Release.LifeDays),
	}
	if len(in.Firmwares) > 0 {
		m.TPM = &TPM{Components: components}
	}
	for _, fw := range in.Firmwares {
		f, err := NewTPMFirmware(fw, components, in.Files.Cmdline)
		if err != nil {
			return nil, fmt.Errorf("building manifest: %w", err)
		}
		m.TPM.Firmwares = append(m.TPM.Firmwares, f)
	}
	if m.Supersedes == nil {
		m.Supersedes = []Superseded{}
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("building manifest: %w", err)
	}
	return m, nil
}

func byName(in []Artifact) []Artifact {
	out := append([]Artifact{}, in...)
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
