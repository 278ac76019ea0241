package tdxtest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"cocoon/verifier/collateral"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/tcb"
)

// Window is a period of validity.
type Window struct{ From, To time.Time }

// Collateral is what collateral is made from. Info and QE have their dates.
type Collateral struct {
	Info    tcb.Info
	QE      tcb.QEIdentity
	CA      pck.CA // of the PCK CRL; "": PlatformCA
	RootCRL CRL
	PCKCRL  CRL
}

// CRL is what a CRL is made from.
type CRL struct {
	Window  Window
	Number  int64
	Revoked []int64 // serial numbers
}

// DefaultCollateral is collateral under which the default quotes of a TEE are
// up to date, with a second level that is out of date for each of platform,
// module and QE.
func DefaultCollateral(tee uint32) Collateral {
	from, to := Now.AddDate(0, 0, -1), Now.AddDate(0, 0, 29)
	pl, qe := DefaultPlatform(), DefaultQE(tee)
	good, old := time.Date(2025, 8, 13, 0, 0, 0, 0, time.UTC), time.Date(2023, 8, 9, 0, 0, 0, 0, time.UTC)
	c := Collateral{
		Info: tcb.Info{ID: "SGX", Version: 3, IssueDate: from, NextUpdate: to, FMSPC: pl.FMSPC, PCEID: pl.PCEID, Evaluation: 20,
			Levels: []tcb.Level{
				{SGX: pl.Components, PCESVN: 13, Date: good, Status: tcb.UpToDate},
				{PCESVN: 5, Date: old, Status: tcb.OutOfDate, Advisories: []string{"INTEL-SA-00001"}},
			}},
		QE: tcb.QEIdentity{ID: "QE", Version: 2, IssueDate: from, NextUpdate: to, Evaluation: 20,
			MiscSelectMask: [4]byte{0xff, 0xff, 0xff, 0xff}, Attributes: [16]byte{0x11}, AttributesMask: [16]byte{0xfb, 0xff},
			MRSigner: qe.MRSigner, ISVProdID: qe.ISVProdID,
			Levels: []tcb.SVNLevel{
				{ISVSVN: 8, Date: good, Status: tcb.UpToDate},
				{ISVSVN: 4, Date: old, Status: tcb.OutOfDate, Advisories: []string{"INTEL-SA-00002"}},
			}},
		RootCRL: CRL{Window: Window{from.AddDate(0, -1, 0), to.AddDate(0, 10, 0)}, Number: 1},
		PCKCRL:  CRL{Window: Window{from, to}, Number: 7},
	}
	if tee == quote.TEETDX {
		c.Info.ID, c.QE.ID = "TDX", "TD_QE"
		mask := [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		c.Info.Module = &tcb.Module{AttributesMask: mask}
		c.Info.Modules = []tcb.Module{{ID: "TDX_01", AttributesMask: mask, Levels: []tcb.SVNLevel{
			{ISVSVN: 5, Date: good, Status: tcb.UpToDate},
			{ISVSVN: 2, Date: old, Status: tcb.OutOfDate, Advisories: []string{"INTEL-SA-00003"}},
		}}}
		c.Info.Levels[0].TDX = tcb.Components{5, 1, 8}
	}
	return c
}

// Collateral makes the collateral.
func (p *PKI) Collateral(c *Collateral) (*collateral.Raw, error) {
	info, err := infoJSON(&c.Info)
	if err != nil {
		return nil, err
	}
	qe, err := qeJSON(&c.QE)
	if err != nil {
		return nil, err
	}
	ca := p.ca(c.CA)
	raw := &collateral.Raw{
		PCKCRLIssuerChain:  append(append([]byte(nil), ca.pem...), p.root.pem...),
		TCBInfoIssuerChain: append(append([]byte(nil), p.sign.pem...), p.root.pem...),
		TCBInfo:            info, QEIdentity: qe,
	}
	raw.QEIdentityIssuerChain = raw.TCBInfoIssuerChain
	if raw.RootCACRL, err = p.root.crl(&c.RootCRL); err != nil {
		return nil, err
	}
	if raw.PCKCRL, err = ca.crl(&c.PCKCRL); err != nil {
		return nil, err
	}
	if err := p.Resign(raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// Resign signs TCB info and QE identity as they are in raw: for tests that
// change the bytes.
func (p *PKI) Resign(raw *collateral.Raw) (err error) {
	if raw.TCBInfoSignature, err = signRaw(p.sign.key, raw.TCBInfo); err != nil {
		return err
	}
	raw.QEIdentitySignature, err = signRaw(p.sign.key, raw.QEIdentity)
	return err
}

func (a *authority) crl(c *CRL) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(c.Number), ThisUpdate: c.Window.From, NextUpdate: c.Window.To,
		SignatureAlgorithm: x509.ECDSAWithSHA256}
	for _, s := range c.Revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: big.NewInt(s), RevocationTime: c.Window.From, ReasonCode: 1, ExtraExtensions: []pkix.Extension{}})
	}
	der, err := x509.CreateRevocationList(nil, list, a.cert, a.key)
	if err != nil {
		return nil, fmt.Errorf("making test CRL: %w", err)
	}
	return der, nil
}

// object is a JSON object in the order in which its members were added, as
// Intel's documents have a fixed one.
type object struct{ b strings.Builder }

func (o *object) add(key string, v any) *object {
	if o.b.Len() > 0 {
		o.b.WriteByte(',')
	}
	enc, err := json.Marshal(v)
	if err != nil {
		panic("tdxtest: encoding " + key + ": " + err.Error()) // values are strings, numbers and raw JSON of this file
	}
	fmt.Fprintf(&o.b, "%q:%s", key, enc)
	return o
}

func (o *object) raw() json.RawMessage { return json.RawMessage("{" + o.b.String() + "}") }

func upper(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func infoJSON(in *tcb.Info) ([]byte, error) {
	o := new(object).add("id", in.ID).add("version", in.Version).add("issueDate", date(in.IssueDate)).
		add("nextUpdate", date(in.NextUpdate)).add("fmspc", upper(in.FMSPC[:])).add("pceId", upper(in.PCEID[:])).
		add("tcbType", in.TCBType).add("tcbEvaluationDataNumber", in.Evaluation)
	if in.Module != nil {
		o.add("tdxModule", moduleJSON(in.Module, false))
	}
	if len(in.Modules) > 0 {
		var list []json.RawMessage
		for i := range in.Modules {
			list = append(list, moduleJSON(&in.Modules[i], true))
		}
		o.add("tdxModuleIdentities", list)
	}
	var levels []json.RawMessage
	for i := range in.Levels {
		l := &in.Levels[i]
		t := new(object).add("sgxtcbcomponents", components(l.SGX)).add("pcesvn", l.PCESVN)
		if in.ID == "TDX" {
			t.add("tdxtcbcomponents", components(l.TDX))
		}
		levels = append(levels, levelJSON(t, l.Date, l.Status, l.Advisories))
	}
	return o.add("tcbLevels", levels).raw(), nil
}

func components(c tcb.Components) []map[string]int {
	out := make([]map[string]int, len(c))
	for i, svn := range c {
		out[i] = map[string]int{"svn": int(svn)}
	}
	return out
}

func moduleJSON(m *tcb.Module, identity bool) json.RawMessage {
	o := new(object)
	if identity {
		o.add("id", m.ID)
	}
	o.add("mrsigner", upper(m.MRSigner[:])).add("attributes", upper(m.Attributes[:])).add("attributesMask", upper(m.AttributesMask[:]))
	if identity {
		o.add("tcbLevels", svnLevels(m.Levels))
	}
	return o.raw()
}

func svnLevels(levels []tcb.SVNLevel) []json.RawMessage {
	var out []json.RawMessage
	for _, l := range levels {
		out = append(out, levelJSON(new(object).add("isvsvn", l.ISVSVN), l.Date, l.Status, l.Advisories))
	}
	return out
}

func levelJSON(t *object, d time.Time, s tcb.Status, advisories []string) json.RawMessage {
	o := new(object).add("tcb", t.raw()).add("tcbDate", date(d)).add("tcbStatus", string(s))
	if len(advisories) > 0 {
		o.add("advisoryIDs", advisories)
	}
	return o.raw()
}

func qeJSON(q *tcb.QEIdentity) ([]byte, error) {
	return new(object).add("id", q.ID).add("version", q.Version).add("issueDate", date(q.IssueDate)).
		add("nextUpdate", date(q.NextUpdate)).add("tcbEvaluationDataNumber", q.Evaluation).
		add("miscselect", upper(q.MiscSelect[:])).add("miscselectMask", upper(q.MiscSelectMask[:])).
		add("attributes", upper(q.Attributes[:])).add("attributesMask", upper(q.AttributesMask[:])).
		add("mrsigner", upper(q.MRSigner[:])).add("isvprodid", q.ISVProdID).add("tcbLevels", svnLevels(q.Levels)).raw(), nil
}
