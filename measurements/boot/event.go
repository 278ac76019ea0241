// Package boot has the events of a measured boot as they can be predicted:
// which component, from which file, is extended into which register of a TPM
// and of a TD, under which digest. Other packages make lists of events; this
// one turns a list into register values, and explains a real event log by it.
//
// Definitions: TCG PC Client Platform Firmware Profile 1.06 ("PFP"), section
// 3.3.4 (which PCR takes what) and 10.4 (event types); UEFI 2.10, section
// 38.4.1, table "TDX register index" (PCR to RTMR).
package boot

import (
	"crypto/sha256"
	"crypto/sha512"

	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
)

// NoRegister marks an event that one of the two register files does not take.
const NoRegister = -1

// Event is one extension that is predicted.
type Event struct {
	PCR       int           `json:"pcr"`               // of a TPM, NoRegister where only a TD has the event
	RTMR      int           `json:"rtmr"`              // of a TD, NoRegister where only a TPM has the event
	Type      eventlog.Type `json:"type"`              // by the TCG's name
	Component string        `json:"component"`         // what is measured: "kernel", "separator"
	Source    string        `json:"source"`            // the file it comes from, "constant", or "host"
	Digests   *Digests      `json:"digests,omitempty"` // nil: depends on the host and is not known
}

// Digests are an event's digests under both algorithms that registers have.
type Digests struct {
	SHA256 digest.SHA256 `json:"sha256"`
	SHA384 digest.SHA384 `json:"sha384"`
}

// Sources of events that are no files.
const (
	SourceConstant = "constant" // follows from the specification or the firmware's code
	SourceHost     = "host"     // follows from the machine that the host makes
)

// Of returns the digests of bytes.
func Of(b []byte) *Digests { return &Digests{digest.Sum256(b), digest.Sum384(b)} }

// New makes an event of a TPM that a TD extends into the register of the
// table. d is nil where the digest is not known.
func New(pcr int, t eventlog.Type, component, source string, d *Digests) Event {
	return Event{PCR: pcr, RTMR: RTMROf(pcr), Type: t, Component: component, Source: source, Digests: d}
}

// RTMROf returns the RTMR that takes what a TPM's register takes (UEFI 2.10
// section 38.4.1): PCR 0 is MRTD's, 1 and 7 are RTMR0's, 2 to 6 RTMR1's, 8 to
// 15 RTMR2's. The supervisor's own events are RTMR3's in a TD and PCR 15's in
// a TPM; see Runtime.
func RTMROf(pcr int) int {
	switch {
	case pcr == 1 || pcr == 7:
		return 0
	case pcr >= 2 && pcr <= 6:
		return 1
	case pcr >= 8 && pcr <= 15:
		return 2
	}
	return NoRegister
}

// Registers that the supervisor's events go to (DESIGN section 4).
const (
	RuntimePCR  = 15
	RuntimeRTMR = 3
)

// Runtime returns the events of a supervisor, each given as the bytes that its
// digest is taken over.
func Runtime(events [][]byte) []Event {
	var out []Event
	for _, b := range events {
		e := New(RuntimePCR, eventlog.EventTag, "runtime event", "config.json", Of(b))
		e.RTMR = RuntimeRTMR
		out = append(out, e)
	}
	return out
}

// Separator is the data of EV_SEPARATOR where no error is reported (PFP
// section 10.4.1).
func Separator() []byte { return make([]byte, 4) }

// PCR256 returns the value of a register of the SHA-256 bank after the
// events, and whether every digest was known.
func PCR256(events []Event, pcr int) (v digest.SHA256, known bool) {
	for i := range events {
		e := &events[i]
		if e.PCR != pcr {
			continue
		}
		if e.Digests == nil {
			return digest.SHA256{}, false
		}
		v = sha256.Sum256(append(v[:], e.Digests.SHA256[:]...))
	}
	return v, true
}

// PCR384 is PCR256 for the SHA-384 bank.
func PCR384(events []Event, pcr int) (digest.SHA384, bool) {
	return replay384(events, func(e *Event) bool { return e.PCR == pcr })
}

// RTMR returns the value of an RTMR after the events, and whether every digest
// was known. TDG.MR.RTMR.EXTEND hashes like a TPM's SHA-384 bank (TDX Module
// ABI Specification, TDG.MR.RTMR.EXTEND).
func RTMR(events []Event, rtmr int) (digest.SHA384, bool) {
	return replay384(events, func(e *Event) bool { return e.RTMR == rtmr })
}

func replay384(events []Event, take func(*Event) bool) (v digest.SHA384, known bool) {
	for i := range events {
		e := &events[i]
		if !take(e) {
			continue
		}
		if e.Digests == nil {
			return digest.SHA384{}, false
		}
		v = sha512.Sum384(append(v[:], e.Digests.SHA384[:]...))
	}
	return v, true
}

// Incomplete reports whether one of the digests is missing.
func (d *Digests) Incomplete() bool { return d.SHA256.IsZero() || d.SHA384.IsZero() }
