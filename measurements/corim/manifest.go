package corim

import (
	"fmt"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
)

// Profile names how this package uses CoRIM: which registers are called what.
const Profile = "urn:cocoon:corim:1"

// Names of registers in the export.
const (
	RegisterMRTD  = "mrtd"
	RegisterRTMR1 = "rtmr1"
	RegisterRTMR2 = "rtmr2"
)

// FromManifest exports a manifest; payload is its identity. Registers that
// depend on the host, and events behind them, have no place in reference
// values that are compared as a whole, and are left out.
func FromManifest(m *manifest.Manifest, payload digest.SHA256) (*CoRIM, error) {
	tag := CoMID{ID: "urn:cocoon:manifest:" + payload.String(), Version: m.Image.Version,
		Entities: []Entity{{Name: "cocoon", Roles: []uint64{RoleTagCreator}}}}
	class := func(kind, name string) Class {
		return Class{Vendor: "cocoon", Model: m.Image.Name + "/" + kind + "/" + name}
	}
	files := Triple{Class: class("files", fmt.Sprint(m.Image.Version))}
	for _, a := range m.Artifacts {
		files.Measurements = append(files.Measurements, Measurement{Key: a.Name, Digests: sum256(a.SHA256)})
	}
	tag.Reference = append(tag.Reference, files)
	if m.TPM != nil {
		for _, f := range m.TPM.Firmwares {
			x := Measurement{Key: "pcrs", Name: f.Name}
			for _, n := range f.PCRs.Numbers() {
				x.Registers = append(x.Registers, Register{ID: uint64(n), Digests: sum256(f.PCRs[n])})
			}
			tag.Reference = append(tag.Reference, Triple{Class: class("tpm", f.SHA256.String()), Measurements: []Measurement{x}})
		}
	}
	if m.TDX != nil {
		for _, f := range m.TDX.Firmwares {
			// Either order of pages is good: a record for each.
			for _, d := range f.MRTD {
				x := Measurement{Key: "rtmrs", Name: f.Name, Registers: []Register{
					{RegisterMRTD, sum384(d)}, {RegisterRTMR1, sum384(*f.RTMR1.Value)}, {RegisterRTMR2, sum384(*f.RTMR2.Value)}}}
				tag.Reference = append(tag.Reference, Triple{Class: class("tdx", f.SHA256.String()), Measurements: []Measurement{x}})
			}
		}
	}
	if m.SNP != nil {
		c := &m.SNP.Components
		for _, f := range m.SNP.Firmwares {
			tag.Reference = append(tag.Reference, Triple{Class: class("snp", f.SHA256.String()), Measurements: []Measurement{
				{Key: "firmware", Name: f.Name, Digests: sum384(f.Digest)},
				{Key: "kernel", Digests: sum256(c.Kernel)}, {Key: "initrd", Digests: sum256(c.Initrd)}, {Key: "cmdline", Digests: sum256(c.Cmdline)}}})
		}
	}
	return &CoRIM{ID: "urn:cocoon:manifest:" + payload.String(), Tags: []CoMID{tag}, Profile: Profile, NotAfter: m.Sunset,
		Entities: []Entity{{Name: "cocoon", Roles: []uint64{RoleManifestCreator}}}}, nil
}

func sum256(d digest.SHA256) []Digest { return []Digest{{uint64(SHA256), d[:]}} }

func sum384(d digest.SHA384) []Digest { return []Digest{{uint64(SHA384), d[:]}} }
