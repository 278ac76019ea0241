package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/boot"
	"cocoon/measurements/eventlog"
)

// explainReport is what "cocoon measure explain" writes.
type explainReport struct {
	Events []boot.Event      `json:"events"` // predicted
	Log    *boot.Explanation `json:"log,omitempty"`
}

// newMeasureExplainCmd says which file makes which event makes which register.
func newMeasureExplainCmd() *cobra.Command {
	f := &bootFlags{}
	var log, kind string
	cmd := &cobra.Command{
		Use:   "explain --firmware FILE --image DIR [--log FILE]",
		Short: "say which file makes which event makes which register",
		Long: `List the events of a boot in order: the registers that each is extended into, the
component that it measures and the file that this comes from.

With --log, hold a real event log against them: a TPM's, or a TD's CCEL. Every
event is explained by a component, belongs to the host, or is unexplained; exit
code 2 says that one is unexplained or missing. The log itself is proven only by
a quote.`,
		Example: `  cocoon measure explain --firmware OVMF.fd --image build/image
  cocoon measure explain --firmware OVMF.fd --image build/image --log binary_bios_measurements`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.read()
			if err != nil {
				return err
			}
			r := &explainReport{Events: p.events}
			if log != "" {
				l, k, err := readLog(log, kind)
				if err != nil {
					return err
				}
				if r.Log, err = boot.Explain(l, k, p.events); err != nil {
					return fault.New(fault.ExitParse, "measure.log", "give a log with SHA-256 or SHA-384 digests", "%w", err)
				}
			}
			if err = f.save(cmd.OutOrStdout(), r, r.write); err != nil || r.Log == nil || r.Log.OK() {
				return err
			}
			return fault.New(fault.ExitRefused, "measure.unexplained", "compare the lines above with the files that were booted",
				"explaining event log: %d events are unexplained, %d are missing", len(r.Log.Unexplained()), len(r.Log.Missing))
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&log, "log", "", "event log `file`")
	cmd.Flags().StringVar(&kind, "log-kind", "", "`tpm or tdx`; found out without it")
	return cmd
}

// readLog reads an event log of either kind. A CCEL names registers 1 to 4 and
// is padded; a TPM's log names PCR 0 first.
func readLog(path, kind string) (*eventlog.Log, boot.Kind, error) {
	b, err := readInput("--log", path, eventlog.MaxSize)
	if err != nil {
		return nil, "", err
	}
	return parseLog(b, kind)
}

func parseLog(b []byte, kind string) (*eventlog.Log, boot.Kind, error) {
	tpm, terr := eventlog.ParseTPM(b)
	td, derr := eventlog.ParseCCEL(b)
	switch {
	case kind == string(boot.KindTPM) && terr == nil, kind == "" && terr == nil && derr != nil:
		return tpm, boot.KindTPM, nil
	case kind == string(boot.KindTD) && derr == nil, kind == "" && derr == nil && terr != nil:
		return td, boot.KindTD, nil
	case kind == "" && terr == nil && derr == nil:
		return nil, "", fault.New(fault.ExitParse, "measure.log", "give --log-kind tpm or tdx", "reading event log: it could be either kind")
	case kind == string(boot.KindTD):
		terr = derr
	}
	return nil, "", fault.New(fault.ExitParse, "measure.log", "give a binary_bios_measurements or a CCEL", "%w", terr)
}

func (r *explainReport) write(w io.Writer) error {
	var b strings.Builder
	if r.Log == nil {
		fmt.Fprintf(&b, "%-7s %-6s %-34s %-50s %-24s %s\n", "PCR", "RTMR", "EVENT", "COMPONENT", "FROM", "SHA-256")
		for _, e := range r.Events {
			d := "depends on the host"
			if e.Digests != nil {
				d = e.Digests.SHA256.String()
			}
			fmt.Fprintf(&b, "%-7s %-6s %-34s %-50.60s %-24.40s %s\n", number("PCR ", e.PCR), number("RTMR", e.RTMR), e.Type, e.Component, plain(e.Source), d)
		}
	} else {
		prefix := map[boot.Kind]string{boot.KindTPM: "PCR ", boot.KindTD: "RTMR"}[r.Log.Kind]
		mark := map[string]string{boot.Explained: "✓", boot.FromHost: "–", boot.Unexplained: "✗"}
		for _, e := range r.Log.Events {
			what := e.Component
			if e.Source != "" {
				what += " (" + e.Source + ")"
			}
			if e.Status == boot.Unexplained {
				what = "unexplained"
				if e.Label != "" {
					what += ": " + e.Label
				}
				if e.InsteadOf != "" {
					what += ", where " + e.InsteadOf + " was expected"
				}
			}
			fmt.Fprintf(&b, "%s %-6s %-34s %.16s… %s\n", mark[e.Status], number(prefix, e.Register), e.Type, e.Digest, plain(what))
		}
		for _, e := range r.Log.Missing {
			fmt.Fprintf(&b, "✗ %-6s %-34s %s is missing\n", number("PCR ", e.PCR), e.Type, plain(e.Component))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func number(prefix string, n int) string {
	if n == boot.NoRegister {
		return "–"
	}
	return fmt.Sprintf("%s%d", prefix, n)
}
