package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"cocoon/internal/fault"
	"cocoon/verifier/azure/bundle"
	"cocoon/verifier/collateral"
	"cocoon/verifier/evidence"
	"cocoon/verifier/quote"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// maxRecordedLog bounds an event log beside a recorded quote.
const maxRecordedLog = 1 << 20

// recorded turns what others hand over of a machine into foreign evidence: a
// raw TDX or SGX quote, a raw SEV-SNP report, or the bundle of an Azure VM's
// guest agent. ok is false for what is the project's own.
func (f *appraiseFlags) recorded(doc []byte) (out []byte, ok bool, err error) {
	var head struct {
		Profile string `json:"profile"`
	}
	if json.Unmarshal(doc, &head) == nil && head.Profile != "" {
		if f.beside() {
			return nil, false, usage("--collateral, --certificate and --event-log go with a raw quote or report: this evidence has its own")
		}
		return doc, head.Profile == evidence.ProfileForeign, nil
	}
	ev := &evidence.Foreign{Profile: evidence.ProfileForeign, CPU: evidence.CPU{CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}}
	switch {
	case bundle.Is(doc):
		err = azureCPU(&ev.CPU, doc)
	case len(bytes.TrimSpace(doc)) > 0 && bytes.TrimSpace(doc)[0] == '{':
		return doc, false, nil // reading it as evidence says what is wrong
	default:
		err = rawCPU(&ev.CPU, doc)
	}
	if err == nil {
		err = f.addBeside(ev)
	}
	if err != nil {
		return nil, false, err
	}
	b, err := ev.Marshal()
	return b, true, err
}

func (f *appraiseFlags) beside() bool { return f.collateral+f.certificate+f.eventLog != "" }

// azureCPU takes the bundle of a guest agent over.
func azureCPU(cpu *evidence.CPU, doc []byte) error {
	az, err := bundle.Parse(doc)
	if err != nil {
		return fault.New(fault.ExitParse, "azure.bundle.parse", "give the evidence as the guest's agent made it", "%w", err)
	}
	cpu.Type, cpu.Quote, cpu.Signature, cpu.HCLReport, cpu.TDQuote, cpu.EventLog = evidence.TypeAzSNP, az.Attest, az.Signature, az.HCL, az.TDQuote, az.EventLog
	if len(az.TDQuote) > 0 {
		cpu.Type = evidence.TypeAzTDX
	}
	if len(az.VCEK) > 0 {
		cpu.CertChain = [][]byte{az.VCEK}
	}
	return nil
}

// rawCPU recognises a quote or a report by its form.
func rawCPU(cpu *evidence.CPU, doc []byte) error {
	cpu.Quote = doc
	if q, err := quote.Parse(doc, quote.Options{AllowZeroPadding: true}); err == nil {
		cpu.Type = evidence.TypeSGX
		if q.TEE == quote.TEETDX {
			cpu.Type = evidence.TypeTDX
		}
		return nil
	}
	if body, _, err := report.Split(doc); err == nil {
		if _, err := report.Parse(body); err == nil {
			cpu.Type = evidence.TypeSNP
			return nil
		}
	}
	return fault.New(fault.ExitParse, "evidence.parse",
		"give evidence as it was served, a raw TDX or SGX quote, a raw SEV-SNP report, or an Azure guest agent's bundle; GPUs alone are for cocoon verify gpu",
		"reading evidence: it has none of the forms that are appraised")
}

// addBeside adds what the flags name.
func (f *appraiseFlags) addBeside(ev *evidence.Foreign) error {
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
