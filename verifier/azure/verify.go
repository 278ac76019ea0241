package azure

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/azure/hcl"
	"cocoon/verifier/dcap"
	"cocoon/verifier/quote"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
	"cocoon/verifier/tdx"
	"cocoon/verifier/tpm"
)

// Verify verifies the evidence of an Azure confidential VM. A nil error means
// that it is genuine: the hardware made its report, for a paravisor that holds
// the attestation key, which signed the quote over what the options ask for.
// It does not mean that paravisor, guest or TCB are ones to trust: appraise
// the hardware's result by a policy and the registers by reference values. A VM
// that its host can debug is never genuine, because the key could be anywhere.
//
// The Result is nil only where the HCL report does not parse
// (azure.hcl.parse). The error joins a *fault.Fault for each failed check.
func Verify(ev *Evidence, o *Options) (*Result, error) {
	if o == nil {
		o = &Options{}
	}
	h, err := hcl.Parse(ev.HCL)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "azure.hcl.parse", "send the HCL report from NV index 0x01400001 of the virtual TPM, as it is", "%w", err).Expect("an HCL report of SNP or TDX with its runtime data")
	}
	v := &run{ev: ev, o: o, now: o.Now, res: &Result{HCL: h}}
	if v.now.IsZero() {
		v.now = time.Now()
	}
	if h.Type == hcl.SNP {
		v.res.Class = ClassSNP
		v.snp()
	} else {
		v.res.Class = ClassTDX
		v.tdx()
	}
	v.tpm()
	v.res.Genuine = len(v.faults) == 0
	return v.res, errors.Join(v.faults...)
}

// run is one verification on its way through the checks.
type run struct {
	ev     *Evidence
	o      *Options
	now    time.Time
	res    *Result
	faults []error
}

func (v *run) pass(id, actual string) {
	v.res.Checks = append(v.res.Checks, result.Check{ID: id, Status: result.Pass, Actual: actual})
}

func (v *run) fail(id, expected, actual, reason, remedy string) {
	v.take([]result.Check{{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy}})
}

// take takes over checks, and makes faults of those that failed.
func (v *run) take(checks []result.Check) {
	v.res.Checks = append(v.res.Checks, checks...)
	for _, c := range checks {
		if c.Status == result.Fail {
			v.faults = append(v.faults, &fault.Fault{Code: c.ID, Exit: result.ExitOf(c.ID), Msg: c.Reason, Expected: c.Expected, Actual: c.Actual, Remedy: c.Remedy})
		}
	}
}

// hardware takes over what the hardware's verifier found. An error of its
// that no check stands for, a report that does not parse, becomes one.
func (v *run) hardware(checks []result.Check, err error) {
	v.res.Checks = append(v.res.Checks, checks...)
	stands := map[string]bool{}
	for _, c := range checks {
		stands[c.ID] = c.Status == result.Fail
	}
	for _, f := range fault.All(err) {
		v.faults = append(v.faults, f)
		if !stands[f.Code] {
			v.res.Checks = append(v.res.Checks, result.Check{ID: f.Code, Status: result.Fail, Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy})
		}
	}
	if err != nil && len(fault.All(err)) == 0 {
		v.fail("azure.hardware", "a report that verifies", err.Error(), "hardware's report is refused", remedyReboot)
	}
}

const remedyReboot = "start the VM anew and send what it shows then"

func (v *run) snp() {
	o := snp.Options{}
	if v.o.SNP != nil {
		o = *v.o.SNP
	}
	o.Now, o.Certificate = v.now, v.ev.VCEK
	res, err := snp.Verify(v.res.HCL.Hardware, &o)
	if res == nil {
		v.hardware(nil, err)
		return
	}
	v.res.SNP = res
	v.hardware(res.Checks, err)
	// The guest runs at VMPL 2. Whatever it asks the hardware for says so; a
	// report of another level than the paravisor's own has report data of the
	// guest's choice, and the key in it could be anyone's.
	if res.VMPL != 0 {
		v.fail(CheckVMPL, "0", strconv.Itoa(int(res.VMPL)), "the report was not asked for by the paravisor", remedyReboot)
	} else {
		v.pass(CheckVMPL, "0")
	}
	v.debug(res.Debug)
	v.runtime(res.Report.ReportData)
	if len(v.ev.TDQuote) > 0 {
		v.fail(CheckTDQuote, "no TD quote beside an SNP report", "one", "evidence speaks of two kinds of hardware", remedyReboot)
	}
}

func (v *run) tdx() {
	if len(v.ev.TDQuote) == 0 || len(v.ev.VCEK) > 0 {
		v.fail(CheckTDQuote, "a TD quote and no SNP certificate", fmt.Sprintf("a quote of %d bytes, a certificate of %d", len(v.ev.TDQuote), len(v.ev.VCEK)),
			"evidence of a TD is incomplete or speaks of two kinds of hardware", "send the quote of the TDREPORT that the HCL report has")
		return
	}
	v.pass(CheckTDQuote, "")
	o := dcap.Options{}
	if v.o.TDX != nil {
		o = *v.o.TDX
	}
	// Azure's quote service pads its answer with zeros.
	o.Now, o.AllowZeroPadding = v.now, true
	res, err := tdx.Verify(v.ev.TDQuote, &o)
	if res == nil {
		v.hardware(nil, err)
		return
	}
	v.res.TDX = res
	v.hardware(res.Checks, err)
	v.debug(res.Debug)
	v.tdReport(&res.TD)
	v.runtime(res.TD.ReportData)
}

func (v *run) debug(on bool) {
	if on {
		v.fail(CheckDebug, "a VM that its host cannot debug", "debugging is on", "the host can read the attestation key", "start the VM without debugging")
		return
	}
	v.pass(CheckDebug, "off")
}

// tdReport checks that the TDREPORT of the HCL report is the one that the
// quote was made from (Intel TDX Module ABI, TDREPORT_STRUCT). Its MAC is for
// the CPU that made it; nobody else can check that, and nothing is decided by
// it: what counts is in the quote.
func (v *run) tdReport(td *tdx.TD) {
	t := v.res.HCL.Hardware
	q, err := quote.Parse(v.ev.TDQuote, quote.Options{AllowZeroPadding: true})
	if err != nil {
		return // tdx.Verify has refused it
	}
	var info []byte // TDINFO_STRUCT as far as quotes have it
	for _, f := range [][]byte{td.Attributes[:], td.XFAM[:], td.MRTD[:], td.MRConfigID[:], td.MROwner[:], td.MROwnerConfig[:],
		td.RTMR[0][:], td.RTMR[1][:], td.RTMR[2][:], td.RTMR[3][:]} {
		info = append(info, f...)
	}
	service := make([]byte, 48)
	if td.BodyType >= quote.BodyTD15 {
		service = td.MRServiceTD[:]
	}
	tcbHash, infoHash := sha512.Sum384(t[256:495]), sha512.Sum384(t[512:1024])
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"report type", t[0] == 0x81 && t[1] == 0 && t[2] <= 1 && zero(t[3:16])},
		{"CPU SVN", bytes.Equal(t[16:32], q.QEReport[:16])},
		{"hash of the TCB info", bytes.Equal(t[32:80], tcbHash[:])},
		{"hash of the TD info", bytes.Equal(t[80:128], infoHash[:])},
		{"report data", bytes.Equal(t[128:192], td.ReportData[:])},
		{"reserved bytes", zero(t[192:224]) && zero(t[400:512]) && zero(t[960:1024])},
		{"TCB SVN", bytes.Equal(t[264:280], td.TEETCBSVN[:])},
		{"MRSEAM", bytes.Equal(t[280:328], td.MRSEAM[:])},
		{"MRSIGNERSEAM", bytes.Equal(t[328:376], td.MRSignerSEAM[:])},
		{"SEAM attributes", bytes.Equal(t[376:384], td.SEAMAttributes[:])},
		{"TD info", bytes.Equal(t[512:912], info)},
		{"service TD", bytes.Equal(t[912:960], service)},
	} {
		if !c.ok {
			v.fail(CheckTDReport, "a TDREPORT that the quote is of", "another "+c.what, "HCL report and TD quote are not of one report", remedyReboot)
			return
		}
	}
	v.pass(CheckTDReport, "")
}

// runtime checks that the hardware's report data is the hash of the runtime
// data and nothing else.
func (v *run) runtime(got [64]byte) {
	var want [64]byte
	switch r := v.res.HCL.Runtime; v.res.HCL.Hash {
	case hcl.SHA256:
		h := sha256.Sum256(r)
		copy(want[:], h[:])
	case hcl.SHA384:
		h := sha512.Sum384(r)
		copy(want[:], h[:])
	case hcl.SHA512:
		want = sha512.Sum512(r)
	}
	if want != got {
		v.fail(CheckRuntime, hex.EncodeToString(got[:]), hex.EncodeToString(want[:]), "the hardware vouches for other runtime data", "send the HCL report as it is")
		return
	}
	v.pass(CheckRuntime, hex.EncodeToString(got[:]))
}

// tpm verifies the quote with the key of the runtime data.
func (v *run) tpm() {
	v.res.TPM = tpm.Verify(&tpm.Evidence{Attest: v.ev.Attest, Signature: v.ev.Signature, EventLog: v.ev.EventLog, RuntimeEvents: v.ev.RuntimeEvents, PCRs: v.ev.PCRs},
		&tpm.Options{Key: v.res.HCL.AK, Now: v.now, QualifyingData: v.o.QualifyingData, AnyQualifyingData: v.o.AnyQualifyingData, AnySelection: v.o.AnySelection})
	v.take(v.res.TPM.Checks)
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
