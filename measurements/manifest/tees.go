package manifest

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/launch"
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
	EventCmdline = "command-line"
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
	Type   string        `json:"type"` // the TCG's name of its kind
	Digest digest.SHA384 `json:"digest"`
	// Host marks an event that depends on the host: the memory map, a table.
	// Digest is zero; one event with any digest stands in its place.
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
func (r *Register) Match(log []digest.SHA384) bool {
	if len(log) != len(r.Events) {
		return false
	}
	for i, e := range r.Events {
		if !e.Host && e.Digest != log[i] {
			return false
		}
	}
	return true
}

// registerOf returns the part of a boot's events that an RTMR takes.
func registerOf(events []boot.Event, rtmr int) Register {
	r := Register{Events: []Event{}}
	for _, e := range events {
		if e.RTMR != rtmr {
			continue
		}
		out := Event{Name: slug(e.Component), Type: e.Type.String(), Host: e.Digests == nil}
		if e.Digests != nil {
			out.Digest = e.Digests.SHA384
		}
		r.Events = append(r.Events, out)
	}
	if v, ok := r.Fixed(); ok {
		r.Value = &v
	}
	return r
}

// slug writes a component's name as this document's names are written.
func slug(s string) string {
	b := []byte(strings.ToLower(s))
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.') {
			b[i] = '-'
		}
	}
	return string(b[:min(len(b), 64)])
}

// NewTDXFirmware computes the registers that a firmware gives for an image.
// The firmware must have a TDX part.
func NewTDXFirmware(im *launch.Image, f *launch.Firmware) (TDXFirmware, error) {
	if f.TDX == nil {
		return TDXFirmware{}, fmt.Errorf("predicting TDX boot: firmware %.64q is not for TDX", f.Name)
	}
	events, err := launch.Events(im, f, launch.Host{})
	if err != nil {
		return TDXFirmware{}, fmt.Errorf("predicting TDX boot: %w", err)
	}
	m := []digest.SHA384{f.TDX.MRTD.SinglePass, f.TDX.MRTD.TwoPass}
	slices.SortFunc(m, func(x, y digest.SHA384) int { return slices.Compare(x[:], y[:]) })
	return TDXFirmware{Name: f.Name, SHA256: f.SHA256, MRTD: slices.Compact(m),
		RTMR0: registerOf(events, 0), RTMR1: registerOf(events, 1), RTMR2: registerOf(events, 2)}, nil
}

// NewTDX returns the section for those of the firmwares that are for TDX, nil
// if none is.
func NewTDX(im *launch.Image, fws []*launch.Firmware) (*TDX, error) {
	t := &TDX{Components: TDXComponents{KernelAuthenticodeSHA384: im.Kernel.SHA384, InitrdSHA384: im.Initrd.SHA384}}
	for _, f := range fws {
		if f.TDX == nil {
			continue
		}
		fw, err := NewTDXFirmware(im, f)
		if err != nil {
			return nil, err
		}
		t.Firmwares = append(t.Firmwares, fw)
	}
	if len(t.Firmwares) == 0 {
		return nil, nil
	}
	return t, nil
}

// NewSNP returns the section for those of the firmwares that measure a kernel
// under SEV-SNP, nil if none does: any vCPU model of QEMU, up to a number of
// vCPUs.
func NewSNP(im *launch.Image, fws []*launch.Firmware, maxVCPUs int) (*SNP, error) {
	s := &SNP{Components: snp.Kernel{Kernel: im.KernelFile, Initrd: im.Initrd.SHA256, Cmdline: snp.CmdlineDigest(im.Cmdline)}}
	for _, f := range fws {
		if f.SNP == nil {
			continue
		}
		fw := SNPFirmware{Name: f.Name, SHA256: f.SHA256, Firmware: *f.SNP, MaxVCPUs: maxVCPUs}
		for _, t := range snp.VCPUTypes() {
			fw.Shapes = append(fw.Shapes, SNPShape{VMM: snp.QEMU, VCPUType: t, Features: snp.DefaultFeatures})
		}
		switch _, err := snp.Measure(fw.Firmware, &s.Components, fw.Shapes[0].of(1)); {
		case errors.Is(err, snp.ErrNoHashes):
		case err != nil:
			return nil, fmt.Errorf("predicting SNP launch: %w", err)
		default:
			s.Firmwares = append(s.Firmwares, fw)
		}
	}
	if len(s.Firmwares) == 0 {
		return nil, nil
	}
	return s, nil
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
	if c.KernelAuthenticodeSHA384 == zero || c.InitrdSHA384 == zero {
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
			{&f.RTMR1, EventKernel, c.KernelAuthenticodeSHA384}, {&f.RTMR2, EventInitrd, c.InitrdSHA384},
		} {
			if n := e.r.count(e.name, e.want); n != 1 || e.r.Value == nil {
				v.bad("tdx: firmware %d: component %s is not once in its register", i, e.name)
			}
		}
		if !m.measuresCmdline(&f.RTMR2) {
			v.bad("tdx: firmware %d: RTMR2 is for another command line", i)
		}
	}
}

// measuresCmdline reports whether a register has the boot's command line, in
// one of the forms that firmware gives it, once.
func (m *Manifest) measuresCmdline(r *Register) bool {
	for _, rule := range []boot.CmdlineRule{boot.CmdlineInitrdFirst, boot.CmdlineInitrdLast} {
		if b, err := boot.LoadOptions(rule, m.Boot.Cmdline); err == nil && r.count(EventCmdline, digest.Sum384(b)) == 1 {
			return true
		}
	}
	return false
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
		if !nameRE().MatchString(e.Name) || len(e.Type) > 64 || e.Host != (e.Digest == digest.SHA384{}) {
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
