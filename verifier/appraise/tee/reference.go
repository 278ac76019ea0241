package tee

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/manifest"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
	"cocoon/verifier/tdx"
)

// IDs of the checks against a manifest's reference values.
const (
	checkMRTD      = "firmware.mrtd"       // the TD was built from a listed firmware
	checkRTMR      = "rtmr."               // and the register's number: its value, or its events
	checkServiceTD = "firmware.servicetd"  // no service TD is bound
	checkLaunch    = "image.launch_digest" // the SNP guest is one that the manifest allows
)

// imageTDX holds a TD's measurements against the manifest's reference values
// (DESIGN section 4): MRTD by firmware, each register by its value, or by the
// events of its log where some depend on the host. log is nil where it is not
// proven; registers that need it are then refused.
func imageTDX(m *manifest.Verified, p *policy.Policy, res *tdx.Result, log *eventlog.Log) []result.Check {
	if m == nil || m.Manifest.TDX == nil {
		return noReference(m, policy.ClassTDX)
	}
	t := m.Manifest.TDX
	mrtd := digest.SHA384(res.TD.MRTD)
	out := make([]result.Check, 0, 5)
	add := func(ok bool, id, expected, actual, reason, remedy string) {
		c := result.Check{ID: id, Status: result.Pass, Actual: actual}
		if !ok {
			c = result.Check{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy}
		}
		out = append(out, c)
	}
	// The nearest firmware explains what differs where none fits.
	fw := &t.Firmwares[0]
	known := false
	for i := range t.Firmwares {
		if f := &t.Firmwares[i]; slices.Contains(f.MRTD, mrtd) {
			fw, known = f, true
			break
		}
	}
	expected := ""
	if !known {
		expected = mrtds(t)
	}
	add(known, checkMRTD, expected, mrtd.String(), "the TD was built from a firmware that the manifest does not list", "boot with a firmware that the manifest lists")
	// What a service TD may do to a TD no register shows (TDX module ABI,
	// SERVTD_BIND). A policy that names service TDs has its own check.
	if p.DCAP == nil || p.DCAP.TDX == nil || len(p.DCAP.TDX.MRServiceTD) == 0 {
		zero := digest.SHA384{}
		add(digest.SHA384(res.TD.MRServiceTD) == zero, checkServiceTD, zero.String(), digest.SHA384(res.TD.MRServiceTD).String(),
			"a service TD is bound to the TD", "launch the TD without a migration TD, or name it in the policy")
	}
	for n, r := range []*manifest.Register{&fw.RTMR0, &fw.RTMR1, &fw.RTMR2} {
		id, got := checkRTMR+strconv.Itoa(n), digest.SHA384(res.TD.RTMR[n])
		const remedy = "boot the published image, and nothing else, with a firmware that the manifest lists"
		if r.Value != nil && *r.Value == got {
			add(true, id, "", got.String(), "", "")
			continue
		}
		digests := logged(log, n+1)
		switch {
		case r.Value != nil:
			reason := fmt.Sprintf("RTMR%d differs", n)
			if digests != nil {
				reason += ": " + difference(r, digests)
			}
			add(false, id, r.Value.String(), got.String(), reason, remedy)
		case log == nil:
			add(false, id, "an event log that is proven", "none", fmt.Sprintf("RTMR%d depends on the host, and without a proven log nothing says on what else", n), "send the log of this boot")
		case r.Match(digests):
			add(true, id, "", got.String(), "", "")
		default:
			add(false, id, fmt.Sprintf("%d events of the manifest, in order", len(r.Events)), got.String(), fmt.Sprintf("RTMR%d differs: %s", n, difference(r, digests)), remedy)
		}
	}
	return out
}

// logged returns the SHA-384 digests that a proven log extends a register
// with, nil without a log.
func logged(log *eventlog.Log, register int) []digest.SHA384 {
	if log == nil {
		return nil
	}
	out := []digest.SHA384{}
	for _, e := range log.Of(register) {
		d := e.Digest(eventlog.SHA384)
		if len(d) != len(digest.SHA384{}) {
			return nil
		}
		out = append(out, digest.SHA384(d))
	}
	return out
}

// difference names the first event in which a log differs from a register.
func difference(r *manifest.Register, log []digest.SHA384) string {
	for i, e := range r.Events {
		switch {
		case i >= len(log):
			return fmt.Sprintf("event %d, %s, is missing", i, e.Name)
		case !e.Host && e.Digest != log[i]:
			return fmt.Sprintf("event %d, %s, is %s, want %s", i, e.Name, log[i], e.Digest)
		}
	}
	if n := len(log) - len(r.Events); n > 0 {
		return fmt.Sprintf("%d events more than the manifest has", n)
	}
	return "its events are the manifest's"
}

func mrtds(t *manifest.TDX) string {
	var all []string
	for _, f := range t.Firmwares {
		for _, d := range f.MRTD {
			all = append(all, d.String())
		}
	}
	if len(all) > 4 {
		all = append(all[:4], fmt.Sprintf("… %d more", len(all)-4))
	}
	return strings.Join(all, " or ")
}

// imageSNP holds a guest's launch digest against all guests that the manifest
// allows: each firmware with the image's kernel hashes, each kind and number of
// vCPUs.
func imageSNP(m *manifest.Verified, res *snp.Result) []result.Check {
	if m == nil || m.Manifest.SNP == nil {
		return noReference(m, policy.ClassSNP)
	}
	got := digest.SHA384(res.Report.LaunchDigest)
	match, ok := m.Manifest.SNP.Match(got)
	if !ok {
		return []result.Check{{ID: checkLaunch, Status: result.Fail, Expected: "the launch digest of a guest that the manifest allows", Actual: hex.EncodeToString(got[:]),
			Reason: "firmware, kernel, initrd, command line, or the kind or number of vCPUs differ",
			Remedy: "launch the published image with kernel-hashes=on, a firmware and a vCPU model that the manifest lists; cocoon measure snp says which digest follows"}}
	}
	return []result.Check{{ID: checkLaunch, Status: result.Pass,
		Actual: fmt.Sprintf("%s: firmware %s, %d vCPUs %s", got, match.Firmware.Name, match.Shape.VCPUs, match.Shape.VCPUType)}}
}
