package testfleet

import (
	"bytes"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/snp"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgputest"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
)

// Machine makes evidence for challenges. It is ready as of a time and for a
// day from it; its methods may be called at the same time.
type Machine struct {
	kind   string
	fleet  *Fleet
	claims evidence.Claims
	quote  []byte // over other claims
	chain  [][]byte
	device *nvgputest.Bound
	// The document, cut where a challenge changes it.
	parts [][]byte
	order []field
	size  int
}

// field is what stands between two parts of the document.
type field int

const (
	fieldGPUHash field = iota
	fieldNonce
	fieldChallenge
	fieldQuote
	fieldGPUReport
)

// Bound is what of a machine's evidence depends on a challenge. It is small:
// a load tool keeps many.
type Bound struct {
	challenge, nonce, gpuHash digest.SHA256
	reportData                [64]byte
	signature                 []byte
	gpuReport                 []byte
}

// Machine starts a machine of a kind.
func (f *Fleet) Machine(kind string, now time.Time) (*Machine, error) {
	m := &Machine{kind: kind, fleet: f}
	ev := &evidence.Evidence{Profile: evidence.Profile, Config: f.config(kind), NonceInputs: []digest.SHA256{f.sum("no challenge")}, GPUs: []evidence.GPU{},
		CPU: evidence.CPU{CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}}
	config, err := ev.Config.Hash()
	if err != nil {
		return nil, err
	}
	m.claims = evidence.Claims{TLSSPKISHA256: f.sum("tls key"), ReceiptKey: f.sum("receipt key"), ConfigSHA256: config,
		Model: evidence.Model{Name: ev.Config.Model.Name, VerityRoot: ev.Config.Model.Verity.Root}}
	switch kind {
	case TDX:
		err = m.startTD(ev, now)
	case SNP, GPU:
		err = m.startGuest(ev, config)
	default:
		err = fmt.Errorf("starting machine: there is no kind %.32q", kind)
	}
	if err == nil && kind == GPU {
		err = m.addGPU(ev, now)
	}
	if err != nil {
		return nil, err
	}
	b, err := m.Bind(ev.NonceInputs[0])
	if err != nil {
		return nil, err
	}
	ev.Claims = m.claims
	ev.Claims.Nonce, ev.Claims.GPUEvidenceSHA256, ev.CPU.Quote = b.nonce, b.gpuHash, m.quoteOf(b)
	if b.gpuReport != nil {
		ev.GPUs[0].Report = b.gpuReport
	}
	doc, err := ev.Marshal()
	if err != nil {
		return nil, err
	}
	return m, m.cut(doc, b)
}

func (m *Machine) startTD(ev *evidence.Evidence, now time.Time) (err error) {
	log, err := m.fleet.events()
	if err != nil {
		return err
	}
	c := tdxtest.StatusTDX(tcb.UpToDate)
	from, to := now.UTC().Truncate(time.Second).AddDate(0, 0, -1), now.UTC().Truncate(time.Second).AddDate(0, 0, 29)
	w := tdxtest.Window{From: from, To: to}
	c.Collateral.Info.IssueDate, c.Collateral.Info.NextUpdate = from, to
	c.Collateral.QE.IssueDate, c.Collateral.QE.NextUpdate = from, to
	c.Collateral.RootCRL.Window, c.Collateral.PCKCRL.Window = w, w
	ev.CPU.Type = evidence.TypeTDX
	ev.CPU.EventLog, c.Quote.TD.RTMR = tdxtest.CCEL(log)
	if ev.CPU.RuntimeEvents, err = evidence.RuntimeEvents(&ev.Config); err != nil {
		return err
	}
	r3 := &c.Quote.TD.RTMR[3]
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		if err != nil {
			return err
		}
		d := sha512.Sum384(b)
		*r3 = sha512.Sum384(append(r3[:], d[:]...))
	}
	q, raw, err := m.fleet.tdx.Make(&c)
	if err != nil {
		return err
	}
	m.quote = q
	ev.Collateral, err = raw.MarshalJSON()
	return err
}

func (m *Machine) startGuest(ev *evidence.Evidence, config digest.SHA256) error {
	d, err := snp.Measure(m.fleet.firmware, m.fleet.kernel, snp.Shape{VMM: snp.QEMU, VCPUs: 4, VCPUType: "EPYC-Milan", Features: snp.DefaultFeatures})
	if err != nil {
		return fmt.Errorf("launching guest: %w", err)
	}
	r := snptest.Default(3, report.Genoa, report.VCEK)
	r.LaunchDigest, r.HostData = d, config
	raw, cert, err := m.fleet.snp.Make(&r)
	if err != nil {
		return err
	}
	m.quote = raw
	ev.CPU.Type, ev.CPU.CertChain = evidence.TypeSNP, [][]byte{cert}
	return nil
}

func (m *Machine) addGPU(ev *evidence.Evidence, now time.Time) error {
	d := nvgputest.GPU(1)
	var err error
	if m.device, err = m.fleet.gpu.Bind(&d); err != nil {
		return err
	}
	m.chain = m.device.Chain()
	ev.GPUs = []evidence.GPU{{Report: []byte{}, Chain: m.chain}}
	var c gpus.Collateral
	answer := func(cert *x509.Certificate) error {
		der, err := m.fleet.gpu.OCSP(cert, nvgputest.Good, now.Add(-time.Minute).Truncate(time.Second), nil)
		c.OCSP = append(c.OCSP, der)
		return err
	}
	for _, der := range m.chain[1:4] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("reading test certificate: %w", err)
		}
		if err := answer(cert); err != nil {
			return err
		}
	}
	for i, r := range nvgputest.RIMs(&d) {
		doc, err := m.fleet.gpu.Sign(&r)
		if err != nil {
			return err
		}
		c.RIMs = append(c.RIMs, doc)
		signers, err := m.fleet.gpu.Signers(&r)
		if err != nil {
			return err
		}
		if i > 0 {
			signers = signers[:1] // the rest is that of the first
		}
		for _, cert := range signers {
			if err := answer(cert); err != nil {
				return err
			}
		}
	}
	ev.Collateral, err = json.Marshal(map[string]any{"nvgpu": c})
	return err
}

// Bind makes what depends on a challenge: nonce, claims and signatures.
func (m *Machine) Bind(challenge digest.SHA256) (*Bound, error) {
	b := &Bound{challenge: challenge}
	var err error
	if b.nonce, err = evidence.NonceOf([]digest.SHA256{challenge}); err != nil {
		return nil, err
	}
	c := m.claims
	c.Nonce = b.nonce
	var list []evidence.GPU
	if m.device != nil {
		nonce, err := c.GPUNonce()
		if err != nil {
			return nil, err
		}
		if b.gpuReport, err = m.device.Report(nonce); err != nil {
			return nil, err
		}
		list = []evidence.GPU{{Report: b.gpuReport, Chain: m.chain}}
	}
	if b.gpuHash, err = evidence.GPUHash(list); err != nil {
		return nil, err
	}
	c.GPUEvidenceSHA256 = b.gpuHash
	if b.reportData, err = c.ReportData(); err != nil {
		return nil, err
	}
	q := m.quoteOf(b) // with the other's signature
	if m.kind == TDX {
		b.signature, err = m.fleet.tdx.SignTDReport(q, "")
		return b, err
	}
	if err := m.fleet.snp.Sign(q, "leaf"); err != nil {
		return nil, err
	}
	b.signature = bytes.Clone(q[report.SignedSize:][:144])
	return b, nil
}

// Where the parts that change are: TDX DCAP quote version 4 with a TD 1.0 body
// (Intel, DCAP Quoting Library API, A.4), and AMD 56860, table 23.
const (
	tdxReportData = 48 + 520
	tdxSignature  = 48 + 584 + 4
	snpReportData = 0x50
)

// Quote returns a TD's quote over its report as changed: the TD 1.0 body, 584
// bytes. Other kinds have none.
func (m *Machine) Quote(change func(body []byte)) ([]byte, error) {
	if m.kind != TDX {
		return nil, fmt.Errorf("quoting: a machine of kind %s has no TD", m.kind)
	}
	q := bytes.Clone(m.quote)
	change(q[48 : 48+584])
	sig, err := m.fleet.tdx.SignTDReport(q, "")
	copy(q[tdxSignature:], sig)
	return q, err
}

func (m *Machine) quoteOf(b *Bound) []byte {
	q := bytes.Clone(m.quote)
	if m.kind == TDX {
		copy(q[tdxReportData:], b.reportData[:])
		copy(q[tdxSignature:], b.signature)
		return q
	}
	copy(q[snpReportData:], b.reportData[:])
	copy(q[report.SignedSize:], b.signature)
	return q
}

// cut finds in a document what depends on the challenge it was made for.
func (m *Machine) cut(doc []byte, b *Bound) error {
	m.size = len(doc)
	for {
		first, at := field(-1), len(doc)
		var text []byte
		for f := fieldGPUHash; f <= fieldGPUReport; f++ {
			t := m.appendText(nil, f, b)
			if i := bytes.Index(doc, t); len(t) > 0 && i >= 0 && i < at {
				first, at, text = f, i, t
			}
		}
		m.parts = append(m.parts, doc[:at])
		if first < 0 {
			break
		}
		m.order = append(m.order, first)
		doc = doc[at+len(text):]
	}
	if want := map[bool]int{false: 4, true: 5}[m.device != nil]; len(m.order) != want {
		return errors.New("starting machine: evidence has another form")
	}
	return nil
}

func (m *Machine) appendText(dst []byte, f field, b *Bound) []byte {
	switch f {
	case fieldGPUHash:
		return hex.AppendEncode(dst, b.gpuHash[:])
	case fieldNonce:
		return hex.AppendEncode(dst, b.nonce[:])
	case fieldChallenge:
		return hex.AppendEncode(dst, b.challenge[:])
	case fieldQuote:
		return base64.StdEncoding.AppendEncode(dst, m.quoteOf(b))
	default:
		return base64.StdEncoding.AppendEncode(dst, b.gpuReport)
	}
}

// Size is the length of the machine's evidence in bytes.
func (m *Machine) Size() int { return m.size }

// AppendEvidence appends the evidence (RFC 8785 form) for a challenge.
func (m *Machine) AppendEvidence(dst []byte, b *Bound) []byte {
	for i, p := range m.parts {
		dst = append(dst, p...)
		if i < len(m.order) {
			dst = m.appendText(dst, m.order[i], b)
		}
	}
	return dst
}

// Evidence makes the evidence for a challenge.
func (m *Machine) Evidence(challenge digest.SHA256) ([]byte, error) {
	b, err := m.Bind(challenge)
	if err != nil {
		return nil, err
	}
	return m.AppendEvidence(make([]byte, 0, m.size), b), nil
}
