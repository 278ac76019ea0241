package quote

import "encoding/binary"

// EnclaveReport is an SGX report body (Intel SDM volume 3D, REPORT), in the
// byte order of the quote.
type EnclaveReport struct {
	CPUSVN       [16]byte
	MiscSelect   [4]byte // little-endian
	ISVExtProdID [16]byte
	Attributes   [16]byte // flags and XFRM, each little-endian
	MREnclave    [32]byte
	MRSigner     [32]byte
	ConfigID     [64]byte
	ISVProdID    uint16
	ISVSVN       uint16
	ConfigSVN    uint16
	ISVFamilyID  [16]byte
	ReportData   [64]byte
}

// Decode reads b, which must have 384 bytes, as Quote.QEReport has.
func (e *EnclaveReport) Decode(b []byte) {
	_ = b[sgxSize-1]
	copy(e.CPUSVN[:], b[0:])
	copy(e.MiscSelect[:], b[16:])
	copy(e.ISVExtProdID[:], b[32:])
	copy(e.Attributes[:], b[48:])
	copy(e.MREnclave[:], b[64:])
	copy(e.MRSigner[:], b[128:])
	copy(e.ConfigID[:], b[192:])
	e.ISVProdID = binary.LittleEndian.Uint16(b[256:])
	e.ISVSVN = binary.LittleEndian.Uint16(b[258:])
	e.ConfigSVN = binary.LittleEndian.Uint16(b[260:])
	copy(e.ISVFamilyID[:], b[304:])
	copy(e.ReportData[:], b[320:])
}

// TDReport is a TD report body (TDX module ABI, TDREPORT_STRUCT), in the byte
// order of the quote.
type TDReport struct {
	BodyType       uint16 // BodyTD10, BodyTD15 or BodyTD15X
	TEETCBSVN      [16]byte
	MRSEAM         [48]byte
	MRSignerSEAM   [48]byte
	SEAMAttributes [8]byte
	Attributes     [8]byte // TDATTRIBUTES, little-endian
	XFAM           [8]byte // little-endian
	MRTD           [48]byte
	MRConfigID     [48]byte
	MROwner        [48]byte
	MROwnerConfig  [48]byte
	RTMR           [4][48]byte
	ReportData     [64]byte
	TEETCBSVN2     [16]byte   // BodyTD15 and later: the TCB at the time of the quote
	MRServiceTD    [48]byte   // BodyTD15 and later
	ServiceTD      *ServiceTD // BodyTD15X only
}

// ServiceTD is the service-TD extension of a TD report.
type ServiceTD struct {
	VMID           uint8
	TDID           [32]byte
	DevInfo        [48]byte
	InitHash       [48]byte // INIT_SERVTD_HASH
	InitAttributes [8]byte  // INIT_SERVTD_ATTR
	InitCPUSVN     [16]byte
	InitTEETCBSVN  [16]byte
	InitFMSPC      [12]byte // model that InitTEETCBSVN was captured on: three little-endian words
	CurrHash       [48]byte // CURR_SERVTD_HASH
	CurrAttributes [8]byte  // CURR_SERVTD_ATTR
}

// Decode reads the body of q, which must be a TDX quote.
func (t *TDReport) Decode(q *Quote) {
	b := q.Body
	_ = b[td10Size-1]
	t.BodyType = q.BodyType
	copy(t.TEETCBSVN[:], b[0:])
	copy(t.MRSEAM[:], b[16:])
	copy(t.MRSignerSEAM[:], b[64:])
	copy(t.SEAMAttributes[:], b[112:])
	copy(t.Attributes[:], b[120:])
	copy(t.XFAM[:], b[128:])
	copy(t.MRTD[:], b[136:])
	copy(t.MRConfigID[:], b[184:])
	copy(t.MROwner[:], b[232:])
	copy(t.MROwnerConfig[:], b[280:])
	for i := range t.RTMR {
		copy(t.RTMR[i][:], b[328+48*i:])
	}
	copy(t.ReportData[:], b[520:])
	if len(b) >= td15Size {
		copy(t.TEETCBSVN2[:], b[584:])
		copy(t.MRServiceTD[:], b[600:])
	}
	if len(b) >= td15xSize {
		s := &ServiceTD{VMID: b[648]}
		copy(s.TDID[:], b[649:])
		copy(s.DevInfo[:], b[681:])
		copy(s.InitHash[:], b[729:])
		copy(s.InitAttributes[:], b[777:])
		copy(s.InitCPUSVN[:], b[785:])
		copy(s.InitTEETCBSVN[:], b[801:])
		copy(s.InitFMSPC[:], b[817:])
		copy(s.CurrHash[:], b[829:])
		copy(s.CurrAttributes[:], b[877:])
		t.ServiceTD = s
	}
}
