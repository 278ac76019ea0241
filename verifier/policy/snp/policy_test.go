package snp_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/policy/dcap"
	policy "cocoon/verifier/policy/snp"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

// full names everything, in a way that the test's report fulfils.
const full = `{
  "products": ["Milan", "Turin"],
  "signers": ["VCEK"],
  "csps": ["CN=provider.test.invalid"],
  "min_version": 5,
  "require_crl": true,
  "crl_max_age_seconds": 604800,
  "guest": {"min_abi": {"major": 0, "minor": 31}, "smt": true, "single_socket": false, "cxl": false, "aes_256_xts": false,
    "rapl_disabled": false, "ciphertext_hiding": false, "page_swap_disabled": false},
  "platform": {"smt": true, "tsme": false, "ecc": true, "rapl_disabled": false, "ciphertext_hiding": false, "alias_check_complete": true, "tio": false},
  "vmpls": [0],
  "min_guest_svn": 3,
  "launch_digest": ["1d0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"],
  "host_data": ["4d00000000000000000000000000000000000000000000000000000000000000"],
  "family_ids": ["fa000000000000000000000000000000"],
  "image_ids": ["1a000000000000000000000000000000"],
  "require_id_block": true,
  "min_tcb": {"Milan": {"bootloader": 4, "tee": 2, "snp": 24, "microcode": 219}},
  "min_committed_tcb": {"Milan": {"snp": 24}},
  "min_launch_tcb": {"Milan": {"snp": 24}},
  "require_committed": true,
  "min_firmware": {"major": 1, "minor": 55, "build": 29},
  "mitigations": {"launch": "0000000000000003", "current": "000000000000000b"}
}`

// verified makes, verifies and returns a report that fulfils the full policy,
// after a change.
func verified(t *testing.T, p *snptest.PKI, change func(*snptest.Report)) *snp.Result {
	t.Helper()
	r := snptest.Default(5, report.Milan, report.VCEK)
	r.IDKey, r.AuthorKey = "id", "author"
	if change != nil {
		change(&r)
	}
	raw, cert, err := p.Make(&r)
	if err != nil {
		t.Fatal(err)
	}
	o := &snp.Options{Roots: p.Roots(), Now: snptest.Now, Certificate: cert, RequireCRL: true}
	l := snptest.DefaultCRL(r.Product)
	if o.CRL, err = p.CRL(&l); err != nil {
		t.Fatal(err)
	}
	if r.IDKey != "" {
		if o.IDBlock, o.IDAuth, err = p.IDBlock(&r); err != nil {
			t.Fatal(err)
		}
	}
	res, err := snp.Verify(raw, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func failed(checks []result.Check) []string {
	var out []string
	for _, c := range checks {
		if c.Status == result.Fail {
			out = append(out, c.ID)
		}
	}
	return out
}

func TestEveryFieldIsAppraised(t *testing.T) {
	pki, err := snptest.New("policy")
	if err != nil {
		t.Fatal(err)
	}
	pol, err := policy.Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	good := verified(t, pki, nil)
	if f := failed(pol.Appraise(good)); len(f) > 0 {
		t.Fatalf("the report that the policy describes fails %v", f)
	}
	pol.IDKeys = []digest.SHA384{digest.SHA384(good.IDBlock.IDKeyDigest)}
	pol.AuthorKeys = []digest.SHA384{digest.SHA384(good.IDBlock.AuthorKeyDigest)}
	pol.ReportData = good.Report.ReportData[:]
	pol.ChipIDs = []policy.Hex{good.Report.ChipID[:]}
	all := pol.Appraise(good)
	if f := failed(all); len(f) > 0 {
		t.Fatalf("the report that the policy describes fails %v", f)
	}
	low := snptest.TCB(report.Milan, 0, 4, 2, 23, 219)
	cases := map[string]func(*snptest.Report){
		"policy.snp.product":                       func(r *snptest.Report) { *r = genoa(*r) },
		"policy.snp.version":                       func(r *snptest.Report) { r.Version, r.LaunchMitigations, r.Mitigations = 3, 0, 0 },
		"policy.snp.debug":                         func(r *snptest.Report) { r.Policy |= 1 << 19 },
		"policy.snp.migration_agent":               func(r *snptest.Report) { r.Policy |= 1 << 18 },
		"policy.snp.abi":                           func(r *snptest.Report) { r.Policy -= 1 },
		"policy.snp.guest.smt":                     func(r *snptest.Report) { r.Policy &^= 1 << 16 },
		"policy.snp.guest.single_socket":           func(r *snptest.Report) { r.Policy |= 1 << 20 },
		"policy.snp.guest.cxl":                     func(r *snptest.Report) { r.Policy |= 1 << 21 },
		"policy.snp.guest.aes_256_xts":             func(r *snptest.Report) { r.Policy |= 1 << 22 },
		"policy.snp.guest.rapl_disabled":           func(r *snptest.Report) { r.Policy |= 1 << 23 },
		"policy.snp.guest.ciphertext_hiding":       func(r *snptest.Report) { r.Policy |= 1 << 24 },
		"policy.snp.guest.page_swap_disabled":      func(r *snptest.Report) { r.Policy |= 1 << 25 },
		"policy.snp.platform.smt":                  func(r *snptest.Report) { r.PlatformInfo ^= 1 },
		"policy.snp.platform.tsme":                 func(r *snptest.Report) { r.PlatformInfo ^= 1 << 1 },
		"policy.snp.platform.ecc":                  func(r *snptest.Report) { r.PlatformInfo ^= 1 << 2 },
		"policy.snp.platform.rapl_disabled":        func(r *snptest.Report) { r.PlatformInfo ^= 1 << 3 },
		"policy.snp.platform.ciphertext_hiding":    func(r *snptest.Report) { r.PlatformInfo ^= 1 << 4 },
		"policy.snp.platform.alias_check_complete": func(r *snptest.Report) { r.PlatformInfo ^= 1 << 5 },
		"policy.snp.platform.tio":                  func(r *snptest.Report) { r.PlatformInfo ^= 1 << 7 },
		"policy.snp.vmpl":                          func(r *snptest.Report) { r.VMPL = 1 },
		"policy.snp.guest_svn":                     func(r *snptest.Report) { r.GuestSVN = 2 },
		"policy.snp.launch_digest":                 func(r *snptest.Report) { r.LaunchDigest[47] = 1 },
		"policy.snp.host_data":                     func(r *snptest.Report) { r.HostData[31] = 1 },
		"policy.snp.family_id":                     func(r *snptest.Report) { r.FamilyID[15] = 1 },
		"policy.snp.image_id":                      func(r *snptest.Report) { r.ImageID[15] = 1 },
		"policy.snp.chip_id":                       func(r *snptest.Report) { r.ChipID[63] = 1 },
		"policy.snp.id_block":                      func(r *snptest.Report) { r.IDKey, r.AuthorKey = "", "" },
		"policy.snp.id_key":                        func(r *snptest.Report) { r.IDKey = "other" },
		"policy.snp.author_key":                    func(r *snptest.Report) { r.AuthorKey = "other" },
		"policy.snp.tcb.reported":                  func(r *snptest.Report) { r.Reported = low },
		"policy.snp.tcb.committed":                 func(r *snptest.Report) { r.Committed = low },
		"policy.snp.tcb.launch":                    func(r *snptest.Report) { r.Launch = low },
		"policy.snp.committed":                     func(r *snptest.Report) { r.CurrentFirmware.Build++ },
		"policy.snp.firmware":                      func(r *snptest.Report) { r.CommittedFirmware.Build--; r.CurrentFirmware.Build-- },
		"policy.snp.mitigations":                   func(r *snptest.Report) { r.Mitigations = 3 },
		"snp.report_data":                          func(r *snptest.Report) { r.ReportData[63] = 1 },
	}
	also := map[string][]string{
		"policy.snp.version": {"policy.snp.mitigations"}, "policy.snp.tcb.committed": {"policy.snp.committed"},
		"policy.snp.product": {"policy.snp.tcb.committed", "policy.snp.tcb.launch", "policy.snp.tcb.reported"},
	}
	seen := map[string]bool{"policy.snp.signer": true, "policy.snp.csp": true, "policy.snp.crl": true} // below
	for code, change := range cases {
		seen[code] = true
		got := failed(pol.Appraise(verified(t, pki, change)))
		want := append([]string{code}, also[code]...)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: failed %v", code, got)
		}
	}
	for _, c := range all {
		if !seen[c.ID] {
			t.Errorf("no test fails %s", c.ID)
		}
	}
	t.Logf("%d fields", len(cases))

	vlek := verified(t, pki, func(r *snptest.Report) { *r = snptest.Default(5, report.Milan, report.VLEK) })
	if f := failed((&policy.Policy{Signers: []report.Signer{report.VCEK}, CSPs: []string{"CN=another"}}).Appraise(vlek)); !slices.Equal(f, []string{"policy.snp.signer", "policy.snp.csp"}) {
		t.Errorf("a VLEK of another provider: %v", f)
	}
	vlek.CRL = nil
	if f := failed((&policy.Policy{RequireCRL: true, CSPs: []string{vlek.Certificate.CSP}}).Appraise(vlek)); !slices.Equal(f, []string{"policy.snp.crl"}) {
		t.Errorf("without a CRL: %v", f)
	}
	noAuthor := verified(t, pki, func(r *snptest.Report) { r.AuthorKey = "" })
	if f := failed((&policy.Policy{AuthorKeys: pol.AuthorKeys}).Appraise(noAuthor)); !slices.Equal(f, []string{"policy.snp.author_key"}) {
		t.Errorf("without an author: %v", f)
	}
}

// genoa is the report on another product.
func genoa(r snptest.Report) snptest.Report {
	r.Product = report.Genoa
	return r
}

func TestWithoutASectionEverythingIsRefused(t *testing.T) {
	var none *policy.Policy
	if f := failed(none.Appraise(&snp.Result{})); !slices.Equal(f, []string{"policy.snp.section"}) || result.ExitOf(f[0]) != fault.ExitPolicy {
		t.Errorf("no section: %v", f)
	}
}

func TestDefaultRefusesDebugAndMigration(t *testing.T) {
	pki, err := snptest.New("policy")
	if err != nil {
		t.Fatal(err)
	}
	res := verified(t, pki, func(r *snptest.Report) { r.Policy |= 3 << 18 })
	if f := failed(policy.Default().Appraise(res)); !slices.Equal(f, []string{"policy.snp.debug", "policy.snp.migration_agent"}) {
		t.Errorf("default policy fails %v", f)
	}
	for _, f := range dcap.Faults(policy.Default().Appraise(res)) {
		if f.Exit != fault.ExitPolicy {
			t.Errorf("%s exits %d", f.Code, f.Exit)
		}
	}
	if f := failed((&policy.Policy{AllowDebug: true, AllowMigrationAgent: true}).Appraise(res)); len(f) > 0 {
		t.Errorf("a policy that allows both fails %v", f)
	}
}

func TestPoliciesThatMakeNoSenseAreRefused(t *testing.T) {
	for name, doc := range map[string]string{
		"an unknown key":              `{"allow_debugging":true}`,
		"a key twice":                 `{"allow_debug":false,"allow_debug":true}`,
		"an unknown product":          `{"products":["Rome"]}`,
		"an unknown signer":           `{"signers":["none"]}`,
		"a version to come":           `{"min_version":6}`,
		"a negative age":              `{"require_crl":true,"crl_max_age_seconds":-1}`,
		"an endless age":              `{"require_crl":true,"crl_max_age_seconds":9223372036854775807}`,
		"an age without a CRL":        `{"crl_max_age_seconds":60}`,
		"VMPL 4":                      `{"vmpls":[4]}`,
		"a short family ID":           `{"family_ids":["00"]}`,
		"upper-case hex":              `{"family_ids":["FA000000000000000000000000000000"]}`,
		"a short launch digest":       `{"launch_digest":["00"]}`,
		"short report data":           `{"report_data":"00"}`,
		"a minimum of no product":     `{"min_tcb":{"Rome":{"snp":1}}}`,
		"an FMC on Milan":             `{"min_tcb":{"Milan":{"fmc":1}}}`,
		"a component above a byte":    `{"min_tcb":{"Milan":{"snp":256}}}`,
		"a vector that is no hex":     `{"mitigations":{"launch":"3","current":"0000000000000000"}}`,
		"trailing data":               `{} {}`,
		"more values than make sense": `{"vmpls":[` + strings.Repeat("0,", 4096) + `0]}`,
	} {
		if _, err := policy.Parse([]byte(doc)); !fault.Has(err, "snp.policy.parse") || fault.ExitCode(err) != fault.ExitParse {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		p, err := policy.Parse(doc)
		if err != nil {
			return
		}
		out, err := jcs.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := policy.Parse(out)
		if err != nil {
			t.Fatalf("%s does not read back: %v", out, err)
		}
		if !maps.Equal(p.MinTCB, again.MinTCB) {
			t.Fatalf("%s reads back otherwise", out)
		}
	})
}
