package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/services"
)

// gpuRIMFlags are the flags of "cocoon gpu rim".
type gpuRIMFlags struct {
	rimFlags
	arch, chip, board, export string
	json                      bool
}

func newGPURIMCmd() *cobra.Command {
	f := &gpuRIMFlags{}
	cmd := &cobra.Command{
		Use:   "rim DRIVER [VBIOS] [--board PROJECT/SKU/CHIP] [--rim-service URL]",
		Short: "say whether reference measurements exist for a driver and VBIOS",
		Long: `Asks NVIDIA's RIM service, or a cache of it, whether it has reference
measurements for a driver and a VBIOS, and verifies them. Without them the
attestation of a GPU fails. Where there are none it says which versions near
it have some.

A VBIOS is made for one board, which is named by project, project SKU and chip
SKU as the GPU's report has them. Without it all boards with this VBIOS are
looked at.

Exit codes: 0 there are; 6 there are none; 2 there are, but they do not verify
or their signer has expired; 3 network.`,
		Example: `  cocoon gpu rim 550.90.07 96.00.9F.00.01 --board 1010/0200/882
  cocoon gpu rim 590.48.01 97.00.D9.00.35 --json
  cocoon gpu rim 550.90.07 --arch hopper --offline --bundle rims.json`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return runGPURIM(cmd, f, args) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.arch, "arch", "", "the `architecture`, hopper or blackwell (default: what the VBIOS says)")
	fs.StringVar(&f.chip, "chip", "", "CHIP_INFO of a Blackwell GPU's report, a `name` (default GB100)")
	fs.StringVar(&f.board, "board", "", "the board that the VBIOS is for, `PROJECT/SKU/CHIP` such as 1010/0200/882")
	fs.StringVar(&f.export, "export", "", "write what was found to this bundle `file`, for machines without a network")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	f.register(cmd)
	return cmd
}

// query reads the arguments.
func (f *gpuRIMFlags) query(args []string) (services.Query, error) {
	q := services.Query{Arch: strings.ToLower(f.arch), Chip: f.chip, Driver: args[0]}
	if len(args) > 1 {
		q.VBIOS = args[1]
	}
	if q.Arch == "" {
		switch {
		case strings.HasPrefix(q.VBIOS, "96."):
			q.Arch = rim.Hopper
		case strings.HasPrefix(q.VBIOS, "97."):
			q.Arch = rim.Blackwell
		default:
			return q, usage("the VBIOS does not say which architecture it is for: name it with --arch")
		}
	}
	if q.Arch != rim.Hopper && q.Arch != rim.Blackwell {
		return q, usage("reading --arch %q: neither hopper nor blackwell", f.arch)
	}
	if f.board != "" {
		p := strings.Split(f.board, "/")
		if len(p) != 3 || p[0] == "" || p[1] == "" || p[2] == "" {
			return q, usage("reading --board %q: not PROJECT/SKU/CHIP", f.board)
		}
		q.Board = &services.Board{Project: p[0], ProjectSKU: p[1], ChipSKU: p[2]}
	}
	return q, nil
}

func runGPURIM(cmd *cobra.Command, f *gpuRIMFlags, args []string) error {
	q, err := f.query(args)
	if err != nil {
		return err
	}
	now, err := f.now()
	if err != nil {
		return err
	}
	c, err := f.client(cmd.ErrOrStderr(), now)
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := c.Preflight(cmd.Context(), q)
	if err == nil && f.export != "" {
		ids := []string{p.Driver.ID}
		if p.VBIOS != nil && p.VBIOS.ID != "" {
			ids = append(ids, p.VBIOS.ID)
		} else if p.VBIOS != nil {
			ids = append(ids, p.VBIOS.Boards...)
		}
		if err := exportBundle(cmd.Context(), c, f.export, ids); err != nil {
			return err
		}
	}
	write := writePreflight
	if f.json {
		write = func(w io.Writer, p *services.Preflight) error { return writeJSON(w, p) }
	}
	if werr := write(cmd.OutOrStdout(), p); werr != nil {
		return werr
	}
	return err
}

func writePreflight(w io.Writer, p *services.Preflight) error {
	var b strings.Builder
	if p.Available {
		fmt.Fprintf(&b, "available: %s GPUs with these versions can be attested\n", p.Arch)
	} else {
		fmt.Fprintf(&b, "not available: the attestation of %s GPUs with these versions would fail\n", p.Arch)
	}
	for _, part := range []struct {
		name string
		f    *services.Found
	}{{"driver", p.Driver}, {"VBIOS", p.VBIOS}} {
		if part.f == nil {
			continue
		}
		state := "no reference measurements"
		if part.f.NotAfter != nil {
			state = "signer's chain valid until " + part.f.NotAfter.UTC().Format(time.RFC3339)
		}
		if part.f.Stale {
			state += ", from a cache: the service did not answer"
		}
		fmt.Fprintf(&b, "  %-6s %s: %s\n", part.name, plain(part.f.Version), state)
		for _, id := range part.f.Boards {
			fmt.Fprintf(&b, "         %s\n", plain(id))
		}
		if len(part.f.Nearest) > 0 {
			fmt.Fprintf(&b, "         have some: %s\n", plain(strings.Join(part.f.Nearest, ", ")))
		}
	}
	if p.VBIOS != nil && len(p.VBIOS.Boards) > 0 {
		b.WriteString("  the VBIOS counts only for the boards listed: name yours with --board\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
