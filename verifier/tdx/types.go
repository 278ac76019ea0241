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
	m := map[string]string{
		"tee_tcb_svn":     hex.EncodeToString(t.TEETCBSVN[:]),
		"mrseam":          hex.EncodeToString(t.MRSEAM[:]),
		"mrsignerseam":    hex.EncodeToString(t.MRSignerSEAM[:]),
		"seam_attributes": hex.EncodeToString(t.SEAMAttributes[:]),
		"td_attributes":   hex.EncodeToString(t.Attributes[:]),
		"xfam":            hex.EncodeToString(t.XFAM[:]),
		"mrtd":            hex.EncodeToString(t.MRTD[:]),
		"mrconfigid":      hex.EncodeToString(t.MRConfigID[:]),
		"mrowner":         hex.EncodeToString(t.MROwner[:]),
		"mrownerconfig":   hex.EncodeToString(t.MROwnerConfig[:]),
		"rtmr0":           hex.EncodeToString(t.RTMR[0][:]),
		"rtmr1":           hex.EncodeToString(t.RTMR[1][:]),
		"rtmr2":           hex.EncodeToString(t.RTMR[2][:]),
		"rtmr3":           hex.EncodeToString(t.RTMR[3][:]),
		"report_data":     hex.EncodeToString(t.ReportData[:]),
	}
	if t.BodyType >= quote.BodyTD15 {
		m["tee_tcb_svn2"] = hex.EncodeToString(t.TEETCBSVN2[:])
		m["mrservicetd"] = hex.EncodeToString(t.MRServiceTD[:])
	}
	if s := t.ServiceTD; s != nil {
		m["vmid"] = hex.EncodeToString([]byte{s.VMID})
		m["td_id"] = hex.EncodeToString(s.TDID[:])
		m["devinfo"] = hex.EncodeToString(s.DevInfo[:])
		m["init_servtd_hash"] = hex.EncodeToString(s.InitHash[:])
		m["init_servtd_attributes"] = hex.EncodeToString(s.InitAttributes[:])
		m["init_cpusvn"] = hex.EncodeToString(s.InitCPUSVN[:])
		m["init_tee_tcb_svn"] = hex.EncodeToString(s.InitTEETCBSVN[:])
		m["init_fmspc"] = hex.EncodeToString(s.InitFMSPC[:])
		m["curr_servtd_hash"] = hex.EncodeToString(s.CurrHash[:])
		m["curr_servtd_attributes"] = hex.EncodeToString(s.CurrAttributes[:])
	}
	return m
}
