package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/record"
	"cocoon/internal/toolstree"
)

// newMeasureRecordCmd watches a firmware's boot for measurements/pcr.
func newMeasureRecordCmd() *cobra.Command {
	var o record.Options
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "record --image DIR [--firmware OVMF.fd] [-o FILE]",
		Short: "record PCR 0 and 7 of a firmware by booting it",
		Long: `Boot a firmware file twice, in machines of different size, and watch from the
host's side of the TPM what it measures. PCR 0 and 7 must be the same in both;
-o writes them in the form that "cocoon measure" takes with --recorded.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tools, err := toolstree.Find()
			if err != nil {
				return err
			}
			if o.Firmware == "" {
				o.Firmware = tools.OVMF()
			}
			if o.Image, err = filepath.Abs(o.Image); err != nil {
				return fmt.Errorf("resolving image: %w", err)
			}
			if o.Firmware, err = filepath.Abs(o.Firmware); err != nil {
				return fmt.Errorf("resolving firmware: %w", err)
			}
			o.Tools, o.Accel, o.Clock = tools, record.DefaultAccel, time.Now
			o.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			r, err := record.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if out != "" {
				b, err := json.MarshalIndent(r.Recordings(), "", "  ")
				if err != nil {
					return fmt.Errorf("encoding recording: %w", err)
				}
				if err := os.WriteFile(out, append(b, '\n'), 0o644); err != nil {
					return fmt.Errorf("writing recording: %w", err)
				}
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			}
			showRecording(cmd.OutOrStdout(), r)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Firmware, "firmware", "", "firmware file; default: the tools tree's OVMF.fd")
	f.StringVar(&o.Image, "image", "build/image", "directory with vmlinuz, initrd, root.img, cmdline")
	f.StringVar(&o.Name, "name", "ovmf", "name of the firmware, for people")
	f.StringVarP(&out, "out", "o", "", "write the recording to this `file`")
	f.BoolVar(&asJSON, "json", false, "print everything that was watched as JSON")
	return cmd
}

func showRecording(w io.Writer, r *record.Result) {
	fmt.Fprintf(w, "firmware  %s (%s)\nqemu      %s\nrule      %s\n", r.Firmware.SHA256, r.Firmware.Name, r.QEMUVersion, r.Firmware.Cmdline)
	unstable := map[int]bool{}
	for _, i := range r.Unstable {
		unstable[i] = true
	}
	for i := range 16 {
		note := ""
		switch {
		case i == 0 || i == 7:
			note = "recorded"
		case unstable[i]:
			note = "differs between machines"
		case r.PCRs[i].IsZero():
			continue
		}
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("pcr %-2d    %s  %s", i, r.PCRs[i], note), " "))
	}
}
