package appraise

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/tpm"
)

// candidate is the outcome of holding the evidence against one manifest.
type candidate struct {
	m        *manifest.Verified
	own      *appraisal // of image, config and model against the manifest
	gpus     [][]result.Check
	gpuFacts []any
	cpu      CPUResult
	notAfter time.Time
}

// ofManifest are the submodules that have checks against a manifest alone.
var ofManifest = [...]string{result.SubImage, result.SubConfig, result.SubModel}

func (c *candidate) failures() (n int) {
	count := func(l []result.Check) {
		for i := range l {
			if l[i].Status == result.Fail {
				n++
			}
		}
	}
	for _, l := range c.own.subs {
		count(*l)
	}
	for _, l := range c.gpus {
		count(l)
	}
	count(c.cpu.CPU)
	count(c.cpu.Image)
	return n
}

// checkAgainstManifests appraises CPU, image, config and model against every
// candidate and keeps the best: the one with the fewest failures, of those
// the newest. Evidence that fits one manifest in full is accepted by it; what
// fits none is explained by the nearest.
func (a *appraisal) checkAgainstManifests(r *result.Result) *manifest.Verified {
	cpu := a.cpu()
	if cpu == nil {
		a.fail(result.SubCPU, "evidence.type.unsupported", strings.Join(a.types(), ", "), fmt.Sprintf("%.32q", a.ev.CPU.Type),
			"this appraiser does not read evidence of this type", "use a verifier that reads it")
	}
	if len(a.o.Manifests) == 0 {
		a.fail(result.SubImage, "manifest.trusted", "a manifest that the policy accepts", "none", "no published measurements to hold the evidence against",
			"publish the image's manifest and name its hash or keys in the policy")
	}
	var best *candidate
	for _, m := range a.o.Manifests {
		c := a.try(cpu, m)
		if best == nil || c.failures() < best.failures() ||
			c.failures() == best.failures() && m.Manifest.Image.Version > best.m.Manifest.Image.Version {
			best, c = c, best
		}
		if c != nil {
			c.own.free()
		}
	}
	if best == nil {
		// The CPU's evidence is still worth its checks.
		if cpu != nil {
			a.takeCPU(r, cpu.AppraiseCPU(a.ev, nil, a.o.Policy, a.now))
		}
		return nil
	}
	if cpu != nil {
		a.takeCPU(r, best.cpu)
	}
	for _, sub := range ofManifest {
		a.add(sub, *best.own.subs[sub]...)
	}
	best.own.free()
	a.gpuFacts = best.gpuFacts
	for i, g := range best.gpus {
		a.add(result.SubGPU(i), g...)
	}
	if best.notAfter.Before(r.NotAfter) {
		r.NotAfter = best.notAfter
	}
	return best.m
}

// takeCPU takes over what a CPU appraiser found, and checks the trust class
// that it states.
func (a *appraisal) takeCPU(r *result.Result, c CPUResult) {
	r.TrustClass = policy.Class(c.TrustClass, a.roots)
	a.checkClass(r.TrustClass)
	// An appraiser that looked at nothing has not found the evidence good.
	if len(c.CPU) == 0 || len(c.Image) == 0 && len(a.o.Manifests) > 0 {
		a.fail(result.SubCPU, "evidence.cpu.unchecked", "checks of quote and image", "none", "the appraiser of this CPU type made no checks", "report this")
	}
	a.add(result.SubCPU, c.CPU...)
	a.add(result.SubImage, c.Image...)
	if len(r.Measurements) == 0 && c.Measurements != nil {
		r.Measurements = c.Measurements
	} else {
		maps.Copy(r.Measurements, c.Measurements)
	}
	a.cpuFacts = c.Facts
	if !c.NotAfter.IsZero() && c.NotAfter.Before(r.NotAfter) {
		r.NotAfter = c.NotAfter
	}
}

// checkClass checks that the policy accepts a trust class.
func (a *appraisal) checkClass(class string) {
	if a.o.Policy.Accepts(class) {
		a.pass(result.SubCPU, "policy.trust_class", class)
	} else {
		a.fail(result.SubCPU, "policy.trust_class", accepted(a.o.Policy), class,
			"the policy does not accept this trust class", "use a machine of an accepted class; \"vtpm\" and \"test\" are for development only")
	}
}

// accepted lists the trust classes that count under a policy.
func accepted(p *policy.Policy) string {
	var out []string
	for _, c := range p.TrustClasses {
		if p.Accepts(c) {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

func (a *appraisal) try(cpu CPU, m *manifest.Verified) *candidate {
	sub := &appraisal{ev: a.ev, o: a.o, now: a.now, subs: make(map[string]*[]result.Check, len(ofManifest))}
	for _, n := range ofManifest {
		sub.subs[n] = lists.Get().(*[]result.Check)
	}
	c := &candidate{m: m, own: sub, notAfter: m.Manifest.Sunset}
	if end := graceEnd(a.o.Registry, m.SHA256); !end.IsZero() && end.Before(c.notAfter) {
		c.notAfter = end
	}
	if end := a.superseded(m); !end.IsZero() && end.Before(c.notAfter) {
		c.notAfter = end
	}
	sub.checkManifest(m)
	sub.checkConfig(m.Manifest)
	sub.checkModels(m.Manifest)
	if cpu != nil {
		c.cpu = cpu.AppraiseCPU(a.ev, m, a.o.Policy, a.now)
	}
	if a.o.GPUs != nil && len(a.ev.GPUs) > 0 {
		g := a.o.GPUs.AppraiseGPUs(a.ev, m, a.o.Policy, a.now)
		c.gpus, c.gpuFacts = g.GPUs, g.Facts
		sub.add(result.SubConfig, g.Machine...)
		if !g.NotAfter.IsZero() && g.NotAfter.Before(c.notAfter) {
			c.notAfter = g.NotAfter
		}
		for i := range c.gpus {
			if len(c.gpus[i]) == 0 {
				c.gpus[i] = []result.Check{{ID: "gpu.unchecked", Status: result.Fail, Expected: "checks of the device", Actual: "none",
					Reason: "the appraiser made no checks of this device", Remedy: "report this"}}
			}
		}
		if len(c.gpus) != len(a.ev.GPUs) {
			c.gpus = append(c.gpus, []result.Check{{ID: "gpu.count", Status: result.Fail, Expected: fmt.Sprintf("checks of %d devices", len(a.ev.GPUs)),
				Actual: fmt.Sprintf("of %d", len(c.gpus)), Reason: "the appraiser did not make checks of every device", Remedy: "report this"}})
		}
	}
	return c
}

// checkManifest checks that the manifest is good at this time.
func (a *appraisal) checkManifest(m *manifest.Verified) {
	// A log is for what is accepted and not for what is no longer: a successor
	// that nobody has shown in public still ends its predecessor, so this is not
	// part of checkTrust.
	a.checkLogged(m)
	a.checkTrust(m)
	if slices.Contains(a.o.Policy.Manifests.Revoked, m.SHA256) {
		a.fail(result.SubImage, "manifest.revoked", "a manifest in force", m.SHA256.String(), "the manifest is revoked", "boot a newer image")
	} else {
		a.pass(result.SubImage, "manifest.revoked", "")
	}
	// The one place that decides about debug images (DESIGN section 2: refused
	// by default). The mark is on the measured command line, and a manifest
	// that hides it is not valid.
	if m.Manifest.Image.Debug && a.o.Policy.Environment != policy.Development {
		a.fail(result.SubImage, "manifest.debug", "an image for production", "debug image "+m.Manifest.Image.Name, "a debug image shows more than it should",
			"boot the image of the cpu or nvidia profile")
	} else {
		a.pass(result.SubImage, "manifest.debug", "")
	}
	sunset := m.Manifest.Sunset.UTC().Format(time.RFC3339)
	if !a.now.Before(m.Manifest.Sunset) {
		a.fail(result.SubImage, "manifest.sunset", "before "+sunset, a.now.UTC().Format(time.RFC3339), "the image is past its sunset date", "boot a newer image")
	} else {
		a.pass(result.SubImage, "manifest.sunset", sunset)
	}
	a.checkGrace(m)
}

// checkGrace holds a manifest to the date that a later one of the same image
// sets it, if the policy accepts the later one.
func (a *appraisal) checkGrace(m *manifest.Verified) {
	end := a.superseded(m)
	if end.IsZero() {
		a.pass(result.SubImage, "manifest.grace", "not superseded")
		return
	}
	until := end.UTC().Format(time.RFC3339)
	if !a.now.Before(end) {
		a.fail(result.SubImage, "manifest.grace", "before "+until, a.now.UTC().Format(time.RFC3339), "a later manifest supersedes this one and its grace is over", "boot the newer image")
		return
	}
	a.pass(result.SubImage, "manifest.grace", until)
}

// superseded returns when a later manifest ends this one, zero if none does.
func (a *appraisal) superseded(m *manifest.Verified) (end time.Time) {
	for _, later := range a.o.Manifests {
		if later.Manifest.Image.Name != m.Manifest.Image.Name || later.Manifest.Image.Version <= m.Manifest.Image.Version {
			continue
		}
		k := slices.IndexFunc(later.Manifest.Supersedes, func(s manifest.Superseded) bool { return s.Manifest == m.SHA256 })
		if k < 0 {
			continue
		}
		trust := &appraisal{ev: a.ev, o: a.o, now: a.now, subs: map[string]*[]result.Check{}}
		trust.checkTrust(later)
		if slices.ContainsFunc(*trust.subs[result.SubImage], func(c result.Check) bool { return c.Status == result.Fail }) {
			continue
		}
		if g := later.Manifest.Supersedes[k].GraceUntil; end.IsZero() || g.Before(end) {
			end = g
		}
	}
	return end
}

// firmwareChecks finds which of the manifest's firmwares booted and holds its
// recorded registers, the components in the log and then every computed
// register against what was proven. Components explain, registers decide:
// event types in the log are labels that nobody signed.
func firmwareChecks(t *manifest.TPM, boot manifest.Boot, r *tpm.Result) []result.Check {
	if r.Log == nil {
		return []result.Check{{ID: "image.registers", Status: result.Skip, Reason: "the event log does not parse"}}
	}
	fw := nearest(t.Firmwares, r.Registers)
	var out []result.Check
	cmp := func(id, reason, remedy string, want digest.SHA256, got string) {
		c := result.Check{ID: id, Status: result.Pass, Actual: got}
		if got != want.String() {
			c = result.Check{ID: id, Status: result.Fail, Expected: want.String(), Actual: got, Reason: reason, Remedy: remedy}
		}
		out = append(out, c)
	}
	const reboot = "boot the published image with the published firmware, unchanged"
	cmp("firmware.pcr0", "firmware differs from every one in the manifest", reboot, fw.PCR0, r.Registers[pcr.Firmware0].String())
	cmp("firmware.pcr7", "Secure Boot state differs from the recorded one", reboot, fw.PCR7, r.Registers[pcr.SecureBoot].String())
	kernel, cmdline, initrd := components(r.Log)
	cmp("image.kernel", "kernel differs", reboot, t.Components.KernelAuthenticodeSHA256, kernel)
	cmp("image.initrd", "initrd differs", reboot, t.Components.InitrdSHA256, initrd)
	cmp("image.cmdline", "kernel command line differs", reboot, fw.CmdlineSHA256, cmdline)
	// The root file system is fixed by its hash on the command line; there is
	// no register of its own.
	if cmdline == fw.CmdlineSHA256.String() {
		out = append(out, result.Check{ID: "image.root", Status: result.Pass, Actual: boot.RootVerity.String()})
	} else {
		out = append(out, result.Check{ID: "image.root", Status: result.Fail, Expected: boot.RootVerity.String(), Actual: "unknown",
			Reason: "the command line, which fixes the root file system, differs", Remedy: reboot})
	}
	for _, n := range fw.PCRs.Numbers() {
		if n == pcr.Firmware0 || n == pcr.SecureBoot {
			continue
		}
		cmp(fmt.Sprintf("pcr.%d", n), fmt.Sprintf("PCR %d differs from the computed value", n), reboot, fw.PCRs[n], r.Registers[n].String())
	}
	return out
}

// nearest returns the firmware of which the most registers are as seen.
func nearest(fws []manifest.TPMFirmware, seen pcr.Values) *manifest.TPMFirmware {
	best, most := 0, -1
	for i := range fws {
		n := 0
		for k, v := range fws[i].PCRs {
			if seen[k] == v {
				n++
				if k == pcr.Firmware0 {
					n += len(fws[i].PCRs) // the firmware's own register names it
				}
			}
		}
		if n > most {
			best, most = i, n
		}
	}
	return &fws[best]
}

// Labels that the Linux EFI stub gives its two events in PCR 9
// (drivers/firmware/efi/libstub).
const (
	labelCmdline = "LOADED_IMAGE::LoadOptions"
	labelInitrd  = "Linux initrd"
)

// components returns the digests, in hex, that the log has for the kernel
// image, its command line and its initrd; "absent" where there is none.
func components(l *eventlog.Log) (kernel, cmdline, initrd string) {
	kernel, cmdline, initrd = absent, absent, absent
	for _, e := range l.Of(pcr.BootManager) {
		if e.Type == eventlog.EFIBootApplication {
			kernel = hex.EncodeToString(e.Digest(eventlog.SHA256))
			break
		}
	}
	for _, e := range l.Of(pcr.LoaderInput) {
		switch e.Label() {
		case labelCmdline:
			cmdline = hex.EncodeToString(e.Digest(eventlog.SHA256))
		case labelInitrd:
			initrd = hex.EncodeToString(e.Digest(eventlog.SHA256))
		}
	}
	return kernel, cmdline, initrd
}

const absent = "absent"

// registers returns the replayed registers for people, and marks what is
// reported only.
func registers(v pcr.Values) map[string]string {
	out := map[string]string{}
	for _, n := range v.Numbers() {
		out[fmt.Sprintf("pcr%d", n)] = v[n].String()
	}
	return out
}
