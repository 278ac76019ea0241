package demo

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cocoon/client"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// Verification is what Verify found.
type Verification struct {
	Accepted bool    `json:"accepted"`
	Checks   []Check `json:"checks"`
}

// Check is one link of the chain that was looked at again.
type Check struct {
	ID     string `json:"id"`
	Status string `json:"status"` // pass or fail
	Shown  string `json:"shown,omitempty"`
	Fault  string `json:"fault,omitempty"`
}

// Text returns what a person reads of the check.
func (c Check) Text() string {
	if c.Fault != "" {
		return c.Fault
	}
	return c.Shown
}

// kept is a run's directory, read again.
type kept struct {
	dir   string
	rep   Report
	trust *client.Trust
	at    time.Time // of the verdict
	ev    *evidence.Evidence
	res   *result.Result
	key   ed25519.PublicKey // the verifier's
	found Verification
	errs  []error
}

// Verify checks a run's directory again, from its files alone. The error
// carries every fault.
func Verify(dir string) (*Verification, error) {
	k := &kept{dir: dir}
	for _, step := range []struct {
		id  string
		run func() (string, error)
		// fatal steps are those without which the others mean nothing
		fatal bool
	}{
		{"files", k.files, false},
		{"report", k.report, true},
		{"manifest", k.manifest, true},
		{"evidence", k.evidence, true},
		{"registers", k.registers, false},
		{"verdict", k.verdict, false},
		{"log", k.log, false},
		{"live", k.live, false},
		{"refusals", k.refusals, false},
		{"registry", k.registry, false},
		{"job", k.job, false},
		{"receipt", k.receipt, false},
		{"redemption", k.redemption, false},
	} {
		shown, err := step.run()
		c := Check{ID: step.id, Status: "pass", Shown: shown}
		if err != nil {
			c.Status, c.Shown, c.Fault = "fail", "", err.Error()
			k.errs = append(k.errs, fmt.Errorf("%s: %w", step.id, err))
		}
		k.found.Checks = append(k.found.Checks, c)
		if err != nil && step.fatal {
			break
		}
	}
	k.found.Accepted = len(k.errs) == 0
	return &k.found, errors.Join(k.errs...)
}

func (k *kept) read(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil {
		return nil, fault.New(fault.ExitParse, "demo.file.missing", "run make demo again", "reading what was kept: %w", err)
	}
	if len(b) > maxFile {
		return nil, fault.New(fault.ExitParse, "demo.file.too_large", "run make demo again", "reading %s: %d bytes", name, len(b))
	}
	return b, nil
}

// want refuses a report that says something else than the files show.
func want(what, said, shown string) error {
	if said == shown {
		return nil
	}
	return fault.Mismatch(fault.ExitRefused, "demo.report", "the report's "+what, shown, said, "run make demo again")
}

func (k *kept) files() (string, error) {
	names, err := keptFiles(k.dir)
	return fmt.Sprintf("%d files are as listed", len(names)), errors.Join(append(checkSums(k.dir), err)...)
}

func (k *kept) report() (string, error) {
	b, err := k.read(fileReport)
	if err != nil {
		return "", err
	}
	if err := jcs.Decode(b, 4<<20, &k.rep); err != nil {
		return "", fault.New(fault.ExitParse, "demo.report", "run make demo again", "reading report: %w", err)
	}
	return fmt.Sprintf("version %d, accelerator %s, %s", k.rep.Version, k.rep.Accelerator, k.rep.TrustClass),
		errors.Join(want("notice", k.rep.Notice, Notice), want("trust class", k.rep.TrustClass, policy.ClassVTPM))
}

func (k *kept) manifest() (string, error) {
	env, err := k.read(fileManifest)
	if err != nil {
		return "", err
	}
	m, err := openManifest(env, k.rep.ManifestSHA256)
	if err != nil {
		return "", err
	}
	b, err := k.read(fileCPolicy)
	if err != nil {
		return "", err
	}
	p, err := policy.Parse(b)
	if err != nil {
		return "", err
	}
	k.trust = &client.Trust{Policy: p, Manifests: []manifest.Published{{Envelope: env}}}
	return fmt.Sprintf("%s is %s version %d", short(k.rep.ManifestSHA256.String()), m.Manifest.Image.Name, m.Manifest.Image.Version), nil
}

// appraise holds evidence against policy and manifest as they were at the
// time of the verdict.
func (k *kept) appraise(name string, at time.Time) (*evidence.Evidence, *result.Result, error) {
	b, err := k.read(name)
	if err != nil {
		return nil, nil, err
	}
	ev, err := evidence.Parse(b)
	if err != nil {
		return nil, nil, fault.New(fault.ExitParse, "evidence.parse", "run make demo again", "%w", err)
	}
	res, err := k.result(ev, at)
	return ev, res, err
}

func (k *kept) evidence() (string, error) {
	var err error
	if k.at, _, err = k.verdictTime(); err != nil {
		return "", err
	}
	if k.ev, k.res, err = k.appraise(fileEvidence, k.at); err != nil {
		return "", err
	}
	if err := k.res.Err(); err != nil {
		return "", err
	}
	return fmt.Sprintf("accepted as of %s, %d checks", k.at.Format(time.RFC3339), len(k.res.Checks())),
		want("evidence hash", k.rep.Verdict.EvidenceSHA256.String(), k.res.EvidenceSHA256.String())
}

func (k *kept) registers() (string, error) {
	env, err := k.read(fileManifest)
	if err != nil {
		return "", err
	}
	rows, err := pcrTable(env, k.rep.ManifestSHA256, k.ev, k.res)
	if err != nil {
		return "", err
	}
	if !slices.Equal(rows, k.rep.PCRs) {
		return "", fault.New(fault.ExitRefused, "demo.report", "run make demo again", "the report's registers are not those of evidence and manifest")
	}
	for _, r := range rows {
		if r.Predicted != "" && r.Predicted != r.Measured {
			return "", fault.Mismatch(fault.ExitRefused, "demo.pcr", fmt.Sprintf("PCR %d", r.Index), r.Predicted, r.Measured, "see "+fileEvidence)
		}
	}
	return fmt.Sprintf("%d registers measured as predicted", len(rows)-1), nil
}

func (k *kept) verdict() (string, error) {
	_, ear, err := k.verdictTime()
	if err != nil {
		return "", err
	}
	n := 0
	for _, s := range ear.Submods {
		n += len(s.Checks())
	}
	return fmt.Sprintf("%s, trust class %s, %d checks, signed by the verifier", ear.Status(), ear.TrustClass, n), errors.Join(
		want("verdict status", k.rep.Verdict.Status, string(ear.Status())),
		want("verdict trust class", k.rep.Verdict.TrustClass, ear.TrustClass),
		want("verdict's evidence", k.rep.Verdict.EvidenceSHA256.String(), ear.EvidenceSHA256.String()),
	)
}

// refusals refuses everything again that the run refused.
func (k *kept) refusals() (string, error) {
	var errs []error
	for _, f := range k.rep.Refusals {
		switch f.Case {
		case "root":
			log, err := k.read(filepath.Join(dirRefusals, "root.console.log"))
			if err == nil {
				var code string
				code, err = judgeConsole(log)
				errs = append(errs, want("code of root", f.Code, code))
			}
			errs = append(errs, err)
		case "verdict_expired":
			errs = append(errs, k.expired(f))
		default:
			_, res, err := k.appraise(filepath.Join(dirRefusals, f.Case+".evidence.json"), k.at.Add(time.Minute))
			if err != nil {
				errs = append(errs, err)
				continue
			}
			c := primary(res.Failed())
			if c == nil {
				errs = append(errs, fault.New(fault.ExitRefused, "demo.not_refused", "this is a serious defect; please report it", "evidence of case %s is not refused", f.Case))
				continue
			}
			errs = append(errs, want("code of "+f.Case, f.Code, c.ID), want("expected value of "+f.Case, f.Expected, c.Expected), want("actual value of "+f.Case, f.Actual, c.Actual))
		}
	}
	var enrol Refusal
	b, err := k.read(fileEnrolment)
	if err == nil {
		err = json.Unmarshal(b, &enrol)
	}
	errs = append(errs, err)
	for _, f := range k.rep.AlsoRefused {
		if f.Case == enrolmentCase.name {
			errs = append(errs, want("code of "+f.Case, f.Code, enrol.Code))
		}
	}
	return fmt.Sprintf("%d changed runs are refused again, with the same codes and values", len(k.rep.Refusals)), errors.Join(errs...)
}
