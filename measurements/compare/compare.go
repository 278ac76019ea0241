// Package compare says which registers of two measured or predicted boots
// differ, and through which component. In come snapshots: of a prediction, of
// an event log or of a manifest; out come the differences.
package compare

import (
	"encoding/hex"
	"fmt"
	"strings"

	"cocoon/measurements/boot"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/launch"
	"cocoon/measurements/manifest"
)

// MaxSnapshot bounds a snapshot as a document, in bytes.
const MaxSnapshot = 4 << 20

// Snapshot is register values with what they are made of.
type Snapshot struct {
	// Registers by name: "PCR 4 sha256", "RTMR1", "MRTD single-pass", "SNP …".
	Registers  map[string]string `json:"registers"`
	Components []Component       `json:"components"` // in the order of measurement
}

// Component is one part of a register.
type Component struct {
	Register string `json:"register"` // without the bank: "PCR 4"
	Name     string `json:"component"`
	Source   string `json:"source,omitempty"` // file, "constant" or "host"
	Digest   string `json:"digest,omitempty"` // SHA-384 of a TD's, SHA-256 of another's; empty: not known
	Type     string `json:"type,omitempty"`   // of the event
}

// New returns an empty snapshot.
func New() *Snapshot { return &Snapshot{Registers: map[string]string{}, Components: []Component{}} }

// AddTPM adds the registers of both banks and the events of a TPM.
func (s *Snapshot) AddTPM(t launch.TPM, events []boot.Event) {
	for n, v := range t.SHA256 {
		s.Registers[fmt.Sprintf("PCR %d sha256", n)] = v.String()
	}
	for n, v := range t.SHA384 {
		s.Registers[fmt.Sprintf("PCR %d sha384", n)] = v.String()
	}
	for _, e := range events {
		if e.PCR == boot.NoRegister {
			continue
		}
		c := Component{Register: fmt.Sprintf("PCR %d", e.PCR), Name: e.Component, Source: e.Source, Type: e.Type.String()}
		if e.Digests != nil {
			c.Digest = e.Digests.SHA256.String()
		}
		s.Components = append(s.Components, c)
	}
}

// AddTD adds those RTMRs of which every event is known, and the events.
func (s *Snapshot) AddTD(events []boot.Event) {
	for n := range 4 {
		if v, known := boot.RTMR(events, n); known {
			s.Registers[fmt.Sprintf("RTMR%d", n)] = v.String()
		}
	}
	for _, e := range events {
		if e.RTMR == boot.NoRegister {
			continue
		}
		c := Component{Register: fmt.Sprintf("RTMR%d", e.RTMR), Name: e.Component, Source: e.Source, Type: e.Type.String()}
		if e.Digests != nil {
			c.Digest = e.Digests.SHA384.String()
		}
		s.Components = append(s.Components, c)
	}
}

// OfLog returns the snapshot of an event log. predicted names its components;
// without it they are named by what they say of themselves.
func OfLog(l *eventlog.Log, kind boot.Kind, predicted []boot.Event) (*Snapshot, error) {
	x, err := boot.Explain(l, kind, predicted)
	if err != nil {
		return nil, err
	}
	name := "PCR %d"
	banks := map[string]eventlog.Algorithm{" sha256": eventlog.SHA256, " sha384": eventlog.SHA384}
	if kind == boot.KindTD {
		name, banks = "RTMR%d", map[string]eventlog.Algorithm{"": eventlog.SHA384}
	}
	s := New()
	for suffix, alg := range banks {
		if !l.Has(alg) {
			continue
		}
		regs, err := l.Replay(alg)
		if err != nil {
			return nil, fmt.Errorf("replaying event log: %w", err)
		}
		for n, v := range regs {
			if kind == boot.KindTD {
				n--
			}
			s.Registers[fmt.Sprintf(name, n)+suffix] = hex.EncodeToString(v)
		}
	}
	for _, e := range x.Events {
		c := Component{Register: fmt.Sprintf(name, e.Register), Name: e.Component, Source: e.Source, Digest: e.Digest, Type: e.Type}
		if c.Name == "" {
			c.Name = strings.TrimSpace(e.Type + " " + e.Label)
		}
		s.Components = append(s.Components, c)
	}
	return s, nil
}

// OfManifest returns the snapshot of a manifest.
func OfManifest(m *manifest.Manifest) *Snapshot {
	s := New()
	add := func(register, name, source, digest string) {
		s.Components = append(s.Components, Component{Register: register, Name: name, Source: source, Digest: digest})
	}
	for _, a := range m.Artifacts {
		add("artefact", a.Name, a.Name, a.SHA256.String())
	}
	if m.TPM == nil {
		return s
	}
	add("PCR 4", "kernel", "vmlinuz", m.TPM.Components.KernelAuthenticodeSHA256.String())
	for _, f := range m.TPM.Firmwares {
		suffix := ""
		if len(m.TPM.Firmwares) > 1 {
			suffix = " " + f.Name
		}
		for _, n := range f.PCRs.Numbers() {
			s.Registers[fmt.Sprintf("PCR %d sha256%s", n, suffix)] = f.PCRs[n].String()
		}
		add("PCR 0", "firmware"+suffix, f.Name, f.SHA256.String())
		add("PCR 7", "firmware"+suffix, f.Name, f.SHA256.String())
		add("PCR 9", "command line"+suffix, "cmdline", f.CmdlineSHA256.String())
	}
	add("PCR 9", "initrd", "initrd", m.TPM.Components.InitrdSHA256.String())
	return s
}
