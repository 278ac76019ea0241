package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/result"
)

func newVerifyRIMCmd() *cobra.Command {
	f := &rimFlags{}
	var asJSON, measurements bool
	cmd := &cobra.Command{
		Use:   "rim FILE [--at TIME]",
		Short: "verify a reference integrity manifest of an NVIDIA GPU or switch",
		Long: `Verifies one reference integrity manifest, a signed SWID document as NVIDIA's RIM
service gives it out: form, digest, signature, chain to NVIDIA's root, and that
all certificates are valid at the time. It makes no request.

Exit codes: 0 accepted; 2 refused; 5 not such a document.`,
		Example: `  cocoon verify rim NV_GPU_DRIVER_GH100_550.144.03.xml
  cocoon verify rim driver.swidtag --at 2024-06-01T00:00:00Z --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readInput("FILE", args[0], rim.MaxDocument)
			if err != nil {
				return err
			}
			now, err := f.now()
			if err != nil {
				return err
			}
			roots, err := f.trusted()
			if err != nil {
				return err
			}
			doc, checks, err := rim.Verify(raw, &rim.Options{Roots: roots, Now: now})
			rep := newRIMReport(doc, checks, now)
			write := rep.write
			if asJSON {
				write = func(w io.Writer, _ bool) error { return writeJSON(w, rep) }
			}
			if werr := write(cmd.OutOrStdout(), measurements); werr != nil {
				return werr
			}
			if asJSON {
				return reported(err)
			}
			return err
		},
	}
	f.registerTrust(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON")
	cmd.Flags().BoolVar(&measurements, "measurements", false, "show the active measurements too")
	return cmd
}

// rimReport is what "cocoon verify rim" writes; docs/gpu-rims.md describes it.
type rimReport struct {
	Accepted     bool             `json:"accepted"`
	Time         time.Time        `json:"time"`
	Checks       []result.Check   `json:"checks"`
	Product      string           `json:"product,omitempty"`
	Edition      string           `json:"edition,omitempty"`
	Version      string           `json:"version,omitempty"`
	TagID        string           `json:"tag_id,omitempty"`
	SHA256       string           `json:"sha256,omitempty"`
	Signer       string           `json:"signer,omitempty"`
	NotBefore    *time.Time       `json:"not_before,omitempty"`
	NotAfter     *time.Time       `json:"not_after,omitempty"`
	Measurements []rimMeasurement `json:"measurements,omitempty"` // the active ones
}

type rimMeasurement struct {
	Index        int      `json:"index"` // 0-based; SPDM counts from 1
	Name         string   `json:"name"`
	Alternatives []string `json:"alternatives"`
}

func newRIMReport(d *rim.Document, checks []result.Check, now time.Time) *rimReport {
	rep := &rimReport{Accepted: d != nil, Time: now, Checks: checks}
	if d == nil {
		return rep
	}
	rep.Product, rep.Edition, rep.Version, rep.TagID, rep.Signer = d.Product, d.Edition, d.Version, d.TagID, d.Signer
	rep.SHA256, rep.NotBefore, rep.NotAfter = hex.EncodeToString(d.SHA256[:]), &d.NotBefore, &d.NotAfter
	for _, m := range d.Measurements {
		if !m.Active {
			continue
		}
		r := rimMeasurement{Index: m.Index, Name: m.Name}
		for _, a := range m.Alternatives {
			r.Alternatives = append(r.Alternatives, hex.EncodeToString(a[:]))
		}
		rep.Measurements = append(rep.Measurements, r)
	}
	return rep
}

func (r *rimReport) write(w io.Writer, measurements bool) error {
	var b strings.Builder
	stamp := r.Time.UTC().Format(time.RFC3339)
	if r.Accepted {
		fmt.Fprintf(&b, "accepted at %s: %s %s %s, %d active measurements\n", stamp, plain(r.Product), plain(r.Edition), plain(r.Version), len(r.Measurements))
		fmt.Fprintf(&b, "  signed by %s, chain valid %s to %s\n", plain(r.Signer), r.NotBefore.UTC().Format(time.RFC3339), r.NotAfter.UTC().Format(time.RFC3339))
	} else {
		fmt.Fprintf(&b, "refused at %s\n", stamp)
	}
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "  %-4s %s\n", c.Status, c.ID)
	}
	if measurements {
		for _, m := range r.Measurements {
			fmt.Fprintf(&b, "  %2d %s\n", m.Index, strings.Join(m.Alternatives, "\n     "))
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
