package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/azure/bundle"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dstack"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu/ocsp"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/spdm"
	"cocoon/verifier/quote"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// maxRecordedLog bounds an event log beside a recorded quote.
const maxRecordedLog = 1 << 20

// besideFlags name what goes with a quote or report that comes without it.
type besideFlags struct {
	collateral  string
	certificate string
	eventLog    string
	nonce       string
	rims, ocsps []string
}

func (f *besideFlags) any() bool {
	return f.collateral+f.certificate+f.eventLog+f.nonce != "" || len(f.rims)+len(f.ocsps) > 0
}

// recorded turns what others hand over of a machine into foreign evidence: a
// raw TDX or SGX quote, a raw SEV-SNP report, the bundle of an Azure VM's guest
// agent, what dstack's agent answers, the report of an NVIDIA device, or a list
// of such. ok is false for what is the project's own.
func (f *besideFlags) recorded(doc []byte) (out []byte, ok bool, err error) {
	var head struct {
		Profile string `json:"profile"`
	}
	if json.Unmarshal(doc, &head) == nil && head.Profile != "" {
		if f.any() {
			return nil, false, usage("--collateral, --certificate, --event-log, --nonce, --rim and --ocsp go with a raw quote or report: this evidence has its own")
		}
		return doc, head.Profile == evidence.ProfileForeign, nil
	}
	ev := &evidence.Foreign{Profile: evidence.ProfileForeign}
	first := bytes.TrimSpace(doc)
	switch {
	case bundle.Is(doc):
		ev.CPU, err = azureCPU(doc)
	case dstack.Is(doc):
		ev.CPU, err = dstackCPU(doc)
	case len(first) > 0 && first[0] == '[':
		err = listedGPUs(ev, doc)
	case len(first) > 0 && first[0] == '{':
		return doc, false, nil // reading it as evidence says what is wrong
	default:
		err = raw(ev, doc)
	}
	if err == nil {
		err = f.add(ev)
	}
	if err != nil {
		return nil, false, err
	}
	b, err := ev.Marshal()
	return b, true, err
}

func newCPU(kind string, quote []byte) *evidence.CPU {
	return &evidence.CPU{Type: kind, Quote: quote, CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}
}

// unpadded returns a quote without the zeros that fill its collector's buffer.
func unpadded(raw []byte, q *quote.Quote) []byte { return raw[:len(raw)-q.Padding] }

// azureCPU takes the bundle of a guest agent over.
func azureCPU(doc []byte) (*evidence.CPU, error) {
	az, err := bundle.Parse(doc)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "azure.bundle.parse", "give the evidence as the guest's agent made it", "%w", err)
	}
	cpu := newCPU(evidence.TypeAzSNP, az.Attest)
	cpu.Signature, cpu.HCLReport, cpu.TDQuote, cpu.EventLog = az.Signature, az.HCL, az.TDQuote, az.EventLog
	if len(az.TDQuote) > 0 {
		cpu.Type = evidence.TypeAzTDX
	}
	if len(az.VCEK) > 0 {
		cpu.CertChain = [][]byte{az.VCEK}
	}
	return cpu, nil
}

// dstackCPU takes what dstack's guest agent answers over.
func dstackCPU(doc []byte) (*evidence.CPU, error) {
	d, err := dstack.Parse(doc)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "dstack.bundle.parse", "give the answer as the guest's agent made it", "%w", err)
	}
	if d.Report == nil {
		cpu := newCPU(evidence.TypeTDX, d.Quote)
		if q, err := quote.Parse(d.Quote, quote.Options{AllowZeroPadding: true}); err == nil {
			cpu.Quote = unpadded(d.Quote, q)
		}
		cpu.EventLog = d.EventLog
		return cpu, nil
	}
	cpu := newCPU(evidence.TypeSNP, d.Report)
	if d.VCEK != nil {
		cpu.CertChain = [][]byte{d.VCEK}
	}
	return cpu, nil
}

// listedGPUs takes the devices of a list over, with the nonce that NVIDIA's
// tools write beside each, if it is the same one.
func listedGPUs(ev *evidence.Foreign, doc []byte) error {
	items, nonces, err := parseGPUList(doc)
	if err != nil {
		return err
	}
	for _, it := range items {
		ev.GPUs = append(ev.GPUs, evidence.GPU{Report: it.Report, Chain: it.Chain})
	}
	for i, n := range nonces {
		d, err := recordedNonce(n)
		if err != nil || i > 0 && n != nonces[0] {
			ev.GPUNonce = nil
			return nil
		}
		ev.GPUNonce = d
	}
	return nil
}

func recordedNonce(text string) (*digest.SHA256, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != spdm.NonceSize {
		return nil, fmt.Errorf("not %d bytes of hex", spdm.NonceSize)
	}
	d := digest.SHA256(b)
	return &d, nil
}

// raw recognises a quote or a report by its form.
func raw(ev *evidence.Foreign, doc []byte) error {
	if q, err := quote.Parse(doc, quote.Options{AllowZeroPadding: true}); err == nil {
		ev.CPU = newCPU(evidence.TypeSGX, unpadded(doc, q))
		if q.TEE == quote.TEETDX {
			ev.CPU.Type = evidence.TypeTDX
		}
		return nil
	}
	if body, _, err := report.Split(doc); err == nil {
		if _, err := report.Parse(body); err == nil {
			ev.CPU = newCPU(evidence.TypeSNP, doc)
			return nil
		}
	}
	if _, err := spdm.Parse(doc); err == nil {
		ev.GPUs = []evidence.GPU{{Report: doc, Chain: [][]byte{}}}
		return nil
	}
	return fault.New(fault.ExitParse, "evidence.parse",
		"give evidence as it was served, a raw TDX or SGX quote, a raw SEV-SNP report, an NVIDIA device's report, or what an Azure or dstack guest's agent answers",
		"reading evidence: it has none of the forms that are appraised")
}

// add adds what the flags name.
func (f *besideFlags) add(ev *evidence.Foreign) error {
	if len(ev.GPUs) > 0 {
		return f.addGPU(ev)
	}
	if f.nonce != "" || len(f.rims)+len(f.ocsps) > 0 {
		return usage("--nonce, --rim and --ocsp go with the report of an NVIDIA device")
	}
	if f.collateral != "" {
		doc, err := readInput("--collateral", f.collateral, collateral.MaxJSON)
		if err != nil {
			return err
		}
		if !json.Valid(doc) {
			return fault.New(fault.ExitParse, "dcap.collateral.parse", "give one JSON object", "reading --collateral: it is not JSON")
		}
		ev.Collateral = doc
	}
	if f.certificate != "" {
		doc, err := readInput("--certificate", f.certificate, 2*vek.MaxCert)
		if err != nil {
			return err
		}
		der, err := vek.DER(doc)
		if err != nil {
			return fault.New(fault.ExitParse, "snp.cert.parse", "give one certificate, DER or PEM", "reading --certificate: %w", err)
		}
		ev.CPU.CertChain = [][]byte{der}
	}
	if f.eventLog != "" {
		doc, err := readInput("--event-log", f.eventLog, maxRecordedLog)
		if err != nil {
			return fmt.Errorf("reading event log: %w", err)
		}
		ev.CPU.EventLog = doc
	}
	return nil
}

// addGPU adds what the flags name of a device: its chain, the nonce that it was
// asked with, RIMs and OCSP responses.
func (f *besideFlags) addGPU(ev *evidence.Foreign) error {
	if f.collateral != "" || f.eventLog != "" {
		return usage("--collateral and --event-log go with a quote of Intel's")
	}
	if f.certificate != "" {
		if len(ev.GPUs) != 1 || len(ev.GPUs[0].Chain) > 0 {
			return usage("--certificate goes with a single raw report: these devices have their own")
		}
		doc, err := readInput("--certificate", f.certificate, maxGPUChain)
		if err != nil {
			return err
		}
		if ev.GPUs[0].Chain, err = splitGPUChain(doc); err != nil {
			return err
		}
	}
	if f.nonce != "" {
		var err error
		if ev.GPUNonce, err = recordedNonce(f.nonce); err != nil {
			return usage("reading --nonce: %v", err)
		}
	}
	var c gpus.Collateral
	for _, path := range f.rims {
		doc, err := readInput("--rim", path, rim.MaxDocument)
		if err != nil {
			return err
		}
		c.RIMs = append(c.RIMs, doc)
	}
	for _, path := range f.ocsps {
		der, err := readInput("--ocsp", path, ocsp.MaxResponse)
		if err != nil {
			return err
		}
		c.OCSP = append(c.OCSP, der)
	}
	if len(c.RIMs)+len(c.OCSP) == 0 {
		return nil
	}
	var err error
	ev.Collateral, err = json.Marshal(map[string]any{"nvgpu": c})
	return err
}
