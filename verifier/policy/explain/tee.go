package explain

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cocoon/measurements/digest"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/dcap"
	"cocoon/verifier/policy/snp"
	"cocoon/verifier/snp/report"
)

func dcapSection(t *text, p *policy.Policy) {
	if p.DCAP == nil {
		t.say("absent: Intel TDX and SGX are refused")
		return
	}
	if s := p.DCAP.TDX; s != nil {
		u := &text{}
		platform(u, &s.Platform)
		u.choose(s.AllowSEPTVE, "accepts TDs without SEPT_VE_DISABLE: the host can take pages away under the guest", "refuses TDs without SEPT_VE_DISABLE")
		services(u, s)
		for _, l := range []struct {
			name string
			list []digest.SHA384
		}{{"MRSEAM", s.MRSEAM}, {"MRTD", s.MRTD}, {"RTMR0", s.RTMR0}, {"RTMR1", s.RTMR1}, {"RTMR2", s.RTMR2}, {"RTMR3", s.RTMR3},
			{"MRCONFIGID", s.MRConfigID}, {"MROWNER", s.MROwner}, {"MROWNERCONFIG", s.MROwnerConfig}} {
			allow(u, l.name, l.list)
		}
		masked(u, "attributes", s.Attributes)
		masked(u, "XFAM", s.XFAM)
		t.prefixed("tdx: ", u)
	} else {
		t.say("tdx: absent: TDX is refused")
	}
	if s := p.DCAP.SGX; s != nil {
		u := &text{}
		platform(u, &s.Platform)
		allow(u, "MRENCLAVE", s.MREnclave)
		allow(u, "MRSIGNER", s.MRSigner)
		if len(s.ISVProdIDs) > 0 {
			u.say("accepts only product ids %v", s.ISVProdIDs)
		}
		if s.MinISVSVN > 0 {
			u.say("refuses security versions (ISV SVN) below %d", s.MinISVSVN)
		}
		masked(u, "attributes", s.Attributes)
		t.prefixed("sgx: ", u)
	} else {
		t.say("sgx: absent: SGX is refused")
	}
}

// prefixed adds another text's sentences, each under a prefix.
func (t *text) prefixed(prefix string, u *text) {
	for _, l := range u.lines {
		t.say("%s%s", prefix, l)
	}
}

// services says which service TDs are accepted, as package dcap decides it.
func services(t *text, s *dcap.TDX) {
	switch {
	case onlyZero(s.MRServiceTD):
		t.say("refuses TDs with a service TD")
	case len(s.MRServiceTD) > 0:
		allow(t, "service TDs", s.MRServiceTD)
	default:
		t.say("names no service TD: none is accepted where the section names any other measurement, any where it names none")
	}
}

func platform(t *text, p *dcap.Platform) {
	if len(p.AcceptedTCBStatus) == 0 {
		t.say("accepts TCB status UpToDate only")
	} else {
		t.say("accepts TCB status %s only", names(p.AcceptedTCBStatus))
	}
	if g := p.PlatformGraceSeconds; g != nil {
		t.say("accepts an out-of-date platform for %s after its TCB date", seconds(*g))
	}
	if p.CollateralGraceSeconds > 0 {
		t.say("accepts collateral for %s after its next update was due", seconds(p.CollateralGraceSeconds))
	} else {
		t.say("refuses collateral whose next update is overdue")
	}
	if p.MinEvaluation > 0 {
		t.say("refuses collateral with an evaluation data number below %d", p.MinEvaluation)
	}
	if len(p.RejectedAdvisories) > 0 {
		t.say("refuses platforms to which these advisories apply: %s", strings.Join(p.RejectedAdvisories, ", "))
	}
	t.choose(p.AllowDebug, "accepts debuggable guests: THE HOST CAN READ THEM", "refuses debuggable guests")
	for _, f := range []struct {
		flag *bool
		what string
	}{{p.AllowDynamicPlatform, "dynamic platforms"}, {p.AllowCachedKeys, "platforms with cached keys"}, {p.AllowSMT, "platforms with hyper-threading"}} {
		if f.flag != nil && !*f.flag {
			t.say("refuses %s", f.what)
		}
	}
	allow(t, "FMSPCs", p.FMSPCs)
	allow(t, "PPIDs", p.PPIDs)
	allow(t, "platform instances", p.PlatformInstances)
	if len(p.ReportData) > 0 {
		t.say("wants the report data %s", p.ReportData)
	}
}

func masked(t *text, what string, m *dcap.Masked) {
	if m != nil {
		t.say("wants %s to be %s in the bits %s", what, m.Value, m.Mask)
	}
}

func snpSection(t *text, p *policy.Policy) {
	s := p.SNP
	if s == nil {
		t.say("absent: AMD SEV-SNP is refused")
		return
	}
	if len(s.Products) > 0 {
		t.say("accepts only the products %s", names(s.Products))
	} else {
		t.say("accepts every product that this verifier knows")
	}
	if len(s.Signers) > 0 {
		t.say("accepts only reports signed by a %s", names(s.Signers))
	}
	if len(s.CSPs) > 0 {
		t.say("accepts VLEKs of %s only", strings.Join(s.CSPs, ", "))
	}
	if s.MinVersion > 0 {
		t.say("refuses reports below version %d", s.MinVersion)
	}
	switch {
	case s.RequireCRL && s.CRLMaxAgeSeconds > 0:
		t.say("refuses reports that were not held against AMD's revocation list, which may be %s old", seconds(s.CRLMaxAgeSeconds))
	case s.RequireCRL:
		t.say("refuses reports that were not held against AMD's revocation list, good until its next update")
	default:
		t.say("accepts reports that were held against no revocation list")
	}
	t.choose(s.AllowDebug, "accepts debuggable guests: THE HOST CAN READ THEM", "refuses debuggable guests")
	t.choose(s.AllowMigrationAgent, "accepts guests that a migration agent may move", "refuses guests that a migration agent may move")
	snpFlags(t, s)
	if len(s.VMPLs) > 0 {
		t.say("accepts only reports of privilege level %s", strings.Trim(fmt.Sprint(s.VMPLs), "[]"))
	}
	if s.MinGuestSVN > 0 {
		t.say("refuses guest security versions below %d", s.MinGuestSVN)
	}
	allow(t, "launch digests", s.LaunchDigest)
	allow(t, "host data", s.HostData)
	allow(t, "family IDs", s.FamilyIDs)
	allow(t, "image IDs", s.ImageIDs)
	allow(t, "chips", s.ChipIDs)
	allow(t, "ID keys", s.IDKeys)
	allow(t, "author keys", s.AuthorKeys)
	if len(s.ReportData) > 0 {
		t.say("wants the report data %s", s.ReportData)
	}
	if s.RequireIDBlock {
		t.say("refuses guests without a signed ID block")
	}
	snpVersions(t, s)
}

func snpFlags(t *text, s *snp.Policy) {
	flag := func(b *bool, what string) {
		if b != nil {
			t.choose(*b, "wants "+what, "refuses "+what)
		}
	}
	if g := s.Guest; g != nil {
		if g.MinABI != nil {
			t.say("refuses guest policies that allow a firmware ABI below %d.%d", g.MinABI.Major, g.MinABI.Minor)
		}
		flag(g.SMT, "a guest policy that allows SMT")
		flag(g.SingleSocket, "a guest policy of a single socket")
		flag(g.CXL, "a guest policy that allows CXL")
		flag(g.AES256XTS, "a guest policy with AES-256-XTS")
		flag(g.RAPLDisabled, "a guest policy with RAPL disabled")
		flag(g.CiphertextHiding, "a guest policy with ciphertext hiding")
		flag(g.PageSwapDisabled, "a guest policy with page swap disabled")
	}
	if f := s.Platform; f != nil {
		flag(f.SMT, "platforms with SMT")
		flag(f.TSME, "platforms with TSME")
		flag(f.ECC, "platforms with ECC memory")
		flag(f.RAPLDisabled, "platforms with RAPL disabled")
		flag(f.CiphertextHiding, "platforms with ciphertext hiding")
		flag(f.AliasCheck, "platforms that completed the memory alias check")
		flag(f.TIO, "platforms with trusted I/O")
	}
}

func snpVersions(t *text, s *snp.Policy) {
	some := false
	for _, m := range []struct {
		name string
		min  map[report.Product]snp.Components
	}{{"reported", s.MinTCB}, {"committed", s.MinCommittedTCB}, {"launch", s.MinLaunchTCB}} {
		for _, product := range slices.Sorted(maps.Keys(m.min)) {
			c := m.min[product]
			some = true
			t.say("%s: refuses a %s TCB below bootloader %d, TEE %d, SNP %d, microcode %d, FMC %d", product, m.name, c.Bootloader, c.TEE, c.SNP, c.Microcode, c.FMC)
		}
		if len(m.min) > 0 {
			t.say("refuses products for which it names no least %s TCB", m.name)
		}
	}
	if !some {
		t.say("names no least TCB: firmware of any age is accepted; AMD publishes no status as Intel does, so name one (min_tcb)")
	}
	t.choose(s.RequireCommitted, "refuses firmware that the host could still take back", "accepts firmware that the host could still take back")
	if s.MinFirmware != nil {
		t.say("refuses committed firmware below %v", *s.MinFirmware)
	}
	if s.Mitigations != nil {
		t.say("wants mitigations at launch %v, now %v", s.Mitigations.Launch, s.Mitigations.Current)
	}
}

func nvgpuSection(t *text, p *policy.Policy) {
	g := p.NVGPU
	if g == nil {
		t.say("absent: evidence of GPUs is refused")
		return
	}
	t.say("refuses GPUs that are not in confidential mode, and those in DEVTOOLS mode")
	if len(g.Architectures) > 0 {
		t.say("accepts only the architectures %s", names(g.Architectures))
	} else {
		t.say("accepts the architectures hopper and blackwell")
	}
	if len(g.Models) > 0 {
		t.say("accepts only the models %s", strings.Join(g.Models, ", "))
	}
	if len(g.Modes) > 0 {
		t.say("accepts only the modes %s", names(g.Modes))
	} else {
		t.say("accepts the modes spt, mpt and ppcie")
	}
	if len(g.Floors) == 0 {
		t.say("names no oldest driver or VBIOS: the manifest's floors apply alone")
	}
	for _, f := range g.Floors {
		t.say("%s: refuses drivers below %s and VBIOS below %s", f.Arch, orAny(f.Driver), orAny(f.VBIOS))
	}
	t.choose(g.AllowUnmeasured, "accepts devices without reference measurements: NOTHING SHOWS WHICH FIRMWARE THEY RUN, nor that they are not in DEVTOOLS mode", "refuses devices without reference measurements")
	t.choose(g.AllowExpiredRIM, "accepts reference measurements whose signer has expired", "refuses reference measurements whose signer has expired")
	t.choose(g.AllowNoFWID, "accepts GPUs that report no firmware ID", "refuses GPUs that report no firmware ID")
	t.choose(g.AllowPartial, "accepts devices that are not a whole machine", "refuses devices that are not a whole machine")
	t.choose(g.OCSP.AllowMissing, "accepts certificates whose revocation status nothing shows", "refuses certificates whose revocation status nothing shows")
	t.choose(g.OCSP.AllowHold, "accepts certificates on hold", "refuses certificates on hold")
	if g.OCSP.RequireNonce {
		t.say("refuses cached revocation status")
	} else if g.OCSP.MaxAgeSeconds > 0 {
		t.say("accepts revocation status that is %s old", seconds(g.OCSP.MaxAgeSeconds))
	} else {
		t.say("accepts revocation status that is a day old")
	}
}

func orAny(s string) string {
	if s == "" {
		return "any"
	}
	return s
}
