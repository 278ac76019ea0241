package demo

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"cocoon/measurements/digest"
)

// Report is report.json: what the run showed. Every value in it was measured
// in this run; Verify derives those that matter again from the other files.
type Report struct {
	Version        int                `json:"version"` // 1
	Accelerator    string             `json:"accelerator"`
	AccelReason    string             `json:"accelerator_reason"`
	Transport      string             `json:"transport"` // how guest and host talk
	TrustClass     string             `json:"trust_class"`
	Notice         string             `json:"notice"`
	ManifestSHA256 digest.SHA256      `json:"manifest_sha256"`
	Verdict        ReportVerdict      `json:"verdict"`
	Model          string             `json:"model"`
	Prompt         string             `json:"prompt"`
	Answer         string             `json:"answer"`
	FirstToken     float64            `json:"boot_to_first_token_seconds"`
	PCRs           []ReportPCR        `json:"pcrs"`
	Job            ReportJob          `json:"job"`
	Receipt        ReportReceipt      `json:"receipt"`
	Refusals       []Refusal          `json:"refusals"`
	AlsoRefused    []Refusal          `json:"also_refused"` // beside the changed runs
	Seconds        map[string]float64 `json:"seconds"`
}

// ReportVerdict is the verdict on the unchanged run.
type ReportVerdict struct {
	Status         string        `json:"status"` // EAR status: affirming, warning, …
	TrustClass     string        `json:"trust_class"`
	EvidenceSHA256 digest.SHA256 `json:"evidence_sha256"`
	ExpiresAt      string        `json:"expires_at"`
}

// ReportPCR is one register, as predicted and as quoted.
type ReportPCR struct {
	Index     int    `json:"index"`
	Predicted string `json:"predicted"` // empty where nothing is predicted
	Measured  string `json:"measured"`
	Source    string `json:"source"` // computed, recorded, reported
}

// Refusal is one changed run and how it was refused.
type Refusal struct {
	Case     string   `json:"case"`
	Step     string   `json:"step"`
	Code     string   `json:"code"`
	Expected string   `json:"expected"`
	Actual   string   `json:"actual"`
	By       []string `json:"by"` // who refused: verifier, client, guest, worker, registry, job
	// Contract is the code with which the registry refused a verdict for
	// the changed run, had a verifier signed one; empty where none was offered.
	Contract string `json:"contract_code,omitempty"`
}

// Notice is what every summary says of the development trust class.
const Notice = "trust class vtpm: this shows measured boot, NOT confidentiality; for development only"

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", filepath.Base(path), err)
	}
	return writeFile(path, append(b, '\n'))
}

// writeFile writes by temporary file and rename, so that a killed run leaves
// no half file.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making directory: %w", err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
