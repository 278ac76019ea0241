package tdxtest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"cocoon/verifier/quote"
)

// QE is the quoting enclave that makes a quote.
type QE struct {
	ISVSVN     uint16
	ISVProdID  uint16
	MRSigner   [32]byte
	Attributes [16]byte
	MiscSelect [4]byte // little-endian
}

// DefaultQE is the quoting enclave that DefaultCollateral's identity is of.
func DefaultQE(tee uint32) QE {
	qe := QE{ISVSVN: 8, ISVProdID: 1, Attributes: [16]byte{0x11}}
	if tee == quote.TEETDX {
		qe.ISVProdID = 2
	}
	for i := range qe.MRSigner {
		qe.MRSigner[i] = 0xd0 + byte(i)%16
	}
	return qe
}

// Quote is what a quote is made from.
type Quote struct {
	Version  uint16 // 3, 4 or 5
	TEE      uint32 // quote.TEESGX or quote.TEETDX
	TD       quote.TDReport
	Enclave  quote.EnclaveReport
	Platform Platform
	QE       QE
	AuthData []byte
	VendorID [16]byte
	CertType uint16 // quote.CertPCKChain, or another type
	KeyName  string // names the attestation key: another name, another key
}

// DefaultTDX is a TDX quote of a version and body type (BodyTD10 for version
// 4), up to date under DefaultCollateral.
func DefaultTDX(version, bodyType uint16) Quote {
	q := Quote{Version: version, TEE: quote.TEETDX, Platform: DefaultPlatform(), QE: DefaultQE(quote.TEETDX),
		AuthData: []byte("cocoon test authentication data."), VendorID: quote.IntelVendorID, CertType: quote.CertPCKChain}
	t := &q.TD
	t.BodyType = bodyType
	t.TEETCBSVN = [16]byte{5, 1, 8}
	t.TEETCBSVN2 = t.TEETCBSVN
	t.Attributes = [8]byte{0, 0, 0, 0x10} // SEPT_VE_DISABLE
	t.XFAM = [8]byte{0xe7, 0x02, 0x06}
	for i, reg := range []*[48]byte{&t.MRSEAM, &t.MRTD, &t.MRConfigID, &t.MROwner, &t.MROwnerConfig, &t.RTMR[0], &t.RTMR[1], &t.RTMR[2], &t.RTMR[3]} {
		for j := range reg {
			reg[j] = byte(i*16 + j)
		}
	}
	if bodyType == quote.BodyTD15X {
		t.ServiceTD = &quote.ServiceTD{VMID: 1, TDID: [32]byte{1}, DevInfo: [48]byte{2}, InitHash: [48]byte{3}, InitAttributes: [8]byte{4},
			InitCPUSVN: [16]byte{5}, InitTEETCBSVN: [16]byte{6}, InitFMSPC: [12]byte{7}, CurrHash: [48]byte{8}, CurrAttributes: [8]byte{9}}
	}
	return q
}

// DefaultSGX is an SGX quote of a version, up to date under DefaultCollateral.
func DefaultSGX(version uint16) Quote {
	q := Quote{Version: version, TEE: quote.TEESGX, Platform: DefaultPlatform(), QE: DefaultQE(quote.TEESGX),
		AuthData: []byte("cocoon test authentication data."), VendorID: quote.IntelVendorID, CertType: quote.CertPCKChain}
	e := &q.Enclave
	e.Attributes = [16]byte{0x05, 0, 0, 0, 0, 0, 0, 0, 0xe7}
	e.ISVProdID, e.ISVSVN = 1, 2
	for i := range e.MREnclave {
		e.MREnclave[i], e.MRSigner[i] = byte(i), byte(0x80+i)
	}
	return q
}

// Quote makes the quote.
func (p *PKI) Quote(q *Quote) ([]byte, error) {
	body, err := q.body()
	if err != nil {
		return nil, err
	}
	signed := make([]byte, 48, 48+6+len(body))
	le := binary.LittleEndian
	le.PutUint16(signed[0:], q.Version)
	le.PutUint16(signed[2:], 2)
	le.PutUint32(signed[4:], q.TEE)
	copy(signed[12:], q.VendorID[:])
	if q.Version >= 5 {
		typ := quote.BodySGX
		if q.TEE == quote.TEETDX {
			typ = q.TD.BodyType
		}
		signed = le.AppendUint16(signed, typ)
		signed = le.AppendUint32(signed, uint32(len(body)))
	}
	signed = append(signed, body...)

	key, err := p.key("attestation " + q.KeyName)
	if err != nil {
		return nil, err
	}
	sig, err := signRaw(key, signed)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding attestation key: %w", err)
	}
	qe, err := p.qeData(q, point[1:])
	if err != nil {
		return nil, err
	}
	data := append(sig, point[1:]...)
	if q.Version >= 4 {
		data = le.AppendUint16(data, quote.CertQEReport)
		data = le.AppendUint32(data, uint32(len(qe)))
	}
	data = append(data, qe...)
	out := le.AppendUint32(signed, uint32(len(data)))
	return append(out, data...), nil
}

// qeData is the QE report with its signature, the authentication data and the
// certification data.
func (p *PKI) qeData(q *Quote, point []byte) ([]byte, error) {
	leaf, err := p.pck(&q.Platform)
	if err != nil {
		return nil, err
	}
	report := quote.EnclaveReport{CPUSVN: q.Platform.CPUSVN, MiscSelect: q.QE.MiscSelect, Attributes: q.QE.Attributes,
		MRSigner: q.QE.MRSigner, ISVProdID: q.QE.ISVProdID, ISVSVN: q.QE.ISVSVN}
	sum := sha256.Sum256(append(append([]byte(nil), point...), q.AuthData...))
	copy(report.ReportData[:], sum[:])
	enc := EncodeEnclaveReport(&report)
	sig, err := signRaw(leaf.key, enc)
	if err != nil {
		return nil, err
	}
	cert, err := p.certData(q, leaf)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	out := append(enc, sig...)
	out = le.AppendUint16(out, uint16(len(q.AuthData)))
	out = append(out, q.AuthData...)
	out = le.AppendUint16(out, q.CertType)
	out = le.AppendUint32(out, uint32(len(cert)))
	return append(out, cert...), nil
}

func (p *PKI) certData(q *Quote, leaf *authority) ([]byte, error) {
	ppid := 0
	switch q.CertType {
	case quote.CertPCKLeaf:
		return leaf.pem, nil
	case quote.CertPCKChain:
		chain, err := p.PCKChain(&q.Platform)
		return append(chain, 0), err // quoting enclaves end it with a NUL
	case quote.CertPPIDPlain:
		ppid = 16
	case quote.CertPPIDRSA2048:
		ppid = 256
	case quote.CertPPIDRSA3072:
		ppid = 384
	}
	out := make([]byte, ppid)
	copy(out, q.Platform.PPID[:])
	out = append(out, q.Platform.CPUSVN[:]...)
	out = binary.LittleEndian.AppendUint16(out, q.Platform.PCESVN)
	return append(out, q.Platform.PCEID[1], q.Platform.PCEID[0]), nil
}

func (q *Quote) body() ([]byte, error) {
	if q.TEE == quote.TEESGX {
		return EncodeEnclaveReport(&q.Enclave), nil
	}
	t := &q.TD
	var out []byte
	for _, f := range [][]byte{t.TEETCBSVN[:], t.MRSEAM[:], t.MRSignerSEAM[:], t.SEAMAttributes[:], t.Attributes[:], t.XFAM[:], t.MRTD[:],
		t.MRConfigID[:], t.MROwner[:], t.MROwnerConfig[:], t.RTMR[0][:], t.RTMR[1][:], t.RTMR[2][:], t.RTMR[3][:], t.ReportData[:]} {
		out = append(out, f...)
	}
	if t.BodyType >= quote.BodyTD15 {
		out = append(out, t.TEETCBSVN2[:]...)
		out = append(out, t.MRServiceTD[:]...)
	}
	if t.BodyType == quote.BodyTD15X {
		s := t.ServiceTD
		if s == nil {
			return nil, fmt.Errorf("making quote: body type %d without a service TD", t.BodyType)
		}
		out = append(out, s.VMID)
		for _, f := range [][]byte{s.TDID[:], s.DevInfo[:], s.InitHash[:], s.InitAttributes[:], s.InitCPUSVN[:], s.InitTEETCBSVN[:],
			s.InitFMSPC[:], s.CurrHash[:], s.CurrAttributes[:]} {
			out = append(out, f...)
		}
	}
	return out, nil
}

// EncodeEnclaveReport returns the 384 bytes that EnclaveReport.Decode reads.
func EncodeEnclaveReport(e *quote.EnclaveReport) []byte {
	b := make([]byte, 384)
	copy(b[0:], e.CPUSVN[:])
	copy(b[16:], e.MiscSelect[:])
	copy(b[32:], e.ISVExtProdID[:])
	copy(b[48:], e.Attributes[:])
	copy(b[64:], e.MREnclave[:])
	copy(b[128:], e.MRSigner[:])
	copy(b[192:], e.ConfigID[:])
	binary.LittleEndian.PutUint16(b[256:], e.ISVProdID)
	binary.LittleEndian.PutUint16(b[258:], e.ISVSVN)
	binary.LittleEndian.PutUint16(b[260:], e.ConfigSVN)
	copy(b[304:], e.ISVFamilyID[:])
	copy(b[320:], e.ReportData[:])
	return b
}

// SignTDReport signs the header and the TD 1.0 body of a version 4 quote anew,
// whatever stands in it, and returns the 64 bytes that belong behind the
// length field.
func (p *PKI) SignTDReport(q []byte, keyName string) ([]byte, error) {
	key, err := p.key("attestation " + keyName)
	if err != nil {
		return nil, err
	}
	return signRaw(key, q[:48+584])
}
