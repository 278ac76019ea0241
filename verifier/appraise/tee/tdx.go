package tee

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"cocoon/measurements/eventlog"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/tdx"
)

// tdxCPU appraises evidence of type "tdx".
type tdxCPU struct{ o Options }

// TestRoots names the roots that are not the makers' own.
func (a *tdxCPU) TestRoots() []string { return a.o.TestRoots() }

// Prepare fetches what this evidence does not bring.
func (a *tdxCPU) Prepare(ctx context.Context, cpu *evidence.CPU, collateral json.RawMessage, p *policy.Policy, now time.Time) appraise.CPU {
	return &tdxCPU{a.o.with(ctx, cpu, collateral, p, now)}
}

// usualChecks is about how many there are of a CPU.
const usualChecks = 40

// AppraiseCPU verifies the quote, binds it to the claims, holds it against
// the policy, and replays the event log to its registers.
func (a *tdxCPU) AppraiseCPU(ev *evidence.Evidence, m *manifest.Verified, p *policy.Policy, now time.Time) appraise.CPUResult {
	out := &outcome{appraise.CPUResult{TrustClass: policy.ClassTDX, CPU: make([]result.Check, 0, usualChecks)}}
	d := a.o.DCAP
	d.Now = now
	res := verifyTDX(&a.o, &d, ev, ev.CPU.Quote, p, out)
	if res == nil {
		out.Image = unread(m, policy.ClassTDX)
		return out.CPUResult
	}
	out.CPU = append(out.CPU, res.Checks...)
	out.policyTDX(p, res, now)
	floor(m, res, out)
	want, err := ev.Claims.ReportData()
	if err != nil {
		out.fail("claims.encoding", "claims that can be encoded", oneLine(err), "claims cannot be encoded", appraise.RemedyEncoding)
	} else {
		out.CPU = append(out.CPU, dcappolicy.ReportData("tdx", want, res.TD.ReportData))
	}
	log := eventLog(&a.o, ev, res, out)
	out.Measurements, out.Facts = res.Measurements(), &res.Result
	out.Image = imageTDX(m, p, res, log)
	return out.CPUResult
}

// verifyTDX verifies a quote; nil where it does not parse. The end of what that
// rests on is the result's.
func verifyTDX(o *Options, d *dcap.Options, ev *evidence.Evidence, quote []byte, p *policy.Policy, out *outcome) *tdx.Result {
	d.CollateralGrace = tdxGrace(p)
	o.material(&ev.CPU, ev.Collateral, p, d.Now).takeIntel(d, out)
	res, err := tdx.Verify(quote, d)
	if res == nil {
		out.faults(err)
		return nil
	}
	out.until(res.NotAfter)
	return res
}

// scratch has lists for a policy's checks, most of which it skips.
var scratch = sync.Pool{New: func() any { return new([]result.Check) }}

// policyTDX holds a quote against the policy; without a section for it nothing is
// accepted.
func (out *outcome) policyTDX(p *policy.Policy, res *tdx.Result, now time.Time) {
	if p.DCAP == nil {
		out.fail("policy.tdx", "a dcap section", "none", "the policy does not say which TDX platforms are accepted", "give the policy a dcap section with tdx")
		return
	}
	list := scratch.Get().(*[]result.Check)
	*list = p.DCAP.AppendTDX((*list)[:0], res, now)
	out.policy(*list)
	clear(*list)
	scratch.Put(list)
	if p.DCAP.TDX != nil {
		out.until(p.DCAP.TDX.PlatformEnd(&res.Result))
	}
}

// floor holds the collateral's evaluation against the manifest's TCB floor.
func floor(m *manifest.Verified, res *tdx.Result, out *outcome) {
	if m == nil || m.Manifest.TCB.TDXEvaluation == 0 {
		return
	}
	want, got := m.Manifest.TCB.TDXEvaluation, res.TCB.Evaluation
	if got < want {
		out.fail("manifest.tcb_floor", fmt.Sprintf("evaluation %d or later", want), fmt.Sprint(got), "collateral is of an older TCB evaluation than the image may run on", "fetch newer collateral")
		return
	}
	out.pass("manifest.tcb_floor", fmt.Sprint(got))
}

// IDs of the checks of a TD's event log.
const (
	checkLog       = "tdx.event_log.format"
	checkStructure = "tdx.event_log.structure"
	checkReplay    = "tdx.event_log.replay" // RTMR0 to RTMR2
	checkRuntime   = "tdx.event_log.runtime"
	checkEvents    = "tdx.runtime_events"
)

// eventLog holds the CCEL against RTMR0 to RTMR2 and the runtime events
// against RTMR3, and returns the log if all of that is good. RTMR3 is the
// supervisor's: a CCEL that extends it would let firmware events stand in for
// runtime events.
func eventLog(o *Options, ev *evidence.Evidence, res *tdx.Result, out *outcome) *eventlog.Log {
	before := len(out.CPU)
	good := true // the quote
	for i := range out.CPU {
		good = good && out.CPU[i].Status != result.Fail
	}
	l, err := o.logs.read(ev.CPU.EventLog)
	if err != nil {
		out.fail(checkLog, "a CCEL with a SHA-384 bank", oneLine(err), "event log does not parse", "send the CCEL as the firmware left it")
	} else {
		out.pass(checkLog, strconv.Itoa(len(l.Events))+" events")
		structure(l.violations, out)
		replay(l.Log, l.traces, res, firmwareRegisters, out)
	}
	runtimeRegister(ev, res, out)
	out.CPU = append(out.CPU, appraise.CheckRuntimeEvents(checkEvents, ev))
	for i := before; i < len(out.CPU); i++ {
		if out.CPU[i].Status != result.Pass {
			return nil
		}
	}
	if good {
		o.logs.keep(l)
	}
	return l.Log
}

// registerRTMR3 is RTMR3's number in a CCEL.
const registerRTMR3 = 4

func structure(vs []eventlog.Violation, out *outcome) {
	if len(vs) == 0 {
		out.pass(checkStructure, "")
		return
	}
	var text []string
	for i, v := range vs {
		if i == 8 {
			text = append(text, fmt.Sprintf("… %d more", len(vs)-i))
			break
		}
		text = append(text, v.Error())
	}
	out.fail(checkStructure, "the log of a measured boot", strings.Join(text, "; "), "event log has events where no firmware puts them",
		"boot again without anything between firmware and the image, and send the CCEL as the firmware left it")
}

// firmwareRegisters are those that a CCEL is held against: RTMR0 to RTMR2.
const firmwareRegisters = 3

// unextended is what a register has that no event was measured into.
var unextended [48]byte

// replay holds the first registers against the quote's and names those that
// differ.
func replay(l *eventlog.Log, traces []eventlog.Trace, res *tdx.Result, registers int, out *outcome) {
	var want, got []string
	for i := range registers {
		value := unextended[:]
		for k := range traces {
			if traces[k].Register == i+1 {
				value = traces[k].Value
			}
		}
		if !bytes.Equal(value, res.TD.RTMR[i][:]) {
			want = append(want, fmt.Sprintf("rtmr%d=%x", i, res.TD.RTMR[i]))
			got = append(got, l.RegisterName(i+1)+"="+hex.EncodeToString(value))
		}
	}
	if len(want) > 0 {
		out.fail(checkReplay, strings.Join(want, " "), strings.Join(got, " "), "event log does not replay to the quote's registers", "send the log of the same boot")
		return
	}
	out.pass(checkReplay, "rtmr0 to rtmr"+strconv.Itoa(registers-1))
}

// runtimeRegister holds RTMR3 against the runtime events, each extended with
// the SHA-384 of its RFC 8785 form (DESIGN section 4).
func runtimeRegister(ev *evidence.Evidence, res *tdx.Result, out *outcome) {
	var v [48]byte
	var extend [2 * len(v)]byte
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		if err != nil {
			out.fail(checkRuntime, "events that can be encoded", oneLine(err), "a runtime event cannot be encoded", appraise.RemedyEncoding)
			return
		}
		d := sha512.Sum384(b)
		copy(extend[:], v[:])
		copy(extend[len(v):], d[:])
		v = sha512.Sum384(extend[:])
	}
	if v != res.TD.RTMR[3] {
		out.fail(checkRuntime, hex.EncodeToString(res.TD.RTMR[3][:]), hex.EncodeToString(v[:]), "runtime events do not replay to RTMR3", "send the events of the same boot")
		return
	}
	out.pass(checkRuntime, "rtmr3")
}

// oneLine is an error's text on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
