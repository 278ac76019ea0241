package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/audit"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/release"
	"cocoon/verifier/evidence"
)

// auditFlags are the flags of "cocoon audit".
type auditFlags struct {
	trustFlags
	rebuild      bool
	machine      string
	policy       string
	ton          string
	registry     string
	earlier, log string
	save, at     string
	json         bool
	timeout      time.Duration

	saved map[string][]byte // what was seen outside the release, for --save
}

func newAuditCmd() *cobra.Command {
	f := &auditFlags{saved: map[string][]byte{}}
	cmd := &cobra.Command{
		Use:   "audit RELEASE",
		Short: "settle whether source, release, log, registry and a machine are the same thing",
		Long: `Looks at everything that a release claims and prints one line for each: ✓ checked
and good, ✗ bad, – not checked, with the reason. RELEASE is the directory that
"make release" wrote, or a bundle that --save made. Nothing is believed because
it stands in the release: hashes and registers are computed from its bytes, and
whose signatures count is yours to say (--trust).

--ton-config and --registry ask the ledger; --machine holds a running machine's
evidence against the manifest: a file of evidence, gateway://HOST:PORT[/KEY] for
a worker behind a gateway, or an http(s) URL of a verifier or of "cocoon proxy"
(/cocoon/worker). --rebuild builds the image again from the release's own
packages, in this repository, and needs root.

Exit codes: 0 nothing is bad; 1 usage; 2 something does not fit, is not signed or
not logged; 3 somebody could not be asked; 4 refused by registry or policy alone;
5 not a release.`,
		Example: `  cocoon audit build/release --trust keys.json
  cocoon audit build/release --trust keys.json --ton-config global.config.json --registry 0:4bd1… --save release.tar
  cocoon audit build/release --trust keys.json --rebuild`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runAudit(cmd, args[0], f) },
	}
	f.trustFlags.register(cmd)
	fs := cmd.Flags()
	fs.BoolVar(&f.rebuild, "rebuild", false, "build the image again and compare every byte")
	fs.StringVar(&f.machine, "machine", "", "evidence `file`, or `URL` of a worker or verifier")
	fs.StringVar(&f.policy, "policy", "", "policy `file` for the machine; without it one for production hardware")
	fs.StringVar(&f.ton, "ton-config", "", "the network's global.config.json `file` (with --registry)")
	fs.StringVar(&f.registry, "registry", "", "`address` of the registry that should list the manifest")
	fs.StringVar(&f.earlier, "earlier", "", "`file` with a checkpoint of the log that you kept")
	fs.StringVar(&f.log, "log", "", "`directory` of the log, or a copy of it, to prove --earlier by")
	fs.StringVar(&f.save, "save", "", "write the release, and what was seen outside it, into one `file` that can be audited offline")
	fs.StringVar(&f.at, "at", "", "judge at this `time`, RFC 3339 or Unix seconds; without it now, or when the bundle was saved")
	fs.DurationVar(&f.timeout, "timeout", time.Minute, "give up asking others after this `time`")
	fs.BoolVar(&f.json, "json", false, "write the report as JSON")
	cmd.MarkFlagsRequiredTogether("ton-config", "registry")
	return cmd
}

// savedTime is where a bundle says when it was saved.
const savedTime = release.SavedDir + "/time"

func runAudit(cmd *cobra.Command, name string, f *auditFlags) (err error) {
	src, err := audit.OpenSource(name)
	if err != nil {
		return fault.New(fault.ExitParse, "audit.release", "give the directory that make release wrote, or a saved bundle", "%w", err)
	}
	defer src.Close()
	o, err := f.options(cmd, src, name)
	if err != nil {
		return err
	}
	if err := announce(cmd.ErrOrStderr(), src, f.rebuild); err != nil {
		return err
	}
	r, err := audit.Run(cmd.Context(), *o)
	if err != nil {
		return err
	}
	if f.save != "" {
		if err := f.writeBundle(src, o.Now); err != nil {
			return err
		}
	}
	if f.json {
		if err := writeJSON(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	} else if err := writeAudit(cmd.OutOrStdout(), r); err != nil {
		return err
	}
	return reported(r.Err())
}

// Speeds that the announcement goes by: what was measured on a machine with
// two slow cores, so that others finish earlier.
const (
	hashSpeed    = 100 << 20 // bytes a second, both cores together
	rebuildTime  = 20 * time.Minute
	rebuildBytes = 3 << 30
)

// announce says how long the audit takes, and how much disk, before it starts.
func announce(w io.Writer, src audit.Source, rebuild bool) error {
	files, err := src.Files()
	if err != nil {
		return fault.New(fault.ExitParse, "audit.release", "give the directory that make release wrote", "%w", err)
	}
	var total int64
	for _, f := range files {
		total += f.Size
	}
	took, disk := time.Duration(total/hashSpeed+2)*time.Second, int64(0)
	if rebuild {
		took, disk = took+rebuildTime, rebuildBytes
	}
	_, err = fmt.Fprintf(w, "auditing %d files, %d MB: at most about %s and %d MB of disk\n", len(files), total>>20, took, disk>>20)
	return err
}

func (f *auditFlags) options(cmd *cobra.Command, src audit.Source, name string) (*audit.Options, error) {
	o := &audit.Options{Source: src, Name: name}
	var err error
	if o.Trust, err = f.trustFlags.read(); err != nil {
		return nil, err
	}
	at := f.at
	if b, err := audit.ReadSaved(src, savedTime, 64); at == "" && err == nil {
		at, o.NowFrom = strings.TrimSpace(string(b)), "bundle"
	}
	if o.Now, err = parseAt(at); err != nil {
		return nil, err
	}
	if f.earlier != "" {
		if o.Earlier, err = readInput("--earlier", f.earlier, log.MaxCheckpoint); err != nil {
			return nil, err
		}
	}
	if f.log != "" {
		l, err := tiles.Open(f.log)
		if err != nil {
			return nil, logFault(err)
		}
		o.Consistency = func(ctx context.Context, earlier []byte) ([]byte, error) {
			p, err := l.ProveConsistency(ctx, earlier)
			if err != nil {
				return nil, err
			}
			return p.Text(), nil
		}
	}
	if f.registry != "" {
		if o.Registry, err = f.registryOf(src, o.Now); err != nil {
			return nil, err
		}
	}
	if f.machine != "" || hasSaved(src, savedEvidence) {
		if o.Machine, err = f.machineOf(src, o.Now); err != nil {
			return nil, err
		}
	}
	if f.rebuild {
		if st, err := os.Stat(name); err != nil || !st.IsDir() {
			return nil, usage("--rebuild needs the release as a directory; unpack the bundle with tar")
		}
		o.Rebuild = func(ctx context.Context) ([]audit.Compared, error) { return rebuild(ctx, name, cmd.ErrOrStderr()) }
	}
	return o, nil
}

func hasSaved(src audit.Source, name string) bool {
	_, err := audit.ReadSaved(src, name, evidence.MaxEvidence)
	return err == nil
}

// writeBundle saves the release with what was seen. A file that is there is
// not replaced.
func (f *auditFlags) writeBundle(src audit.Source, now time.Time) error {
	f.saved[savedTime] = []byte(now.UTC().Format(time.RFC3339) + "\n")
	out, err := os.OpenFile(f.save, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fault.New(fault.ExitInternal, "file.unwritable", "give a file that does not exist yet", "saving bundle: %w", err)
	}
	err = audit.Save(out, src, f.saved)
	if e := out.Close(); err == nil && e != nil {
		err = fmt.Errorf("saving bundle: %w", e)
	}
	return err
}

// writeAudit writes a report for a person: the verdict, the table, and under
// each ✗ what differs, what that usually means, and what to do.
func writeAudit(w io.Writer, r *audit.Report) error {
	p := &printer{w: w}
	failed := r.Failed()
	switch {
	case len(failed) > 0:
		p.f("✗ %d of %d checks failed: %s", len(failed), len(r.Rows), plain(r.Release))
	default:
		p.f("✓ nothing is bad: %s", plain(r.Release))
	}
	if r.Manifest != nil {
		p.f("  %s, manifest %s", plain(r.Image), r.Manifest)
	}
	from := ""
	if r.TimeFrom != "" {
		from = ", when the " + r.TimeFrom + " says that it was saved; --at judges at another time"
	}
	p.f("  as of %s%s", r.Time.Format(time.RFC3339), from)
	p.f("")
	for _, g := range audit.Groups() {
		rows := g.Of(r.Rows)
		good := 0
		var why *audit.Row
		for _, row := range rows {
			if row.Status == audit.Pass {
				good++
			}
			if row.Status == audit.Skip && why == nil {
				why = &row
			}
		}
		switch s := audit.Status(rows); {
		case len(rows) == 0:
			p.f("– %-26s not reached", g.Title)
		case s == "–":
			p.f("– %-26s %s", g.Title, plain(why.Reason))
			if why.Remedy != "" {
				p.f("      hint: %s", plain(why.Remedy))
			}
			continue
		case good < len(rows):
			p.f("%s %-26s %d of %d", s, g.Title, good, len(rows))
		default:
			p.f("%s %-26s %d", s, g.Title, good)
		}
		for _, row := range rows {
			writeRow(p, row)
		}
	}
	return p.err
}

// writeRow writes what is not good of a row.
func writeRow(p *printer, row audit.Row) {
	switch row.Status {
	case audit.Fail:
		p.f("    ✗ %s: %s [%s]", plain(row.Name), plain(row.Reason), row.Check)
		if row.Expected != "" || row.Actual != "" {
			p.f("      expected %s", plain(row.Expected))
			p.f("      actual   %s", plain(row.Actual))
		}
		if row.Means != "" {
			p.f("      usually: %s", plain(row.Means))
		}
	case audit.Skip:
		p.f("    – %s: %s [%s]", plain(row.Name), plain(row.Reason), row.Check)
	default:
		return
	}
	if row.Remedy != "" {
		p.f("      hint: %s", plain(row.Remedy))
	}
}
