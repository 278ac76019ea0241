package dcap

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/measurements/digest"
	verify "cocoon/verifier/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/sgx"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdx"
)

// AppraiseTDX holds a verified TDX quote against the policy at the time now.
// Its checks have IDs "policy.tdx.<what>", "tdx.tcb.<status>" for a status
// that is not accepted, and "tdx.report_data" for the binding. What the policy does not ask for is a check that is skipped.
func (p *Policy) AppraiseTDX(r *tdx.Result, now time.Time) []result.Check {
	return p.AppendTDX(make([]result.Check, 0, maxChecks), r, now)
}

// AppendTDX is AppraiseTDX, and appends the checks.
func (p *Policy) AppendTDX(checks []result.Check, r *tdx.Result, now time.Time) []result.Check {
	a := &appraisal{tee: "tdx", checks: checks}
	t := p.TDX
	if t == nil {
		return a.noSection()
	}
	a.platform(&t.Platform, &r.Result, now)
	td := &r.TD

	// Bits 7 to 0 of TDATTRIBUTES are the TUD group, "TD under debug": with any
	// of them the TD is not trusted (TDX module ABI, ATTRIBUTES).
	a.debug(&t.Platform, td.Attributes[0] != 0 || r.Debug, "TD attributes "+hex.EncodeToString(td.Attributes[:]))
	sept := td.Attributes[3]&(tdx.AttrSEPTVEDisable>>24) != 0
	switch {
	case sept:
		a.pass("sept_ve_disable", "set")
	case t.AllowSEPTVE:
		a.skip("sept_ve_disable", "not set, which the policy allows")
	default:
		a.fail("sept_ve_disable", "set", "not set", "the host can take pages away under the guest, which then sees a #VE",
			"launch the TD with SEPT_VE_DISABLE (QEMU: sept-ve-disable=on), or set allow_sept_ve where a paravisor handles it")
	}
	a.masked("attributes", t.Attributes, td.Attributes[:])
	a.masked("xfam", t.XFAM, td.XFAM[:])

	measured := 0
	for _, m := range []struct {
		name  string
		list  []digest.SHA384
		value [48]byte
	}{
		{"mrseam", t.MRSEAM, td.MRSEAM},
		{"mrtd", t.MRTD, td.MRTD},
		{"rtmr0", t.RTMR0, td.RTMR[0]},
		{"rtmr1", t.RTMR1, td.RTMR[1]},
		{"rtmr2", t.RTMR2, td.RTMR[2]},
		{"rtmr3", t.RTMR3, td.RTMR[3]},
		{"mrconfigid", t.MRConfigID, td.MRConfigID},
		{"mrowner", t.MROwner, td.MROwner},
		{"mrownerconfig", t.MROwnerConfig, td.MROwnerConfig},
	} {
		measured += len(m.list)
		allow(a, m.name, m.list, digest.SHA384(m.value))
	}
	switch services := t.MRServiceTD; {
	case len(services) == 0 && measured == 0:
		a.skip("mrservicetd", "the policy names no measurement")
	case len(services) == 0:
		allow(a, "mrservicetd", []digest.SHA384{{}}, digest.SHA384(td.MRServiceTD))
	default:
		allow(a, "mrservicetd", services, digest.SHA384(td.MRServiceTD))
	}
	a.reportData(t.ReportData, td.ReportData)
	return a.checks
}

// AppraiseSGX holds a verified SGX quote against the policy at the time now.
// Its checks have IDs "policy.sgx.<what>", "sgx.tcb.<status>" for a status
// that is not accepted, and "sgx.report_data" for the binding. What the policy does not ask for is a check that is skipped.
func (p *Policy) AppraiseSGX(r *sgx.Result, now time.Time) []result.Check {
	a := &appraisal{tee: "sgx", checks: make([]result.Check, 0, maxChecks)}
	s := p.SGX
	if s == nil {
		return a.noSection()
	}
	a.platform(&s.Platform, &r.Result, now)
	e := &r.Enclave
	a.debug(&s.Platform, r.Debug, "enclave attributes "+hex.EncodeToString(e.Attributes[:]))
	a.masked("attributes", s.Attributes, e.Attributes[:])
	allow(a, "mrenclave", s.MREnclave, digest.SHA256(e.MREnclave))
	allow(a, "mrsigner", s.MRSigner, digest.SHA256(e.MRSigner))
	allow(a, "isvprodid", decimals(s.ISVProdIDs), decimal(e.ISVProdID))
	if s.MinISVSVN == 0 {
		a.skip("isvsvn", "the policy names no minimum")
	} else {
		a.judge(e.ISVSVN >= s.MinISVSVN, "isvsvn", fmt.Sprintf("at least %d", s.MinISVSVN), strconv.Itoa(int(e.ISVSVN)),
			"the enclave is an older version than the policy wants", "update the enclave")
	}
	a.reportData(s.ReportData, e.ReportData)
	return a.checks
}

// appraisal collects checks.
// maxChecks is about how many checks an appraisal makes.
const maxChecks = 32

type appraisal struct {
	tee    string
	checks []result.Check
}

func (a *appraisal) add(c result.Check) { a.checks = append(a.checks, c) }

func (a *appraisal) pass(id, actual string) {
	a.add(result.Check{ID: "policy." + a.tee + "." + id, Status: result.Pass, Actual: actual})
}

func (a *appraisal) skip(id, reason string) {
	a.add(result.Check{ID: "policy." + a.tee + "." + id, Status: result.Skip, Reason: reason})
}

func (a *appraisal) fail(id, expected, actual, reason, remedy string) {
	a.add(result.Check{ID: "policy." + a.tee + "." + id, Status: result.Fail,
		Expected: expected, Actual: actual, Reason: reason, Remedy: remedy})
}

// judge passes or fails; reason and remedy are those of a failure.
func (a *appraisal) judge(ok bool, id, expected, actual, reason, remedy string) {
	if ok {
		a.add(result.Check{ID: "policy." + a.tee + "." + id, Status: result.Pass, Expected: expected, Actual: actual})
		return
	}
	a.fail(id, expected, actual, reason, remedy)
}

// noSection is the refusal of a TEE that the policy does not name.
func (a *appraisal) noSection() []result.Check {
	a.fail("section", "a section for "+a.tee, "none", "the policy accepts no "+a.tee+" quotes",
		`add a "`+a.tee+`" section to the policy`)
	return a.checks
}

// platform appraises what TDX and SGX have in common.
func (a *appraisal) platform(p *Platform, r *verify.Result, now time.Time) {
	if r.TCB.Status == "" {
		// Without a verified chain of trust there is no status to appraise; the
		// verification's own checks say why.
		for _, id := range []string{"tcb_status", "platform_age", "collateral_age", "evaluation", "advisories"} {
			a.skip(id, "the quote's cryptography does not hold")
		}
	} else {
		a.tcb(p, r, now)
	}
	a.flag("dynamic_platform", p.AllowDynamicPlatform, r.Platform.DynamicPlatform)
	a.flag("cached_keys", p.AllowCachedKeys, r.Platform.CachedKeys)
	a.flag("smt", p.AllowSMT, r.Platform.SMTEnabled)
	allow(a, "fmspc", texts(p.FMSPCs), text(r.Platform.FMSPC))
	allow(a, "ppid", texts(p.PPIDs), text(r.Platform.PPID))
	allow(a, "platform_instance", texts(p.PlatformInstances), text(r.Platform.InstanceID))
}

// tcb appraises status, dates and advisories.
func (a *appraisal) tcb(p *Platform, r *verify.Result, now time.Time) {
	accepted := p.AcceptedTCBStatus
	if len(accepted) == 0 {
		accepted = []tcb.Status{tcb.UpToDate}
	}
	a.status(p, accepted, r.TCB.Status)

	switch {
	case p.PlatformGraceSeconds == nil:
		a.skip("platform_age", "the policy names no platform_grace_seconds")
	case !outOfDate(r.TCB.Status):
		a.skip("platform_age", "the platform is not out of date")
	default:
		limit := p.PlatformEnd(r)
		a.judge(!now.After(limit), "platform_age", "TCB date at or after "+stamp(now.Add(-limit.Sub(r.TCB.Date))), stamp(r.TCB.Date),
			"the platform has been out of date for longer than the policy's grace", r.TCB.Status.Remedy())
	}

	limit := r.Dates.EarliestExpiry.Add(p.CollateralGrace())
	if refused(r, "dcap.collateral.expired") {
		a.skip("collateral_age", "the verification refused it already")
	} else {
		a.judge(!now.After(limit), "collateral_age", "expiry at or after "+stamp(now.Add(-p.CollateralGrace())), stamp(r.Dates.EarliestExpiry),
			"a part of the collateral has expired", "fetch the collateral again: see cocoon collateral fetch")
	}

	if p.MinEvaluation == 0 {
		a.skip("evaluation", "the policy names no minimum")
	} else {
		evaluation := min(r.TCB.Evaluation, r.TCB.QEEvaluation)
		a.judge(evaluation >= p.MinEvaluation, "evaluation", fmt.Sprintf("at least %d", p.MinEvaluation),
			strconv.Itoa(evaluation), "the collateral is of an older TCB evaluation than the policy wants",
			"fetch collateral of a later evaluation: see cocoon collateral fetch")
	}

	var rejected []string
	for _, id := range r.TCB.Advisories {
		if slices.ContainsFunc(p.RejectedAdvisories, func(s string) bool { return strings.EqualFold(s, id) }) {
			rejected = append(rejected, id)
		}
	}
	if len(p.RejectedAdvisories) == 0 {
		a.skip("advisories", "the policy rejects none")
	} else {
		a.judge(len(rejected) == 0, "advisories", "none of "+strings.Join(p.RejectedAdvisories, ", "), list(rejected),
			"an advisory that the policy rejects applies to the platform", "update the platform as the advisory says")
	}
}

// PlatformEnd returns when an out-of-date platform is no longer accepted, zero
// where nothing says so: its TCB date and the policy's grace.
func (p *Platform) PlatformEnd(r *verify.Result) time.Time {
	if p.PlatformGraceSeconds == nil || !outOfDate(r.TCB.Status) {
		return time.Time{}
	}
	return r.TCB.Date.Add(time.Duration(*p.PlatformGraceSeconds) * time.Second)
}

// refused reports whether a verification has a check that is there only where it
// failed.
func refused(r *verify.Result, id string) bool {
	for i := range r.Checks {
		if r.Checks[i].ID == id {
			return true
		}
	}
	return false
}

// status appraises the TCB status. As in a verification, a failed check has
// the ID "<tee>.tcb.<status>": the code that a reader looks up.
func (a *appraisal) status(p *Platform, accepted []tcb.Status, s tcb.Status) {
	switch {
	case s == tcb.Revoked || s == tcb.NotSupported:
		a.skip("tcb_status", "the verification refused it already")
	case p.accepts(s):
		a.judge(true, "tcb_status", oneOf(accepted), string(s), "", "")
	default:
		f := s.Fault(a.tee)
		remedy := f.Remedy
		if remedy == "" {
			remedy = "add the status to accepted_tcb_status"
		}
		a.add(result.Check{ID: f.Code, Status: result.Fail, Expected: oneOf(accepted), Actual: string(s), Reason: f.Msg, Remedy: remedy})
	}
}

// debug refuses TDs and enclaves that their host can look into (DESIGN
// section 2: refused by default everywhere).
func (a *appraisal) debug(p *Platform, debug bool, actual string) {
	switch {
	case !debug:
		a.pass("debug", "off")
	case p.AllowDebug:
		a.skip("debug", "debugging is on, which the policy allows")
	default:
		a.fail("debug", "off", "on: "+actual, "the host can read and change the memory",
			"launch without debugging, or set allow_debug for tests")
	}
}

// flag appraises a flag of the PCK certificate.
func (a *appraisal) flag(id string, allowed, flag *bool) {
	switch {
	case allowed == nil:
		a.skip(id, "the policy does not look at it")
	case *allowed:
		a.skip(id, "allowed")
	case flag == nil:
		a.fail(id, "false", "not stated", "the PCK certificate does not state this flag",
			"use a platform whose certificate does, or leave the key out of the policy")
	default:
		a.judge(!*flag, id, "false", strconv.FormatBool(*flag), "the policy does not allow such a platform",
			"change the platform's configuration and register it again, or use another")
	}
}

// masked compares selected bits.
func (a *appraisal) masked(id string, want *Masked, got []byte) {
	if want == nil {
		a.skip(id, "the policy does not look at it")
		return
	}
	ok := len(want.Mask) == len(got) && len(want.Value) == len(got)
	for i := 0; ok && i < len(got); i++ {
		ok = got[i]&want.Mask[i] == want.Value[i]
	}
	a.judge(ok, id, want.Value.String()+" under mask "+want.Mask.String(), hex.EncodeToString(got),
		"bits differ from what the policy wants", "launch with the attributes that the policy names")
}

// reportData checks what the quote was made for. It binds the quote to a
// key or a challenge, so that its failure is not one of policy alone.
func (a *appraisal) reportData(want Hex, got [64]byte) {
	if len(want) == 0 {
		return
	}
	a.add(ReportData(a.tee, [64]byte(want), got))
}

// ReportData is the check that a quote's report data is the one wanted; its
// ID is "<tee>.report_data".
func ReportData(tee string, want, got [64]byte) result.Check {
	c := result.Check{ID: tee + ".report_data", Status: result.Pass,
		Expected: hex.EncodeToString(want[:]), Actual: hex.EncodeToString(got[:])}
	if want != got {
		c.Status = result.Fail
		c.Reason = "the quote was made for other report data"
		c.Remedy = "ask for a fresh quote over the data that is expected"
	}
	return c
}

// allow holds a value against an allow list; an empty list allows any.
func allow[T interface {
	comparable
	String() string
}](a *appraisal, id string, accepted []T, got T) {
	if len(accepted) == 0 {
		a.skip(id, "the policy accepts any value")
		return
	}
	actual := got.String()
	if actual == "" {
		actual = "not stated"
	}
	a.judge(slices.Contains(accepted, got), id, oneOf(accepted), actual, "the value is not on the policy's list",
		"run what the policy names, or add the value to the policy")
}

type text string

// String implements fmt.Stringer.
func (t text) String() string { return string(t) }

func texts(in []Hex) []text {
	out := make([]text, len(in))
	for i, h := range in {
		out[i] = text(h.String())
	}
	return out
}

type decimal uint16

// String implements fmt.Stringer.
func (d decimal) String() string { return strconv.Itoa(int(d)) }

func decimals(in []uint16) []decimal {
	out := make([]decimal, len(in))
	for i, n := range in {
		out[i] = decimal(n)
	}
	return out
}

// oneOf shows an allow list, not more of it than a screen takes.
func oneOf[T any](accepted []T) string {
	const most = 4
	var s []string
	for i, v := range accepted {
		if i == most {
			s = append(s, fmt.Sprintf("%d more", len(accepted)-most))
			break
		}
		s = append(s, fmt.Sprint(v))
	}
	return strings.Join(s, " or ")
}

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
