package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/compare"
	"cocoon/measurements/manifest"
)

// diffReport is what "cocoon measure diff" writes.
type diffReport struct {
	A           string               `json:"a"`
	B           string               `json:"b"`
	Differences []compare.Difference `json:"differences"`
}

// newMeasureDiffCmd compares two measurements.
func newMeasureDiffCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "say which registers of two measurements differ, and through which component",
		Long: `Compare two of: the JSON of cocoon measure mrtd, rtmr, snp, pcr or image, a
manifest, an event log of a TPM or a TD. Each register that differs is printed
with the components that make it differ. Exit code 2 says that something does.

A manifest is read, not verified: its signatures are a matter of policy.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, aerr := readSnapshot(args[0])
			b, berr := readSnapshot(args[1])
			if err := errors.Join(aerr, berr); err != nil {
				return err
			}
			r := &diffReport{args[0], args[1], compare.Diff(a, b)}
			var err error
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), r)
			} else {
				err = r.write(cmd.OutOrStdout())
			}
			if err == nil && len(r.Differences) > 0 {
				err = reported(fault.New(fault.ExitRefused, "measure.differs", "", "%d registers differ", len(r.Differences)))
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON")
	return cmd
}

// readSnapshot reads any of the documents that can be compared.
func readSnapshot(path string) (*compare.Snapshot, error) {
	b, err := readInput("measurement", path, compare.MaxSnapshot)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		l, kind, err := parseLog(b, "")
		if err != nil {
			return nil, err
		}
		return compare.OfLog(l, kind, nil)
	}
	var doc struct {
		PayloadType string `json:"payloadType"`
		compare.Snapshot
		Reports []compare.Snapshot `json:"reports"`
	}
	err = json.Unmarshal(b, &doc)
	switch {
	case err == nil && doc.PayloadType != "":
		v, err := manifest.Read(bytes.TrimSpace(b), nil)
		if err != nil {
			return nil, fault.New(fault.ExitParse, "measure.manifest", "give a manifest as it was published", "reading %s: %w", path, err)
		}
		return compare.OfManifest(v.Manifest), nil
	case err == nil && doc.Registers != nil:
		return &doc.Snapshot, nil
	case err == nil && len(doc.Reports) == 1:
		return &doc.Reports[0], nil
	case err == nil:
		err = errors.New("it has no registers, or those of several firmwares")
	}
	return nil, fault.New(fault.ExitParse, "measure.snapshot", "give the JSON of cocoon measure, a manifest or an event log", "reading %s: %w", path, err)
}

func (r *diffReport) write(w io.Writer) error {
	var b strings.Builder
	if len(r.Differences) == 0 {
		fmt.Fprintf(&b, "same: no register and no component differs\n")
	}
	for _, d := range r.Differences {
		fmt.Fprintf(&b, "✗ %s\n    a %s\n    b %s\n", plain(d.Register), orDash(d.A), orDash(d.B))
		for _, c := range d.Causes {
			from := ""
			if c.Source != "" {
				from = " from " + c.Source
			}
			fmt.Fprintf(&b, "    because %s%s: a %s, b %s\n", plain(c.Component), plain(from), orDash(c.A), orDash(c.B))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return plain(s)
}
