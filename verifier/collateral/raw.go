package collateral

import (
	"encoding/hex"
	"encoding/json"
	"strings"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// Limits on the size of collateral. Intel's largest TCB info is about 20 KiB,
// its largest CRL about 10 KiB; the limits leave room for growth.
const (
	MaxChain    = 16 << 10  // bytes of a PEM issuer chain
	MaxCRL      = 512 << 10 // bytes of a CRL
	MaxTCBInfo  = 256 << 10 // bytes of a TCB info document
	MaxIdentity = 64 << 10  // bytes of a QE identity document
	MaxJSON     = 4 << 20   // bytes of the whole in ParseJSON
)

// document is the JSON shape of Raw. Other verifiers write it too, which is
// why its keys and encodings are not this project's own.
type document struct {
	PCKCRLIssuerChain     string `json:"pck_crl_issuer_chain"`
	RootCACRL             string `json:"root_ca_crl"`
	PCKCRL                string `json:"pck_crl"`
	TCBInfoIssuerChain    string `json:"tcb_info_issuer_chain"`
	TCBInfo               string `json:"tcb_info"`
	TCBInfoSignature      string `json:"tcb_info_signature"`
	QEIdentityIssuerChain string `json:"qe_identity_issuer_chain"`
	QEIdentity            string `json:"qe_identity"`
	QEIdentitySignature   string `json:"qe_identity_signature"`
}

// ParseJSON reads collateral from one JSON object whose members are the nine
// parts: PEM chains and signed documents as strings, CRLs (DER) and
// signatures in hex. Duplicate, unknown and missing members are refused. The
// error is a fault with code dcap.collateral.parse.
func ParseJSON(doc []byte) (*Raw, error) {
	var d document
	if err := jcs.Decode(doc, MaxJSON, &d); err != nil {
		return nil, parseFault("reading collateral: %w", err)
	}
	if err := exactKeys(doc); err != nil {
		return nil, err
	}
	raw := &Raw{
		PCKCRLIssuerChain:     []byte(d.PCKCRLIssuerChain),
		TCBInfoIssuerChain:    []byte(d.TCBInfoIssuerChain),
		TCBInfo:               []byte(d.TCBInfo),
		QEIdentityIssuerChain: []byte(d.QEIdentityIssuerChain),
		QEIdentity:            []byte(d.QEIdentity),
	}
	for _, f := range []struct {
		name string
		in   string
		out  *[]byte
	}{
		{"root_ca_crl", d.RootCACRL, &raw.RootCACRL},
		{"pck_crl", d.PCKCRL, &raw.PCKCRL},
		{"tcb_info_signature", d.TCBInfoSignature, &raw.TCBInfoSignature},
		{"qe_identity_signature", d.QEIdentitySignature, &raw.QEIdentitySignature},
	} {
		b, err := hex.DecodeString(f.in)
		if err != nil {
			return nil, parseFault("reading collateral: decoding %s: %w", f.name, err)
		}
		*f.out = b
	}
	if err := raw.check(); err != nil {
		return nil, err
	}
	return raw, nil
}

// exactKeys refuses members that are spelled in another case, which
// encoding/json takes for the ones it knows.
func exactKeys(doc []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(doc, &members); err != nil {
		return parseFault("reading collateral: %w", err)
	}
	for _, name := range []string{PartCRLChain, PartRootCRL, PartPCKCRL, PartTCBChain, PartTCBInfo, "tcb_info_signature",
		PartQEChain, PartQEIdentity, "qe_identity_signature"} {
		if _, ok := members[name]; !ok {
			return parseFault("reading collateral: %s is missing", name)
		}
	}
	return nil
}

// MarshalJSON writes the shape that ParseJSON reads.
func (r *Raw) MarshalJSON() ([]byte, error) {
	return jcs.Marshal(document{
		PCKCRLIssuerChain:     string(r.PCKCRLIssuerChain),
		RootCACRL:             hex.EncodeToString(r.RootCACRL),
		PCKCRL:                hex.EncodeToString(r.PCKCRL),
		TCBInfoIssuerChain:    string(r.TCBInfoIssuerChain),
		TCBInfo:               string(r.TCBInfo),
		TCBInfoSignature:      hex.EncodeToString(r.TCBInfoSignature),
		QEIdentityIssuerChain: string(r.QEIdentityIssuerChain),
		QEIdentity:            string(r.QEIdentity),
		QEIdentitySignature:   hex.EncodeToString(r.QEIdentitySignature),
	})
}

// check refuses parts that are absent or over their limits.
func (r *Raw) check() error {
	for _, p := range []struct {
		name  string
		data  []byte
		limit int
	}{
		{PartCRLChain, r.PCKCRLIssuerChain, MaxChain},
		{PartRootCRL, r.RootCACRL, MaxCRL},
		{PartPCKCRL, r.PCKCRL, MaxCRL},
		{PartTCBChain, r.TCBInfoIssuerChain, MaxChain},
		{PartTCBInfo, r.TCBInfo, MaxTCBInfo},
		{PartQEChain, r.QEIdentityIssuerChain, MaxChain},
		{PartQEIdentity, r.QEIdentity, MaxIdentity},
	} {
		if len(p.data) == 0 {
			return parseFault("reading collateral: %s is missing", p.name)
		}
		if len(p.data) > p.limit {
			return parseFault("reading collateral: %s has %d bytes, limit %d", p.name, len(p.data), p.limit)
		}
	}
	if len(r.TCBInfoSignature) != 64 || len(r.QEIdentitySignature) != 64 {
		return parseFault("reading collateral: signatures have %d and %d bytes, not 64",
			len(r.TCBInfoSignature), len(r.QEIdentitySignature))
	}
	return nil
}

func parseFault(format string, args ...any) *fault.Fault {
	f := fault.New(fault.ExitParse, "dcap.collateral.parse", fetchRemedy, format, args...)
	_, f.Actual, _ = strings.Cut(f.Msg, ": ")
	return f.Expect("collateral in nine parts, each as Intel's service answers")
}
