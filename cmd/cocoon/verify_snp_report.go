package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/policy/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
)

// snpReport is what "cocoon verify snp" writes; docs/verify-snp.md describes
// it. Its members are always there, but for mitigations and crl.
type snpReport struct {
	Accepted     bool              `json:"accepted"`
	TEE          string            `json:"tee"`
	Product      report.Product    `json:"product"` // empty where neither report nor certificate says
	Signer       report.Signer     `json:"signer"`
	Version      int               `json:"version"` // 0: the report does not parse
	Time         time.Time         `json:"time"`    // that was judged at
	Roots        string            `json:"roots"`   // "amd" or "custom"
	Measurements map[string]string `json:"measurements"`
	TCB          snp.TCB           `json:"tcb"`
	Firmware     snp.Firmware      `json:"firmware"`
	Mitigations  *snp.Mitigations  `json:"mitigations,omitempty"`
	Debug        bool              `json:"debug"`
	VMPL         uint32            `json:"vmpl"`
	GuestSVN     uint32            `json:"guest_svn"`
	Policy       snp.Policy        `json:"policy"`
	Platform     snp.Platform      `json:"platform"`
	Certificate  snp.Certificate   `json:"certificate"`
	CRL          *snp.CRLDates     `json:"crl,omitempty"`
	Checks       []result.Check    `json:"checks"`

	verified *snp.Result
	faults   []error
}

func newSNPReport() *snpReport {
	return &snpReport{TEE: "snp", Roots: "amd", Measurements: map[string]string{}, Checks: []result.Check{}}
}

// fill takes over a verification's result. Where fetching failed, its word
// that something is missing gives way to the reason.
func (r *snpReport) fill(res *snp.Result, fetchFailed bool) {
	r.verified = res
	r.Product, r.Signer, r.Version, r.Measurements, r.TCB, r.Firmware = res.Product, res.Signer, res.Version, res.Measurements(), res.TCB, res.Firmware
	r.Mitigations, r.Debug, r.VMPL, r.GuestSVN, r.Policy, r.Platform = res.Mitigations, res.Debug, res.VMPL, res.GuestSVN, res.Policy, res.Platform
	r.Certificate, r.CRL = res.Certificate, res.CRL
	for _, c := range res.Checks {
		if !fetchFailed || (c.ID != "snp.cert.missing" && c.ID != "snp.crl.missing") {
			r.Checks = append(r.Checks, c)
		}
	}
}

// finish adds the faults that no check stands for yet and draws the
// conclusion.
func (r *snpReport) finish(err error) {
	for _, f := range dcap.Faults(r.Checks) {
		r.faults = append(r.faults, f)
	}
	for _, f := range fault.All(err) {
		r.Checks = append(r.Checks, result.Check{ID: f.Code, Status: result.Fail,
			Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy})
		r.faults = append(r.faults, f)
	}
	// Fail closed: nothing but a verification with every check good accepts.
	if len(r.faults) == 0 && (r.verified == nil || !r.verified.Genuine) {
		r.faults = append(r.faults, fault.New(fault.ExitRefused, "snp.refused", "report this: a refusal without a failed check", "report is not genuine"))
	}
	r.Accepted = len(r.faults) == 0
}

// write writes the report and returns what decides the exit code.
func (r *snpReport) write(w io.Writer, asJSON bool) error {
	return writeReport(w, asJSON, r, r.text, r.faults)
}

// text is the report for a person: the verdict, what failed and what to do,
// then what was found.
func (r *snpReport) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	what := "SEV-SNP report"
	if r.Version > 0 {
		what = fmt.Sprintf("SEV-SNP report v%d, %s, %s", r.Version, orNone(string(r.Product)), r.Signer)
		what = strings.Replace(what, ", none,", ", product not known,", 1)
	}
	verdict := "refused"
	if r.Accepted {
		verdict = "accepted"
	}
	line("%s: %s", verdict, what)
	if r.Roots != "amd" {
		line("warning: trusting custom root certificates, not AMD's")
	}
	writeFailures(&b, r.Checks)
	if r.verified == nil {
		return b.String()
	}
	line("")
	if !r.verified.Genuine {
		line("what follows is the report's own word: nothing vouches for it")
	}
	line("%-14s %s", "tcb", r.TCB.Reported)
	if r.TCB.Current != r.TCB.Reported || r.TCB.Committed != r.TCB.Reported || r.TCB.Launch != r.TCB.Reported {
		line("%-14s %s", "  current", r.TCB.Current)
		line("%-14s %s", "  committed", r.TCB.Committed)
		line("%-14s %s", "  at launch", r.TCB.Launch)
	}
	line("%-14s %s, committed %s", "firmware", r.Firmware.Current, r.Firmware.Committed)
	line("%-14s VMPL %d, SVN %d, debug %t, migration agent %t", "guest", r.VMPL, r.GuestSVN, r.Debug, r.Policy.MigrationAgent)
	if r.Certificate.CSP != "" {
		line("%-14s %s", "provider", plain(r.Certificate.CSP))
	}
	if r.CRL != nil {
		line("%-14s number %s, next update %s", "crl", r.CRL.Number, r.CRL.NextUpdate.Format(time.RFC3339))
	} else {
		line("%-14s none", "crl")
	}
	for _, name := range []string{"launch_digest", "host_data", "report_data", "family_id", "image_id", "id_key_digest", "author_key_digest", "chip_id"} {
		if v := r.Measurements[name]; strings.Trim(v, "0") != "" {
			line("%-14s %s", name, v)
		}
	}
	return b.String()
}
