// Package audit settles whether a release is what it says: its files, its
// signatures, the transparency log, the registry, the registers that follow
// from the files, a second build and a running machine. In come the files of
// a release (package release) and, where they were given, the auditor's own
// keys and means to ask others; out comes a report with a row for each thing
// that was looked at. Nothing in a release is believed because it stands
// there: every hash is computed from the bytes.
package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
)

// Outcomes of a row.
const (
	Pass = "pass" // looked at and found good
	Fail = "fail" // looked at and found bad
	Skip = "skip" // not looked at; Reason says why
)

// Row is one thing that was looked at.
type Row struct {
	Check    string `json:"check"` // stable dotted text
	Name     string `json:"name"`  // the file, register or event
	Status   string `json:"status"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Reason   string `json:"reason,omitempty"` // what differs, or why it was not looked at
	Means    string `json:"means,omitempty"`  // what that usually means
	Remedy   string `json:"remedy,omitempty"` // what to do

	// Exit is the exit code of a failed row, where the check's name does not
	// say it.
	Exit int `json:"-"`
}

// Report is what an audit found.
type Report struct {
	Passed   bool           `json:"passed"` // no row failed
	Release  string         `json:"release"`
	Time     time.Time      `json:"time"`
	TimeFrom string         `json:"time_from,omitempty"` // who says that it is Time; empty: the auditor
	Manifest *digest.SHA256 `json:"manifest_sha256,omitempty"`
	Image    string         `json:"image,omitempty"` // name and version
	Rows     []Row          `json:"rows"`
}

// Group is a line of the table: what the checks that start with its prefixes
// are about.
type Group struct {
	Title    string
	Prefixes []string
}

// Groups are the lines of the table, in order. Each check belongs to one.
func Groups() []Group {
	return []Group{
		{"artifacts", []string{"artifact."}},
		{"packages and locks", []string{"input."}},
		{"documents", []string{"document."}},
		{"signatures", []string{"manifest."}},
		{"transparency log", []string{"log."}},
		{"registry", []string{"registry."}},
		{"registers of TPM", []string{"register.tpm"}},
		{"registers of TDX", []string{"register.tdx"}},
		{"launch digest of SEV-SNP", []string{"register.snp"}},
		{"rebuild", []string{"rebuild."}},
		{"machine", []string{"machine."}},
	}
}

// Of returns the rows of a group.
func (g Group) Of(rows []Row) []Row {
	var out []Row
	for _, r := range rows {
		if slices.ContainsFunc(g.Prefixes, func(p string) bool { return strings.HasPrefix(r.Check, p) }) {
			out = append(out, r)
		}
	}
	return out
}

// Status returns ✗ if a row failed, – if none passed, else ✓.
func Status(rows []Row) string {
	passed := false
	for _, r := range rows {
		switch r.Status {
		case Fail:
			return "✗"
		case Pass:
			passed = true
		}
	}
	if passed {
		return "✓"
	}
	return "–"
}

// Failed returns the rows that failed.
func (r *Report) Failed() []Row {
	var out []Row
	for _, row := range r.Rows {
		if row.Status == Fail {
			out = append(out, row)
		}
	}
	return out
}

// policyChecks are those that compare good documents with what somebody
// accepts; every other is one of cryptography or binding (DESIGN section 8).
var policyChecks = []string{"registry.manifest", "registry.model", "manifest.sunset", "manifest.debug"}

// unreachable ends the name of a check that failed because somebody could not
// be asked.
const unreachable = ".unreachable"

// Err returns nil if no row failed, else a fault for each that did.
func (r *Report) Err() error {
	var errs []error
	for _, row := range r.Failed() {
		exit := fault.ExitRefused
		switch {
		case row.Exit != 0:
			exit = row.Exit
		case strings.HasSuffix(row.Check, unreachable):
			exit = fault.ExitNetwork
		case slices.ContainsFunc(policyChecks, func(p string) bool { return strings.HasPrefix(row.Check, p) }):
			exit = fault.ExitPolicy
		}
		errs = append(errs, &fault.Fault{Code: "audit." + row.Check, Exit: exit, Msg: row.Name + ": " + row.Reason,
			Expected: row.Expected, Actual: row.Actual, Remedy: row.Remedy})
	}
	return joinFaults(errs)
}

// Manifests is what a registry says about manifests and models.
type Manifests struct {
	Address   string
	NetworkID int32
	Time      time.Time // of the block that proves it
	State     string    // of this manifest: "active", "grace", "revoked", "" where it is not listed
	Until     time.Time // end of the grace, zero: none
	Models    map[digest.SHA256]bool
}

// Compared is one artifact of a rebuild.
type Compared struct {
	File     string `json:"file"`
	Released string `json:"released"` // SHA-256
	Rebuilt  string `json:"rebuilt"`
	Because  string `json:"because,omitempty"` // what is known of the cause
}

// Options of an audit. What is nil is not looked at, and its row says so.
type Options struct {
	Source  Source // the release
	Name    string // of the release, for the report
	Now     time.Time
	NowFrom string         // who says so; empty: the auditor
	Trust   *release.Trust // the auditor's own; nil: the release's word is shown, not taken
	Earlier []byte         // a checkpoint that the auditor kept, a signed note
	// Consistency proves the log's consistency from a checkpoint, by the log
	// itself; nil: only the proof in the release is there.
	Consistency func(ctx context.Context, earlier []byte) ([]byte, error)
	Registry    func(ctx context.Context, v *manifest.Verified) (*Manifests, error)
	Rebuild     func(ctx context.Context) ([]Compared, error)
	Machine     func(ctx context.Context, v *manifest.Verified) ([]Row, error)
}

// Run makes every check that it can.
func Run(ctx context.Context, o Options) (*Report, error) {
	a := &audit{o: &o, r: &Report{Release: o.Name, Time: o.Now.UTC().Truncate(time.Second), TimeFrom: o.NowFrom}}
	var err error
	if a.files, err = o.Source.Files(); err != nil {
		return nil, fmt.Errorf("listing release: %w", err)
	}
	if !slices.ContainsFunc(a.files, func(f File) bool { return f.Name == release.ManifestFile }) {
		return nil, fault.New(fault.ExitParse, "audit.release", "give the directory that make release wrote, or a saved bundle", "auditing %s: it has no %s", o.Name, release.ManifestFile)
	}
	a.readManifest()
	if a.v != nil {
		a.r.Manifest, a.r.Image = &a.v.SHA256, fmt.Sprintf("%s %d", a.v.Manifest.Image.Name, a.v.Manifest.Image.Version)
		if err := a.checkFiles(ctx); err != nil {
			return nil, err
		}
		a.checkDocuments()
		a.checkLog(ctx)
		a.checkRegistry(ctx)
		a.checkRegisters()
		a.checkRebuild(ctx)
		a.checkMachine(ctx)
	}
	a.r.Passed = len(a.r.Failed()) == 0
	return a.r, ctx.Err()
}

// audit collects the rows of one run.
type audit struct {
	o     *Options
	r     *Report
	files []File
	v     *manifest.Verified
	own   *release.Trust // as the release states it; nil: unreadable
	bad   map[string]bool
}

func (a *audit) add(r Row) { a.r.Rows = append(a.r.Rows, r) }

func (a *audit) pass(check, name, actual string) {
	a.add(Row{Check: check, Name: name, Status: Pass, Actual: actual})
}

func (a *audit) skip(check, name, reason, remedy string) {
	a.add(Row{Check: check, Name: name, Status: Skip, Reason: reason, Remedy: remedy})
}

// verdict adds a row that passes if the two are equal.
func (a *audit) equal(r Row) {
	r.Status = Pass
	if r.Expected != r.Actual {
		r.Status = Fail
	} else {
		r.Expected, r.Reason, r.Means, r.Remedy = "", "", "", ""
	}
	a.add(r)
}

// read reads a whole file of at most max bytes; a row reports what is wrong.
func (a *audit) read(check, name string, max int64) ([]byte, bool) {
	b, err := ReadAll(a.o.Source, name, max)
	if err != nil {
		a.add(Row{Check: check, Name: name, Status: Fail, Reason: "cannot be read: " + oneLine(err), Means: "the release is incomplete", Remedy: "fetch the release again"})
		return nil, false
	}
	return b, true
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
