package manifest

import (
	"crypto/sha512"
	"slices"

	"cocoon/measurements/digest"
	"cocoon/measurements/snp"
)

// maxEvents bounds the list of a register.
const maxEvents = 512

// TDX is what a trust domain reports for the image after direct boot, per
// firmware, and the components that it is computed from. RTMR3 follows from
// the guest's config.
type TDX struct {
	Components TDXComponents `json:"components"`
	Firmwares  []TDXFirmware `json:"firmwares"`
}

// TDXComponents are the image's parts of the registers.
type TDXComponents struct {
	KernelAuthenticodeSHA384 digest.SHA384 `json:"kernel_authenticode_sha384"` // PE image hash, package pe
	InitrdSHA384             digest.SHA384 `json:"initrd_sha384"`
	CmdlineSHA384            digest.SHA384 `json:"cmdline_sha384"` // of the load options as they are measured
}

// TDXFirmware is one accepted firmware with the registers that follow.
type TDXFirmware struct {
	Name   string          `json:"name"`   // for people
	SHA256 digest.SHA256   `json:"sha256"` // of the firmware file
	MRTD   []digest.SHA384 `json:"mrtd"`   // one for each order in which a VMM adds the pages; sorted
	RTMR0  Register        `json:"rtmr0"`  // firmware configuration and the host's tables
	RTMR1  Register        `json:"rtmr1"`  // the kernel
	RTMR2  Register        `json:"rtmr2"`  // command line and initrd
}

// Names of the events whose digests are the image's components.
const (
	EventKernel  = "kernel"
	EventInitrd  = "initrd"
	EventCmdline = "cmdline"
)

// Register is a register as the list of what is extended into it. Where no
// event depends on the host its value follows, and is stated too; otherwise
// evidence is held against the list, event by event, from its log.
type Register struct {
	Events []Event        `json:"events"`
	Value  *digest.SHA384 `json:"value,omitempty"`
}

// Event is one entry of a register's list.
type Event struct {
	Name   string        `json:"name"` // for people, and to name a component
	Digest digest.SHA384 `json:"digest"`
	// Host marks events that depend on the host: its ACPI tables, its memory
	// map, its boot variables. Digest is zero; any number of events, none
	// included, may stand in its place.
	Host bool `json:"host,omitempty"`
}

// Fixed returns the value that follows from the events, and whether one does.
func (r *Register) Fixed() (digest.SHA384, bool) {
	var v digest.SHA384
	for _, e := range r.Events {
		if e.Host {
			return digest.SHA384{}, false
		}
		v = sha512.Sum384(slices.Concat(v[:], e.Digest[:]))
	}
	return v, true
}

// Match reports whether the digests of a log, in order, are those of the
// register. Whoever calls it has replayed the log to the reported value.
func (r *Register) Match(log []digest.SHA384) bool { return matchEvents(r.Events, log) }

// matchEvents is a glob without backtracking beyond the last host entry: a
// host entry stands for any number of events.
func matchEvents(want []Event, got []digest.SHA384) bool {
	star, mark := -1, 0
	i, j := 0, 0
	for j < len(got) {
		switch {
		case i < len(want) && want[i].Host:
			star, mark = i, j
			i++
		case i < len(want) && want[i].Digest == got[j]:
			i, j = i+1, j+1
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(want) && want[i].Host {
		i++
	}
	return i == len(want)
}

// SNP is what an SEV-SNP guest's launch digest is made of, per firmware. The
// host chooses the number of vCPUs and, within the shapes, their model;
// neither needs a manifest of its own, because the digest for any of them
// follows.
type SNP struct {
	Components snp.Kernel    `json:"components"` // the page of hashes of a direct boot (kernel-hashes=on)
	Firmwares  []SNPFirmware `json:"firmwares"`
}

// SNPFirmware is one accepted firmware and the machines that it may run in.
type SNPFirmware struct {
	Name         string        `json:"name"`   // for people
	SHA256       digest.SHA256 `json:"sha256"` // of the firmware file
	snp.Firmware               // what the launch digest needs of the file
	Shapes       []SNPShape    `json:"shapes"`
	MaxVCPUs     int           `json:"max_vcpus"`
}

// SNPShape is a kind of vCPU.
type SNPShape struct {
	VMM      snp.VMM `json:"vmm"`
	VCPUType string  `json:"vcpu_type"`      // QEMU's name of the model; "" where the VMM has none
	Features uint64  `json:"guest_features"` // SEV_FEATURES
}

// of returns the shape with a number of vCPUs.
func (s SNPShape) of(n int) snp.Shape {
	return snp.Shape{VMM: s.VMM, VCPUs: n, VCPUType: s.VCPUType, Features: s.Features}
}

// SNPMatch says which guest a launch digest is of.
type SNPMatch struct {
	Firmware *SNPFirmware
	Shape    snp.Shape
}

// Match finds the guest with a launch digest among all that the section
// allows.
func (s *SNP) Match(measurement digest.SHA384) (SNPMatch, bool) {
	for i := range s.Firmwares {
		f := &s.Firmwares[i]
		for _, shape := range f.Shapes {
			if n, err := snp.Match(f.Firmware, &s.Components, shape.of(1), f.MaxVCPUs, measurement); err == nil && n > 0 {
				return SNPMatch{f, shape.of(n)}, true
			}
		}
	}
	return SNPMatch{}, false
}

// validateTDX checks that components and registers say the same.
func (m *Manifest) validateTDX(v *validator) {
	t := m.TDX
	if t == nil {
		return
	}
	zero := digest.SHA384{}
	c := &t.Components
	if c.KernelAuthenticodeSHA384 == zero || c.InitrdSHA384 == zero || c.CmdlineSHA384 == zero {
		v.bad("tdx: a component hash is missing")
	}
	v.count("TDX firmware", len(t.Firmwares), 1)
	seen := map[digest.SHA256]bool{}
	for i := range t.Firmwares {
		f := &t.Firmwares[i]
		if f.Name == "" || len(f.Name) > 128 || f.SHA256.IsZero() || seen[f.SHA256] {
			v.bad("tdx: firmware %d: name or hash is missing, or the firmware is listed twice", i)
		}
		seen[f.SHA256] = true
		v.count("MRTD", len(f.MRTD), 1)
		for k, d := range f.MRTD {
			if d == zero || k > 0 && slices.Compare(f.MRTD[k-1][:], d[:]) >= 0 {
				v.bad("tdx: firmware %d: MRTDs are missing, not sorted or not distinct", i)
			}
		}
		for n, r := range []*Register{&f.RTMR0, &f.RTMR1, &f.RTMR2} {
			v.register(i, n, r)
		}
		for _, e := range []struct {
			r    *Register
			name string
			want digest.SHA384
		}{
			{&f.RTMR1, EventKernel, c.KernelAuthenticodeSHA384}, {&f.RTMR2, EventInitrd, c.InitrdSHA384}, {&f.RTMR2, EventCmdline, c.CmdlineSHA384},
		} {
			if n := e.r.count(e.name, e.want); n != 1 || e.r.Value == nil {
				v.bad("tdx: firmware %d: component %s is not once in its register", i, e.name)
			}
		}
	}
}

// count returns how often an event with this name and digest is in the list,
// or -1 if one has the name and another digest.
func (r *Register) count(name string, d digest.SHA384) (n int) {
	for _, e := range r.Events {
		switch {
		case e.Name == name && e.Digest == d && !e.Host:
			n++
		case e.Name == name:
			return -1
		}
	}
	return n
}

func (v *validator) register(firmware, number int, r *Register) {
	if len(r.Events) == 0 || len(r.Events) > maxEvents {
		v.bad("tdx: firmware %d: RTMR%d has %d events, want 1 to %d", firmware, number, len(r.Events), maxEvents)
	}
	for i, e := range r.Events {
		if !nameRE.MatchString(e.Name) || e.Host != (e.Digest == digest.SHA384{}) {
			v.bad("tdx: firmware %d: RTMR%d: event %d has no name, or host and digest do not go together", firmware, number, i)
		}
	}
	want, fixed := r.Fixed()
	if fixed != (r.Value != nil) || fixed && *r.Value != want {
		v.bad("tdx: firmware %d: RTMR%d does not follow from its events", firmware, number)
	}
}

// validateSNP checks what can be checked without the firmware file: package
// audit recomputes the rest from it.
func (m *Manifest) validateSNP(v *validator) {
	s := m.SNP
	if s == nil {
		return
	}
	c := &s.Components
	if c.Kernel.IsZero() || c.Initrd.IsZero() {
		v.bad("snp: a component hash is missing")
	}
	if c.Cmdline != snp.CmdlineDigest(m.Boot.Cmdline) {
		v.bad("snp: hash of another command line")
	}
	if m.TPM != nil && m.TPM.Components.InitrdSHA256 != c.Initrd {
		v.bad("snp: another initrd than in tpm")
	}
	v.count("SNP firmware", len(s.Firmwares), 1)
	seen := map[digest.SHA256]bool{}
	for i := range s.Firmwares {
		f := &s.Firmwares[i]
		if f.Name == "" || len(f.Name) > 128 || f.SHA256.IsZero() || seen[f.SHA256] {
			v.bad("snp: firmware %d: name or hash is missing, or the firmware is listed twice", i)
		}
		seen[f.SHA256] = true
		if f.Digest == (digest.SHA384{}) || f.MaxVCPUs < 1 || f.MaxVCPUs > snp.MaxVCPUs {
			v.bad("snp: firmware %d: launch digest is missing or number of vCPUs is out of range", i)
			continue
		}
		v.count("SNP shape", len(f.Shapes), 1)
		if !distinct(f.Shapes) {
			v.bad("snp: firmware %d: a shape twice", i)
		}
		for _, shape := range f.Shapes {
			if _, err := snp.Measure(f.Firmware, c, shape.of(1)); err != nil || shape.Features > maxVersion {
				v.bad("snp: firmware %d: no launch digest follows: %w", i, err)
			}
		}
	}
}
