package dcap

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/measurements/digest"
	verify "cocoon/verifier/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/sgx"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdx"
)

var now = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// goodTDX is the result of a TD that the default policy accepts.
func goodTDX() *tdx.Result {
	r := &tdx.Result{Result: verify.Result{TEE: "tdx", Genuine: true}}
	r.TCB.Status, r.TCB.Platform, r.TCB.QE = tcb.UpToDate, tcb.UpToDate, tcb.UpToDate
	r.TCB.Date, r.TCB.Evaluation, r.TCB.QEEvaluation = now.AddDate(0, -6, 0), 19, 19
	r.TCB.Advisories = []string{"INTEL-SA-00001"}
	r.Dates.EarliestExpiry = now.AddDate(0, 0, 10)
	r.Platform.FMSPC = "00806f050000"
	r.Platform.PPID = "000102030405060708090a0b0c0d0e0f"
	r.TD.BodyType = 2
	r.TD.Attributes = [8]byte{0, 0, 0, 0x10}
	r.TD.XFAM = [8]byte{0xe7, 0, 6}
	r.TD.MRTD[0], r.TD.RTMR[2][0], r.TD.ReportData[0] = 0xaa, 0xbb, 0xcc
	return r
}

// failed returns the IDs of the failed checks, sorted.
func failed(checks []result.Check) []string {
	var ids []string
	for _, c := range checks {
		if c.Status == result.Fail {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

func ptr[T any](v T) *T { return &v }

func TestAppraiseTDX(t *testing.T) {
	for _, tc := range []struct {
		name   string
		result func(*tdx.Result)
		policy func(*Policy)
		want   string // failed IDs after "policy.tdx.", comma-separated
	}{
		{"the default policy accepts a good TD, advisories and all", nil, nil, ""},
		{"a policy without a tdx section accepts no TD", nil, func(p *Policy) { p.TDX = nil }, "section"},
		{"the default policy refuses OutOfDate", func(r *tdx.Result) { r.TCB.Status = tcb.OutOfDate }, nil, "tdx.tcb.out_of_date"},
		{"a status that the verification refused is not refused twice", func(r *tdx.Result) { r.TCB.Status = tcb.Revoked }, nil, ""},
		{"an older QE identity counts for the minimum", func(r *tdx.Result) { r.TCB.QEEvaluation = 18 },
			func(p *Policy) { p.TDX.MinEvaluation = 19 }, "evaluation"},
		{"a named status is accepted", func(r *tdx.Result) { r.TCB.Status = tcb.OutOfDate },
			func(p *Policy) { p.TDX.AcceptedTCBStatus = []tcb.Status{tcb.UpToDate, tcb.OutOfDate} }, ""},
		{"a list without UpToDate refuses UpToDate", nil,
			func(p *Policy) { p.TDX.AcceptedTCBStatus = []tcb.Status{tcb.OutOfDate} }, "tdx.tcb.up_to_date"},
		{"an out-of-date platform within its grace is accepted", func(r *tdx.Result) { r.TCB.Status = tcb.OutOfDate },
			func(p *Policy) {
				p.TDX.AcceptedTCBStatus = []tcb.Status{tcb.OutOfDate}
				p.TDX.PlatformGraceSeconds = ptr(int64(200 * 24 * 3600))
			}, ""},
		{"an out-of-date platform past its grace is refused", func(r *tdx.Result) { r.TCB.Status = tcb.OutOfDate },
			func(p *Policy) {
				p.TDX.AcceptedTCBStatus = []tcb.Status{tcb.OutOfDate}
				p.TDX.PlatformGraceSeconds = ptr(int64(100 * 24 * 3600))
			}, "platform_age"},
		{"the platform's grace does not touch an up-to-date one", nil, func(p *Policy) {
			p.TDX.AcceptedTCBStatus = []tcb.Status{tcb.UpToDate, tcb.OutOfDate}
			p.TDX.PlatformGraceSeconds = ptr(int64(0))
		}, ""},
		{"expired collateral is refused", func(r *tdx.Result) { r.Dates.EarliestExpiry = now.Add(-time.Second) }, nil, "collateral_age"},
		{"expired collateral within its grace is accepted", func(r *tdx.Result) { r.Dates.EarliestExpiry = now.Add(-time.Hour) },
			func(p *Policy) { p.TDX.CollateralGraceSeconds = 3600 }, ""},
		{"an evaluation below the minimum is refused", nil, func(p *Policy) { p.TDX.MinEvaluation = 20 }, "evaluation"},
		{"an evaluation at the minimum is accepted", nil, func(p *Policy) { p.TDX.MinEvaluation = 19 }, ""},
		{"a rejected advisory is refused in any case of letters", nil,
			func(p *Policy) { p.TDX.RejectedAdvisories = []string{"intel-sa-00001"} }, "advisories"},
		{"an advisory that does not apply is no reason", nil,
			func(p *Policy) { p.TDX.RejectedAdvisories = []string{"INTEL-SA-00002"} }, ""},
		{"a debug TD is refused", func(r *tdx.Result) { r.Debug = true; r.TD.Attributes[0] = 1 }, nil, "debug"},
		{"any bit of the TUD group counts as debug", func(r *tdx.Result) { r.TD.Attributes[0] = 0x20 }, nil, "debug"},
		{"a debug TD is accepted where the policy names it", func(r *tdx.Result) { r.Debug = true; r.TD.Attributes[0] = 1 },
			func(p *Policy) { p.TDX.AllowDebug = true }, ""},
		{"a TD without SEPT_VE_DISABLE is refused", func(r *tdx.Result) { r.TD.Attributes[3] = 0 }, nil, "sept_ve_disable"},
		{"a TD without SEPT_VE_DISABLE is accepted where the policy names it", func(r *tdx.Result) { r.TD.Attributes[3] = 0 },
			func(p *Policy) { p.TDX.AllowSEPTVE = true }, ""},
		{"attributes differ under the mask", nil, func(p *Policy) {
			p.TDX.Attributes = &Masked{Value: Hex{0, 0, 0, 0, 0, 0, 0, 0x80}, Mask: Hex{0, 0, 0, 0, 0, 0, 0, 0x80}}
		}, "attributes"},
		{"XFAM equal under the mask", nil, func(p *Policy) {
			p.TDX.XFAM = &Masked{Value: Hex{0xe7, 0, 0, 0, 0, 0, 0, 0}, Mask: Hex{0xff, 0, 0, 0, 0, 0, 0, 0}}
		}, ""},
		{"XFAM different under the mask", nil, func(p *Policy) {
			p.TDX.XFAM = &Masked{Value: Hex{0x07, 0, 0, 0, 0, 0, 0, 0}, Mask: Hex{0xff, 0, 0, 0, 0, 0, 0, 0}}
		}, "xfam"},
		{"the right MRTD is accepted among others", nil,
			func(p *Policy) { p.TDX.MRTD = []digest.SHA384{{1}, {0xaa}} }, ""},
		{"every wrong register is reported", nil, func(p *Policy) {
			p.TDX.MRTD, p.TDX.RTMR2, p.TDX.MRConfigID = []digest.SHA384{{1}}, []digest.SHA384{{2}}, []digest.SHA384{{3}}
		}, "mrconfigid,mrtd,rtmr2"},
		{"a service TD is refused where the policy names measurements", func(r *tdx.Result) { r.TD.MRServiceTD[0] = 1 },
			func(p *Policy) { p.TDX.MRTD = []digest.SHA384{{0xaa}} }, "mrservicetd"},
		{"a named service TD is accepted", func(r *tdx.Result) { r.TD.MRServiceTD[0] = 1 }, func(p *Policy) {
			p.TDX.MRTD, p.TDX.MRServiceTD = []digest.SHA384{{0xaa}}, []digest.SHA384{{1}}
		}, ""},
		{"an unknown flag is refused where the policy forbids it", nil, func(p *Policy) { p.TDX.AllowSMT = ptr(false) }, "smt"},
		{"a set flag is refused where the policy forbids it", func(r *tdx.Result) { r.Platform.DynamicPlatform = ptr(true) },
			func(p *Policy) { p.TDX.AllowDynamicPlatform = ptr(false) }, "dynamic_platform"},
		{"a clear flag is accepted where the policy forbids it", func(r *tdx.Result) { r.Platform.CachedKeys = ptr(false) },
			func(p *Policy) { p.TDX.AllowCachedKeys = ptr(false) }, ""},
		{"another platform is refused", nil, func(p *Policy) {
			p.TDX.PPIDs, p.TDX.FMSPCs = []Hex{make(Hex, 16)}, []Hex{{0, 0x80, 0x6f, 5, 0, 0}}
		}, "ppid"},
		{"a platform without an instance ID is refused where one is wanted", nil,
			func(p *Policy) { p.TDX.PlatformInstances = []Hex{make(Hex, 16)} }, "platform_instance"},
		{"wrong report data is a matter of binding", nil, func(p *Policy) { p.TDX.ReportData = make(Hex, 64) }, "tdx.report_data"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, p := goodTDX(), Default()
			if tc.result != nil {
				tc.result(r)
			}
			if tc.policy != nil {
				tc.policy(p)
			}
			checks := p.AppraiseTDX(r, now)
			ids := failed(checks)
			for i := range ids {
				ids[i] = strings.TrimPrefix(ids[i], "policy.tdx.")
			}
			if got := strings.Join(ids, ","); got != tc.want {
				t.Errorf("failed %q, want %q", got, tc.want)
			}
			for _, c := range checks {
				if c.Status == result.Fail && (c.Expected == "" || c.Actual == "" || c.Reason == "" || c.Remedy == "") {
					t.Errorf("failed check lacks a part: %+v", c)
				}
			}
		})
	}
}

func TestAppraiseTDXWithoutCryptographyJudgesNoStatus(t *testing.T) {
	r := goodTDX()
	r.Genuine, r.TCB = false, verify.TCB{}
	for _, c := range Default().AppraiseTDX(r, now) {
		if c.ID == "policy.tdx.tcb_status" && c.Status != result.Skip {
			t.Errorf("status was judged: %+v", c)
		}
	}
}

func TestAppraiseSGX(t *testing.T) {
	good := func() *sgx.Result {
		r := &sgx.Result{Result: verify.Result{TEE: "sgx", Genuine: true}}
		r.TCB.Status, r.Dates.EarliestExpiry = tcb.UpToDate, now.AddDate(0, 0, 1)
		r.Enclave.MREnclave[0], r.Enclave.MRSigner[0], r.Enclave.ISVProdID, r.Enclave.ISVSVN = 1, 2, 3, 4
		return r
	}
	for _, tc := range []struct {
		name   string
		policy SGX
		debug  bool
		want   string
	}{
		{"the default policy accepts a good enclave", SGX{}, false, ""},
		{"the default policy refuses a debug enclave", SGX{}, true, "debug"},
		{"the right identity is accepted", SGX{MREnclave: []digest.SHA256{{1}}, MRSigner: []digest.SHA256{{2}}, ISVProdIDs: []uint16{3}, MinISVSVN: 4}, false, ""},
		{"every wrong part of the identity is reported", SGX{MREnclave: []digest.SHA256{{9}}, MRSigner: []digest.SHA256{{9}}, ISVProdIDs: []uint16{9}, MinISVSVN: 5},
			false, "isvprodid,isvsvn,mrenclave,mrsigner"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := good()
			r.Debug = tc.debug
			ids := failed((&Policy{SGX: &tc.policy}).AppraiseSGX(r, now))
			for i := range ids {
				ids[i] = strings.TrimPrefix(ids[i], "policy.sgx.")
			}
			if got := strings.Join(ids, ","); got != tc.want {
				t.Errorf("failed %q, want %q", got, tc.want)
			}
		})
	}
	if ids := failed((&Policy{TDX: &TDX{}}).AppraiseSGX(good(), now)); !slices.Equal(ids, []string{"policy.sgx.section"}) {
		t.Errorf("a policy without an sgx section: %v", ids)
	}
}
