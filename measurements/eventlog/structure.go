package eventlog

import (
	"bytes"
	"fmt"
	"slices"
)

// Rules of Check. A rule's name is stable.
const (
	RuleNoActionDigest     = "no_action.digest"    // EV_NO_ACTION has a digest, as if it had been extended
	RuleSeparatorMissing   = "separator.missing"   // a firmware register has none
	RuleSeparatorDuplicate = "separator.duplicate" // … or two
	RuleSeparatorRegister  = "separator.register"  // a separator where there is none to be
	RuleSeparatorValue     = "separator.value"     // not a measurement of 0 or 0xFFFFFFFF
	RuleAfterSeparator     = "order.separator"     // an event after the separator that belongs before it
	RuleAfterExit          = "order.exit"          // a firmware event after boot services have ended
	RuleRegister           = "type.register"       // an event type in a register that it does not go to
	RuleDigestOfAction     = "action.digest"       // an action whose digest is not that of its text
)

// Violation is a rule that a log breaks.
type Violation struct {
	Rule     string `json:"rule"`
	Event    int    `json:"event"`    // index of the event, -1 for the whole log
	Register string `json:"register"` // that it is about: "pcr4", "rtmr1"
	Reason   string `json:"reason"`
}

// Error returns the violation in words.
func (v Violation) Error() string {
	if v.Event < 0 {
		return fmt.Sprintf("%s: %s: %s", v.Rule, v.Register, v.Reason)
	}
	return fmt.Sprintf("%s: event %d in %s: %s", v.Rule, v.Event, v.Register, v.Reason)
}

// Check says whether the log has the form that a measured boot gives it. It
// returns every rule that is broken, nil for a well-formed log.
//
// A log that replays to a quote proves its digests, not its event types, and
// types are what a reader goes by: an attacker in the boot chain can extend
// what he likes and log it as what he likes. These rules are where a log of
// lies stops being readable as a good one. They are, with the platform
// profile's (PFP 1.06) and UEFI's (2.10) text:
//
//   - EV_NO_ACTION is never extended and its digests are zero (PFP section
//     10.4.1, table of events, EV_NO_ACTION): an event that was extended cannot
//     be hidden as one, nor one that was not be shown as extended.
//   - EV_SEPARATOR is measured once into each of PCR 0 to 7, and nowhere else;
//     its value is 0 or 0xFFFFFFFF, and 1 records an error (PFP section 10.4.1,
//     EV_SEPARATOR). It divides what firmware measured from what came after: a
//     second one would let what comes after look like firmware's. In a CCEL,
//     RTMR0 takes the separator of PCR 7 and RTMR1 that of PCR 2 to 6 (UEFI
//     section 38.4.1, table of measurement registers).
//   - After its separator a register takes only what belongs there then: PCR 4
//     and 5 boot attempts (PFP sections 3.3.4.5 and 3.3.4.6), PCR 7 the
//     authorities of images (PFP section 3.3.4.8); the Secure Boot variables
//     come before. Other firmware registers are closed.
//   - After "Exit Boot Services Returned with Success" firmware is gone and its
//     registers are closed (PFP section 10.4.4, EV_EFI_ACTION strings).
//   - Types that have one meaning are in the registers that they go to (PFP
//     section 3.3.4 and the table of events).
func (l *Log) Check() []Violation {
	c := &checker{l: l, tcg: l.Kind == KindTPM, separated: map[uint32]int{}}
	for i := range l.Events {
		c.event(i, &l.Events[i])
	}
	want := []uint32{0, 1, 2, 3, 4, 5, 6, 7}
	if !c.tcg {
		want = []uint32{1, 2}
	}
	for _, r := range want {
		if c.separated[r] == 0 {
			c.bad(RuleSeparatorMissing, -1, r, "no event ends the firmware's measurements")
		}
	}
	return c.out
}

type checker struct {
	l         *Log
	tcg       bool
	separated map[uint32]int // how many separators, by register
	exited    bool
	out       []Violation
}

func (c *checker) bad(rule string, event int, register uint32, format string, args ...any) {
	c.out = append(c.out, Violation{Rule: rule, Event: event, Register: c.l.RegisterName(int(register)), Reason: fmt.Sprintf(format, args...)})
}

func (c *checker) event(i int, e *Event) {
	if e.Type == NoAction {
		for _, d := range e.Digests {
			if !allByte(d.Value, 0) {
				c.bad(RuleNoActionDigest, i, e.Register, "an event that is not extended has a digest")
				break
			}
		}
		return
	}
	if c.exited && c.firmware(e.Register) {
		c.bad(RuleAfterExit, i, e.Register, "%s after boot services have ended", e.Type)
	}
	if e.Type == Separator {
		c.separator(i, e)
		return
	}
	if allowed, ok := typeRegisters[e.Type]; ok && !c.goesTo(allowed, e.Register) {
		c.bad(RuleRegister, i, e.Register, "%s does not belong there", e.Type)
	}
	if e.Type == RuntimeEvent && (c.tcg || e.Register != runtimeRegister) {
		c.bad(RuleRegister, i, e.Register, "runtime events go to RTMR3")
	}
	if c.separated[e.Register] > 0 && !c.mayFollow(e) {
		c.bad(RuleAfterSeparator, i, e.Register, "%s after the register's separator", e.Type)
	}
	if e.Type == EFIAction {
		if !c.l.covers(e, e.Data) && !c.leftOut(e) {
			c.bad(RuleDigestOfAction, i, e.Register, "digest is not that of the action's text")
		}
		if c.goesTo([]uint32{5}, e.Register) && c.l.covers(e, []byte(actionExited)) {
			c.exited = true
		}
	}
}

// actionExited is measured once boot services are gone.
const actionExited = "Exit Boot Services Returned with Success"

func (c *checker) separator(i int, e *Event) {
	switch {
	case !c.firmware(e.Register):
		c.bad(RuleSeparatorRegister, i, e.Register, "only firmware's registers have a separator")
	case c.separated[e.Register] > 0:
		c.bad(RuleSeparatorDuplicate, i, e.Register, "a second separator")
	}
	c.separated[e.Register]++
	var value []byte
	for _, v := range [][]byte{{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}} {
		if c.l.covers(e, v) {
			value = v
		}
	}
	if value == nil || !bytes.Equal(e.Data, value) && !c.leftOut(e) {
		c.bad(RuleSeparatorValue, i, e.Register, "neither 00000000 nor ffffffff was measured")
	}
}

// leftOut reports whether an event's data is missing, as JSON logs may have
// it; the digest says enough then.
func (c *checker) leftOut(e *Event) bool { return c.l.Kind == KindJSON && len(e.Data) == 0 }

// firmware reports whether a register is closed by a separator.
func (c *checker) firmware(register uint32) bool {
	if c.tcg {
		return register <= 7
	}
	return register == 1 || register == 2
}

// goesTo reports whether a register is one of the given PCRs, or takes them
// in a confidential VM.
func (c *checker) goesTo(pcrs []uint32, register uint32) bool {
	if c.tcg {
		return slices.Contains(pcrs, register)
	}
	return slices.ContainsFunc(pcrs, func(p uint32) bool { return ccRegister(p) == register || p == 0 && register <= 2 })
}

// ccRegister returns the measurement register of a confidential VM that takes
// a PCR's events (UEFI 2.10, section 38.4.1). What goes to PCR 0 is in MRTD,
// which no event extends; of a firmware's configuration volume OVMF makes an
// event in RTMR0.
func ccRegister(pcr uint32) uint32 {
	switch {
	case pcr == 1 || pcr == 7:
		return 1
	case pcr >= 2 && pcr <= 6:
		return 2
	}
	return 3
}

// typeRegisters are the PCRs that an event type goes to.
var typeRegisters = map[Type][]uint32{
	SCRTMContents:        {0},
	SCRTMVersion:         {0},
	EFIHCRTMEvent:        {0},
	EFIBootApplication:   {2, 4},
	EFIBootDriver:        {0, 2, 4},
	EFIRuntimeDriver:     {0, 2, 4},
	EFIGPTEvent:          {5},
	EFIGPTEvent2:         {5},
	EFIVariableAuthority: {7},
}

// runtimeRegister takes a guest agent's runtime events: RTMR3.
const runtimeRegister = 4

// after has, by PCR, the types that may follow its separator.
var after = map[uint32][]Type{
	4: {Action, EFIAction, EFIBootApplication, EFIBootDriver, EFIRuntimeDriver, OmitBootDeviceEvents, CompactHash, IPL},
	5: {Action, EFIAction, EFIGPTEvent, EFIGPTEvent2, IPLPartitionData, EventTag},
	7: {EFIVariableAuthority},
}

// mayFollow reports whether an event may come after its register's separator.
func (c *checker) mayFollow(e *Event) bool {
	if !c.firmware(e.Register) {
		return true
	}
	if c.tcg {
		return slices.Contains(after[e.Register], e.Type)
	}
	if e.Register == 2 {
		return slices.Contains(after[4], e.Type) || slices.Contains(after[5], e.Type)
	}
	// RTMR0 takes PCR 7, whose separator comes first, and then PCR 1: tables
	// and boot variables.
	switch e.Type {
	case EFIVariableAuthority, EFIVariableBoot, EFIVariableBoot2, EFIHandoffTables, EFIHandoffTables2,
		PlatformConfigFlags, PostCode, TableOfDevices, NonhostConfig, EFIAction:
		return true
	}
	return false
}
