package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cocoon/internal/bootargs"
	"cocoon/internal/lazyre"
	"cocoon/measurements/digest"
	"cocoon/measurements/pcr"
)

// maxVersion keeps image versions exact as JSON numbers (RFC 8785 section
// 3.2.2.3: IEEE 754 doubles).
const maxVersion = 1 << 53

var (
	nameRE = lazyre.New(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	fileRE = lazyre.New(`^[A-Za-z0-9][A-Za-z0-9._+~:@/-]{0,254}$`)
	flagRE = lazyre.New(`^-{1,2}[a-z][a-z0-9-]{0,63}$`)
)

// Validate reports everything that is missing, out of range, or not
// consistent: registers are recomputed from their components, so a manifest
// cannot name one thing and expect another.
func (m *Manifest) Validate() error {
	v := &validator{}
	if m.Format != Format {
		v.bad("format %d, want %d", m.Format, Format)
	}
	if !nameRE().MatchString(m.Image.Name) {
		v.bad("image name %.64q is not of the form a-z0-9._-", m.Image.Name)
	}
	if m.Image.Version == 0 || m.Image.Version > maxVersion {
		v.bad("image version %d, want 1 to 2^53", m.Image.Version)
	}
	if !nameRE().MatchString(m.Image.Profile) {
		v.bad("image profile %.64q is not of the form a-z0-9._-", m.Image.Profile)
	}
	if !wholeUTC(m.Image.SourceDate) {
		v.bad("source date must be a time in UTC with whole seconds")
	}
	v.artifacts("artifact", m.Artifacts, 1, maxArtifacts)
	v.artifacts("input", m.Inputs, 0, maxInputs)
	if !wholeUTC(m.Sunset) {
		v.bad("sunset must be a time in UTC with whole seconds")
	}
	v.count("superseded manifest", len(m.Supersedes), 0)
	for i, s := range m.Supersedes {
		if s.Manifest.IsZero() || !wholeUTC(s.GraceUntil) {
			v.bad("superseded manifest %d: hash or grace is out of range", i)
		}
		if i > 0 && bytes.Compare(m.Supersedes[i-1].Manifest[:], s.Manifest[:]) >= 0 {
			v.bad("superseded manifests are not sorted or not distinct at %s", s.Manifest)
		}
	}
	m.validateBoot(v)
	m.validateTPM(v)
	m.validateTDX(v)
	m.validateSNP(v)
	m.validateEngines(v)
	m.validateConfig(v)
	v.count("model", len(m.Models), 1)
	for i, a := range m.Models {
		if !nameRE().MatchString(a.Name) || a.VerityRoot.IsZero() {
			v.bad("model %d: name or verity root is missing", i)
		}
	}
	v.count("GPU floor", len(m.GPUs), 0)
	for i, g := range m.GPUs {
		if !nameRE().MatchString(g.Arch) || len(g.Driver) > 64 || len(g.VBIOS) > 64 {
			v.bad("GPU floor %d is out of range", i)
		}
	}
	if m.TCB.TDXEvaluation < 0 {
		v.bad("TCB floor is negative")
	}
	return errors.Join(v.errs...)
}

func wholeUTC(t time.Time) bool {
	return !t.IsZero() && t.Location() == time.UTC && t.Nanosecond() == 0
}

type validator struct{ errs []error }

func (v *validator) bad(format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf(format, args...))
}

func (v *validator) count(what string, n, least int) {
	if n < least || n > maxEntries {
		v.bad("%d entries of kind %s, want %d to %d", n, what, least, maxEntries)
	}
}

func (v *validator) artifacts(what string, as []Artifact, least, most int) {
	if len(as) < least || len(as) > most {
		v.bad("%d %ss, want %d to %d", len(as), what, least, most)
	}
	for i, a := range as {
		if !fileRE().MatchString(a.Name) || a.SHA256.IsZero() || a.Size < 0 {
			v.bad("%s %d: name, hash or size is out of range", what, i)
		}
		if i > 0 && as[i-1].Name >= a.Name {
			v.bad("%ss are not sorted by name or not distinct at %.64q", what, a.Name)
		}
	}
}

func (m *Manifest) validateBoot(v *validator) {
	if err := pcr.CheckCmdline(m.Boot.Cmdline); err != nil {
		v.bad("boot: %w", err)
		return
	}
	root, err := bootargs.Parse(m.Boot.Cmdline)
	if err != nil {
		v.bad("boot: %w", err)
		return
	}
	if root.Debug != m.Image.Debug {
		v.bad("boot: command line marks a debug image: %t, the manifest: %t", root.Debug, m.Image.Debug)
	}
	if digest.SHA256(root.Hash) != m.Boot.RootVerity {
		v.bad("boot: command line names root %x, root_verity is %s", root.Hash, m.Boot.RootVerity)
	}
}

func (m *Manifest) validateTPM(v *validator) {
	if m.TPM == nil {
		return
	}
	if m.TPM.Components.KernelAuthenticodeSHA256.IsZero() || m.TPM.Components.InitrdSHA256.IsZero() {
		v.bad("tpm: a component hash is missing")
	}
	v.count("TPM firmware", len(m.TPM.Firmwares), 1)
	seen := map[digest.SHA256]bool{}
	for i, f := range m.TPM.Firmwares {
		if err := f.Validate(); err != nil {
			v.bad("tpm: %w", err)
			continue
		}
		if seen[f.SHA256] {
			v.bad("tpm: firmware %s twice", f.SHA256)
		}
		seen[f.SHA256] = true
		want, err := NewTPMFirmware(f.Firmware, m.TPM.Components, m.Boot.Cmdline)
		if err != nil {
			v.bad("tpm: firmware %d: %w", i, err)
			continue
		}
		if f.CmdlineSHA256 != want.CmdlineSHA256 || !maps.Equal(f.PCRs, want.PCRs) {
			v.bad("tpm: firmware %d: registers do not follow from the components", i)
		}
	}
}

// NewTPMFirmware computes the registers that a firmware gives for an image.
func NewTPMFirmware(fw pcr.Firmware, c pcr.Components, cmdline string) (TPMFirmware, error) {
	load, err := pcr.CmdlineDigest(fw.Cmdline, cmdline)
	if err != nil {
		return TPMFirmware{}, err
	}
	values, err := pcr.Predict(fw, c, cmdline)
	if err != nil {
		return TPMFirmware{}, err
	}
	return TPMFirmware{Firmware: fw, CmdlineSHA256: load, PCRs: values}, nil
}

func (m *Manifest) validateEngines(v *validator) {
	v.count("engine", len(m.Engines), 1)
	for i, e := range m.Engines {
		if !nameRE().MatchString(e.Kind) || e.ImageDigest.IsZero() {
			v.bad("engine %d: kind or image digest is missing", i)
		}
		v.count("engine argument", len(e.Args), 0)
		seen := map[string]bool{}
		for _, a := range e.Args {
			if err := a.validate(); err != nil {
				v.bad("engine %d: %w", i, err)
			}
			if seen[a.Flag] {
				v.bad("engine %d: argument %.64q twice", i, a.Flag)
			}
			seen[a.Flag] = true
		}
	}
}

func (a ArgRule) validate() error {
	if !flagRE().MatchString(a.Flag) {
		return fmt.Errorf("argument %.64q is no flag", a.Flag)
	}
	ranged, listed := a.Min != 0 || a.Max != 0, len(a.Values) != 0
	switch a.Kind {
	case ArgNone:
		if ranged || listed {
			return fmt.Errorf("argument %s takes no value", a.Flag)
		}
	case ArgInt:
		if listed || a.Min > a.Max || a.Min < -maxVersion || a.Max > maxVersion {
			return fmt.Errorf("argument %s: range %d to %d", a.Flag, a.Min, a.Max)
		}
	case ArgEnum:
		if ranged || !listed || len(a.Values) > maxEntries || !distinct(a.Values) {
			return fmt.Errorf("argument %s: values must be 1 to %d, distinct", a.Flag, maxEntries)
		}
		for _, s := range a.Values {
			if len(s) > 256 {
				return fmt.Errorf("argument %s: a value of %d bytes", a.Flag, len(s))
			}
		}
	default:
		return fmt.Errorf("argument %s: kind %.32q is unknown", a.Flag, a.Kind)
	}
	return nil
}

func (m *Manifest) validateConfig(v *validator) {
	c := &m.Config
	for what, n := range map[string]int{"role": len(c.Roles), "GPU mode": len(c.GPUModes), "network id": len(c.NetworkIDs), "registry": len(c.Registries)} {
		v.count(what, n, 1)
	}
	if !distinct(c.Roles) || !distinct(c.GPUModes) || !distinct(c.NetworkIDs) || !distinct(c.Registries) {
		v.bad("config rules: a value twice")
	}
	for _, s := range slices.Concat(c.Roles, c.GPUModes) {
		if !nameRE().MatchString(s) {
			v.bad("config rules: %.64q is not of the form a-z0-9._-", s)
		}
	}
	v.count("init block", len(c.InitBlocks), 0)
	for _, b := range c.InitBlocks {
		if b.RootHash.IsZero() || b.FileHash.IsZero() {
			v.bad("config rules: an init block without hashes")
		}
	}
	v.count("sealing enclave", len(c.Sealers), 0)
	for _, s := range c.Sealers {
		if s.Signer.IsZero() || s.MinSVN == 0 {
			v.bad("config rules: a sealing enclave without a signer or a least version")
		}
	}
	for _, s := range c.Registries {
		if len(s) > 128 {
			v.bad("config rules: registry address of %d bytes", len(s))
		}
	}
}

func distinct[T comparable](in []T) bool {
	seen := make(map[T]bool, len(in))
	for _, s := range in {
		if seen[s] {
			return false
		}
		seen[s] = true
	}
	return true
}
