// Package tdx verifies Intel TDX quotes, version 4 and 5: a quote and opened
// collateral come in; a Result goes out, with the TD's registers, its TCB
// status and every check that was made.
//
// Definitions: Intel TDX DCAP Quoting Library API, appendix A (quotes);
// Intel's Quote Verification Library (the rules); package tcb (the statuses).
package tdx

import (
	"encoding/hex"

	"cocoon/verifier/dcap"
	"cocoon/verifier/quote"
)

// Options of Verify.
type Options = dcap.Options

// Result is the outcome of a verification. It is a value: nothing in it
// aliases the quote.
type Result struct {
	dcap.Result
	TD TD `json:"-"`
}

// TD is what a quote says of a trust domain.
type TD = quote.TDReport

// ServiceTD is the service-TD extension of body type 4.
type ServiceTD = quote.ServiceTD

// Bits of TDATTRIBUTES (TDX module ABI, ATTRIBUTES).
const (
	AttrDebug         = 1 << 0
	AttrSEPTVEDisable = 1 << 28
)

// Measurements returns the TD's registers by name, in lower-case hex.
func (r *Result) Measurements() map[string]string {
	t := &r.TD
	var room [32]register
	list := append(room[:0],
		register{"tee_tcb_svn", t.TEETCBSVN[:]},
		register{"mrseam", t.MRSEAM[:]},
		register{"mrsignerseam", t.MRSignerSEAM[:]},
		register{"seam_attributes", t.SEAMAttributes[:]},
		register{"td_attributes", t.Attributes[:]},
		register{"xfam", t.XFAM[:]},
		register{"mrtd", t.MRTD[:]},
		register{"mrconfigid", t.MRConfigID[:]},
		register{"mrowner", t.MROwner[:]},
		register{"mrownerconfig", t.MROwnerConfig[:]},
		register{"rtmr0", t.RTMR[0][:]},
		register{"rtmr1", t.RTMR[1][:]},
		register{"rtmr2", t.RTMR[2][:]},
		register{"rtmr3", t.RTMR[3][:]},
		register{"report_data", t.ReportData[:]},
	)
	if t.BodyType >= quote.BodyTD15 {
		list = append(list, register{"tee_tcb_svn2", t.TEETCBSVN2[:]}, register{"mrservicetd", t.MRServiceTD[:]})
	}
	if s := t.ServiceTD; s != nil {
		list = append(list,
			register{"vmid", []byte{s.VMID}},
			register{"td_id", s.TDID[:]},
			register{"devinfo", s.DevInfo[:]},
			register{"init_servtd_hash", s.InitHash[:]},
			register{"init_servtd_attributes", s.InitAttributes[:]},
			register{"init_cpusvn", s.InitCPUSVN[:]},
			register{"init_tee_tcb_svn", s.InitTEETCBSVN[:]},
			register{"init_fmspc", s.InitFMSPC[:]},
			register{"curr_servtd_hash", s.CurrHash[:]},
			register{"curr_servtd_attributes", s.CurrAttributes[:]},
		)
	}
	// One text has all the digits.
	var digits [2 << 10]byte
	b := digits[:0]
	for i := range list {
		b = hex.AppendEncode(b, list[i].value)
	}
	text := string(b)
	m := make(map[string]string, len(list))
	for i := range list {
		n := hex.EncodedLen(len(list[i].value))
		m[list[i].name], text = text[:n], text[n:]
	}
	return m
}

type register struct {
	name  string
	value []byte
}
