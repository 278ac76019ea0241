package snp

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cocoon/measurements/digest"
	"cocoon/verifier/policy/dcap"
	"cocoon/verifier/result"
	verify "cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
)

// Appraise holds a verified report against the policy. Its checks have IDs
// "policy.snp.<what>", and "snp.report_data" for the binding. What the policy
// does not ask for is a check that is skipped. A nil policy refuses.
func (p *Policy) Appraise(r *verify.Result) []result.Check {
	a := &appraisal{}
	if p == nil {
		a.fail("section", "a section for snp", "none", "the policy accepts no SEV-SNP reports", `add an "snp" section to the policy`)
		return a.checks
	}
	allow(a, "product", p.Products, r.Product)
	allow(a, "signer", p.Signers, r.Signer)
	if r.Signer == report.VLEK {
		allow(a, "csp", p.CSPs, r.Certificate.CSP)
	} else {
		a.skip("csp", "only VLEKs have a provider")
	}
	atLeast(a, "version", p.MinVersion, uint32(r.Version), "have the host update its firmware, for a later version of the report")
	a.crl(p, r)
	a.guest(p, r)
	a.platform(p.Platform, &r.Platform)

	allow(a, "vmpl", p.VMPLs, r.VMPL)
	atLeast(a, "guest_svn", p.MinGuestSVN, r.GuestSVN, "launch a later version of the guest")
	rep := &r.Report
	allow(a, "launch_digest", p.LaunchDigest, digest.SHA384(rep.LaunchDigest))
	allow(a, "host_data", p.HostData, digest.SHA256(rep.HostData))
	allow(a, "family_id", texts(p.FamilyIDs), hex.EncodeToString(rep.FamilyID[:]))
	allow(a, "image_id", texts(p.ImageIDs), hex.EncodeToString(rep.ImageID[:]))
	allow(a, "chip_id", texts(p.ChipIDs), hex.EncodeToString(rep.ChipID[:]))
	a.idBlock(p, r)
	a.tcb(p, r)
	if len(p.ReportData) > 0 {
		a.checks = append(a.checks, dcap.ReportData("snp", [64]byte(p.ReportData), rep.ReportData))
	}
	return a.checks
}

// appraisal collects checks.
type appraisal struct{ checks []result.Check }

func (a *appraisal) skip(id, reason string) {
	a.checks = append(a.checks, result.Check{ID: "policy.snp." + id, Status: result.Skip, Reason: reason})
}

func (a *appraisal) fail(id, expected, actual, reason, remedy string) {
	a.judge(false, id, expected, actual, reason, remedy)
}

// judge passes or fails; reason and remedy are those of a failure.
func (a *appraisal) judge(ok bool, id, expected, actual, reason, remedy string) {
	c := result.Check{ID: "policy.snp." + id, Status: result.Pass, Expected: expected, Actual: actual}
	if !ok {
		c.Status, c.Reason, c.Remedy = result.Fail, reason, remedy
	}
	a.checks = append(a.checks, c)
}

// crl checks that the report was held against a CRL, where one is required; a
// CRL that is too old is refused by the verification.
func (a *appraisal) crl(p *Policy, r *verify.Result) {
	if !p.RequireCRL {
		a.skip("crl", "the policy requires none")
		return
	}
	actual := "none"
	if r.CRL != nil {
		actual = "number " + r.CRL.Number
	}
	a.judge(r.CRL != nil, "crl", "a CRL", actual, "the certificate was not held against AMD's CRL", "give the CRL, or a KDS to fetch it from")
}

// guest appraises the guest policy. Debugging and migration agents are refused
// by default (DESIGN section 2).
func (a *appraisal) guest(p *Policy, r *verify.Result) {
	g := &r.Policy
	a.refuse("debug", p.AllowDebug, g.Debug, "the host can read and change the guest's memory",
		"launch the guest without the debug bit in its policy, or set allow_debug for tests")
	a.refuse("migration_agent", p.AllowMigrationAgent, g.MigrationAgent, "a migration agent may have the guest's keys",
		"launch the guest without the migration bit in its policy, or set allow_migration_agent")
	want := p.Guest
	if want == nil {
		want = &Guest{}
	}
	if m := want.MinABI; m == nil {
		a.skip("abi", "the policy names no minimum")
	} else {
		have := int(g.ABIMajor)<<8 | int(g.ABIMinor)
		a.judge(have >= int(m.Major)<<8|int(m.Minor), "abi", fmt.Sprintf("at least %d.%d", m.Major, m.Minor), fmt.Sprintf("%d.%d", g.ABIMajor, g.ABIMinor),
			"the guest may be launched by firmware with an older ABI", "launch the guest with a later ABI version in its policy")
	}
	for _, b := range []struct {
		id   string
		want *bool
		have bool
	}{
		{"guest.smt", want.SMT, g.SMT}, {"guest.single_socket", want.SingleSocket, g.SingleSocket}, {"guest.cxl", want.CXL, g.CXL},
		{"guest.aes_256_xts", want.AES256XTS, g.AES256XTS}, {"guest.rapl_disabled", want.RAPLDisabled, g.RAPLDisabled},
		{"guest.ciphertext_hiding", want.CiphertextHiding, g.CiphertextHiding}, {"guest.page_swap_disabled", want.PageSwapDisabled, g.PageSwapDisabled},
	} {
		a.bit(b.id, b.want, b.have, "the guest policy says otherwise", "launch the guest with the policy bits that are wanted")
	}
}

// refuse refuses what is on unless it is allowed.
func (a *appraisal) refuse(id string, allowed, on bool, reason, remedy string) {
	switch {
	case !on:
		a.judge(true, id, "off", "off", "", "")
	case allowed:
		a.skip(id, "on, which the policy allows")
	default:
		a.fail(id, "off", "on", reason, remedy)
	}
}

func (a *appraisal) bit(id string, want *bool, have bool, reason, remedy string) {
	if want == nil {
		a.skip(id, "the policy does not look at it")
		return
	}
	a.judge(*want == have, id, fmt.Sprint(*want), fmt.Sprint(have), reason, remedy)
}

// platform appraises the platform info.
func (a *appraisal) platform(want *Platform, have *verify.Platform) {
	if want == nil {
		want = &Platform{}
	}
	for _, b := range []struct {
		id   string
		want *bool
		have bool
	}{
		{"smt", want.SMT, have.SMT}, {"tsme", want.TSME, have.TSME}, {"ecc", want.ECC, have.ECC}, {"rapl_disabled", want.RAPLDisabled, have.RAPLDisabled},
		{"ciphertext_hiding", want.CiphertextHiding, have.CiphertextHiding}, {"alias_check_complete", want.AliasCheck, have.AliasCheck}, {"tio", want.TIO, have.TIO},
	} {
		a.bit("platform."+b.id, b.want, b.have, "the platform is set up otherwise", "change the platform's configuration, or use another")
	}
}

// idBlock appraises who signed for the guest. Only a verified ID block counts.
func (a *appraisal) idBlock(p *Policy, r *verify.Result) {
	if !p.RequireIDBlock && len(p.IDKeys) == 0 && len(p.AuthorKeys) == 0 {
		a.skip("id_block", "the policy requires none")
		return
	}
	b := r.IDBlock
	if b == nil {
		a.fail("id_block", "an ID block with sound signatures", "none", "nothing shows who signed for this guest: digests in a report are not signatures",
			"give the ID block and the ID authentication that the guest was launched with")
		return
	}
	a.judge(true, "id_block", "an ID block with sound signatures", "verified", "", "")
	allow(a, "id_key", p.IDKeys, digest.SHA384(b.IDKeyDigest))
	if len(p.AuthorKeys) > 0 && !b.HasAuthor {
		a.fail("author_key", oneOf(p.AuthorKeys), "none", "no author key signed the ID key", "launch the guest with an author key")
		return
	}
	allow(a, "author_key", p.AuthorKeys, digest.SHA384(b.AuthorKeyDigest))
}

// tcb appraises TCB, firmware and mitigations.
func (a *appraisal) tcb(p *Policy, r *verify.Result) {
	for _, t := range []struct {
		id   string
		min  map[report.Product]Components
		have report.TCB
	}{{"tcb.reported", p.MinTCB, r.TCB.Reported}, {"tcb.committed", p.MinCommittedTCB, r.TCB.Committed}, {"tcb.launch", p.MinLaunchTCB, r.TCB.Launch}} {
		switch want, ok := t.min[r.Product]; {
		case len(t.min) == 0:
			a.skip(t.id, "the policy names no minimum")
		case !ok:
			a.fail(t.id, "a product with a minimum", fmt.Sprintf("%q", r.Product), "the policy names no minimum for this product", "add the product to the policy's minimum")
		default:
			a.judge(t.have.AtLeast(want.tcb()), t.id, "at least "+want.tcb().String(), t.have.String(),
				"a component is older than the policy wants", "have the host update firmware and microcode, and launch the guest again")
		}
	}
	if !p.RequireCommitted {
		a.skip("committed", "the policy does not look at it")
	} else {
		a.judge(r.TCB.Committed == r.TCB.Current && r.Firmware.Committed == r.Firmware.Current, "committed",
			fmt.Sprintf("%s, firmware %s", r.TCB.Current, r.Firmware.Current), fmt.Sprintf("%s, firmware %s", r.TCB.Committed, r.Firmware.Committed),
			"the current firmware is not committed: the host can take it back", "have the host commit its firmware")
	}
	if m := p.MinFirmware; m == nil {
		a.skip("firmware", "the policy names no minimum")
	} else {
		a.judge(r.Firmware.Committed.Compare(*m) >= 0, "firmware", "at least "+m.String(), r.Firmware.Committed.String(),
			"the committed firmware is older than the policy wants", "have the host update and commit its firmware")
	}
	a.mitigations(p.Mitigations, r)
}

func (a *appraisal) mitigations(want *Mitigations, r *verify.Result) {
	if want == nil || (want.Launch == 0 && want.Current == 0) {
		a.skip("mitigations", "the policy names none")
		return
	}
	expected := fmt.Sprintf("at launch %s, now %s", want.Launch, want.Current)
	have := r.Mitigations
	if have == nil {
		a.fail("mitigations", expected, "not stated", "reports before version 5 do not state mitigations", "have the host update its firmware")
		return
	}
	a.judge(have.Launch&want.Launch == want.Launch && have.Current&want.Current == want.Current, "mitigations", expected,
		fmt.Sprintf("at launch %s, now %s", have.Launch, have.Current), "a mitigation that the policy wants is not in force",
		"have the host update its firmware, and launch the guest again")
}

func atLeast(a *appraisal, id string, min, have uint32, remedy string) {
	if min == 0 {
		a.skip(id, "the policy names no minimum")
		return
	}
	a.judge(have >= min, id, fmt.Sprintf("at least %d", min), fmt.Sprint(have), "the value is below what the policy wants", remedy)
}

// allow holds a value against an allow list; an empty list allows any.
func allow[T comparable](a *appraisal, id string, accepted []T, got T) {
	if len(accepted) == 0 {
		a.skip(id, "the policy accepts any value")
		return
	}
	actual := fmt.Sprint(got)
	if actual == "" {
		actual = "not stated"
	}
	a.judge(slices.Contains(accepted, got), id, oneOf(accepted), actual, "the value is not on the policy's list",
		"run what the policy names, or add the value to the policy")
}

func texts(in []Hex) []string {
	var out []string
	for _, h := range in {
		out = append(out, h.String())
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
