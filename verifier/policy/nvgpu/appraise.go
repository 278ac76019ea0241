package nvgpu

import (
	"fmt"
	"slices"
	"strings"

	"cocoon/measurements/manifest"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/result"
)

// judges says which check of a policy decides whether a check of the
// verification may be skipped.
var judges = map[string]string{
	"gpu.fwid":         "gpu.policy.fwid",
	"gpu.ocsp":         "gpu.policy.ocsp",
	"gpu.rim.ocsp":     "gpu.policy.ocsp",
	"gpu.rim.driver":   "gpu.policy.measurements",
	"gpu.rim.vbios":    "gpu.policy.measurements",
	"gpu.measurements": "gpu.policy.measurements",
	"gpu.devtools":     "gpu.policy.measurements",
}

// Waived reports whether a skipped check of a device was judged by the policy
// and passed: checks are the device's, those of Appraise among them.
func Waived(id string, checks []result.Check) bool {
	judge, ok := judges[id]
	return ok && slices.ContainsFunc(checks, func(c result.Check) bool { return c.ID == judge && c.Status == result.Pass })
}

// Appraise holds a verified device against the policy, and against floors of
// an image's manifest, which hold beside the policy's own. The checks have IDs
// under "gpu.policy."; each fails where the policy does not allow what was
// found, or what was not shown. nonce says whether the verification demanded
// its own nonce in OCSP responses.
func (p *Policy) Appraise(d *nvgpu.Device, floors []manifest.GPUFloor, nonce bool) []result.Check {
	a := &appraisal{}
	p.skips(a, d, nonce)
	if d.Kind == "" {
		return a.checks // the chain does not hold, which refuses it already
	}
	if d.Kind == nvgpu.KindGPU {
		archs := p.Architectures
		if len(archs) == 0 {
			archs = []nvgpu.Arch{nvgpu.Hopper, nvgpu.Blackwell}
		}
		allow(a, "arch", archs, d.Arch, "use a GPU of an architecture that the policy names")
		if len(p.Models) == 0 {
			a.pass("model", d.Model+" "+d.Board)
		} else {
			a.judge(slices.Contains(p.Models, d.Board) || d.Model != "" && slices.Contains(p.Models, d.Model), "model", strings.Join(p.Models, " or "),
				stated(strings.TrimSpace(d.Model+" "+d.Board)), "the model is not one that the policy accepts", "use a GPU that the policy names, or add the board to it")
		}
		modes := p.Modes
		if len(modes) == 0 {
			modes = []nvgpu.Mode{nvgpu.SPT, nvgpu.MPT, nvgpu.PPCIE}
		}
		allow(a, "mode", modes, d.Mode, "set a mode that the policy accepts, reset the GPUs and attest again")
	}
	a.floor(d, p.Floors, "policy")
	a.floor(d, floors, "manifest")
	return a.checks
}

// skips judges what the verification did not look at.
func (p *Policy) skips(a *appraisal, d *nvgpu.Device, nonce bool) {
	skipped := func(ids ...string) []string {
		var out []string
		for _, id := range ids {
			if d.Check(id).Status != result.Pass && d.Check(id).Status != result.Fail {
				out = append(out, strings.TrimPrefix(id, "gpu."))
			}
		}
		return out
	}
	judge := func(id string, missing []string, allowed bool, reason, remedy string) {
		actual := "shown"
		if len(missing) > 0 {
			actual = "not shown: " + strings.Join(missing, ", ")
		}
		a.judge(len(missing) == 0 || allowed, id, "shown", actual, reason, remedy)
	}
	judge("measurements", skipped("gpu.measurements"), p.AllowUnmeasured, "nothing shows which firmware and driver the device runs",
		"give the RIMs of its driver and VBIOS, or set allow_unmeasured")
	if d.Kind != nvgpu.KindSwitch {
		judge("fwid", skipped("gpu.fwid"), p.AllowNoFWID, "nothing binds the firmware to the device's key", "use a newer driver, or set allow_no_fwid")
	} else {
		a.pass("fwid", "switches report none")
	}
	revocation := skipped("gpu.ocsp")
	if d.Check("gpu.measurements").Status == result.Pass {
		revocation = skipped("gpu.ocsp", "gpu.rim.ocsp")
	}
	judge("ocsp", revocation, p.OCSP.AllowMissing, "nothing shows that the certificates are not revoked", "give OCSP responses, or set ocsp.allow_missing")
	if p.OCSP.RequireNonce {
		a.judge(nonce, "ocsp_nonce", "responses to this verification's nonce", "any", "cached OCSP responses do not count", "fetch OCSP responses with a nonce, or leave ocsp.require_nonce out")
	}
}

// appraisal collects checks.
type appraisal struct{ checks []result.Check }

func (a *appraisal) pass(id, actual string) {
	a.checks = append(a.checks, result.Check{ID: "gpu.policy." + id, Status: result.Pass, Actual: actual})
}

// judge passes or fails; reason and remedy are those of a failure.
func (a *appraisal) judge(ok bool, id, expected, actual, reason, remedy string) {
	c := result.Check{ID: "gpu.policy." + id, Status: result.Pass, Expected: expected, Actual: actual}
	if !ok {
		c.Status, c.Reason, c.Remedy = result.Fail, reason, remedy
	}
	a.checks = append(a.checks, c)
}

// stated is what a device says, for people.
func stated(s string) string {
	if s == "" {
		return "not stated"
	}
	return s
}

func allow[T ~string](a *appraisal, id string, accepted []T, got T, remedy string) {
	texts := make([]string, len(accepted))
	for i, v := range accepted {
		texts[i] = string(v)
	}
	a.judge(slices.Contains(accepted, got), id, strings.Join(texts, " or "), stated(string(got)), "the policy does not accept this "+id, remedy)
}

// floor checks driver and VBIOS against the oldest accepted ones.
func (a *appraisal) floor(d *nvgpu.Device, floors []manifest.GPUFloor, whose string) {
	i := slices.IndexFunc(floors, func(f manifest.GPUFloor) bool { return f.Arch == string(d.Arch) })
	if i < 0 {
		if len(floors) > 0 && d.Kind == nvgpu.KindGPU {
			a.judge(false, "floor", "a floor for "+stated(string(d.Arch)), "none", "the "+whose+" names the oldest driver and VBIOS of other architectures only", "use a GPU of an architecture that it names")
		}
		return
	}
	f := floors[i]
	if d.Kind == nvgpu.KindGPU && f.Driver != "" {
		a.atLeast("driver", f.Driver, d.Driver, 10, whose)
	}
	if f.VBIOS != "" {
		a.atLeast("vbios", f.VBIOS, d.VBIOS, 16, whose)
	}
}

func (a *appraisal) atLeast(id, least, got string, base int, whose string) {
	want, err := version(least, base)
	have, err2 := version(got, base)
	ok := err == nil && err2 == nil && slices.Compare(have, want) >= 0
	a.judge(ok, id, fmt.Sprintf("%s or newer", least), stated(got), fmt.Sprintf("the %s is older than the %s accepts", id, whose), "update the "+id)
}
