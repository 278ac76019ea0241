package main

import (
	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/compare"
)

// newMeasureMRTDCmd computes MRTD of a firmware file.
func newMeasureMRTDCmd() *cobra.Command {
	var firmware string
	out := &bootFlags{}
	cmd := &cobra.Command{
		Use:   "mrtd --firmware FILE",
		Short: "compute a TD's MRTD from a TDVF binary",
		Long: `Compute MRTD, which measures a TD's memory before it runs, from a TDVF binary
(an OVMF.fd with a TDVF descriptor), for both orders in which QEMU builds that
memory: single-pass from QEMU 9 on, two-pass before.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := readFirmwareFile(firmware)
			if err != nil {
				return err
			}
			if f.TDX == nil {
				return fault.New(fault.ExitParse, "measure.no_tdvf", "give a firmware built for TDX", "measuring %s: it has no TDVF descriptor", f.Name)
			}
			r := newTEEReport(f)
			r.Registers["MRTD single-pass"], r.Registers["MRTD two-pass"] = f.TDX.MRTD.SinglePass.String(), f.TDX.MRTD.TwoPass.String()
			r.Components = append(r.Components, compare.Component{Register: "MRTD", Name: "firmware", Source: f.Name, Digest: f.SHA256.String()})
			return out.save(cmd.OutOrStdout(), r, r.write)
		},
	}
	cmd.Flags().StringVar(&firmware, "firmware", "", "firmware `file`")
	cmd.Flags().StringVarP(&out.out, "out", "o", "", "write the result as JSON to this `file`, for cocoon measure diff")
	cmd.Flags().BoolVar(&out.json, "json", false, "write the result as JSON")
	_ = cmd.MarkFlagRequired("firmware")
	return cmd
}

// newMeasureRTMRCmd computes the RTMRs of a TD.
func newMeasureRTMRCmd() *cobra.Command {
	f := &bootFlags{}
	cmd := &cobra.Command{
		Use:   "rtmr --firmware FILE --image DIR",
		Short: "compute a TD's RTMR0 to RTMR3",
		Long: `Compute the runtime measurement registers of a TD that boots the image.
RTMR1 and RTMR2 follow from kernel, initrd and command line. RTMR0 depends on
the machine: with --memory and the three ACPI files it is computed, without them
it is a list of components. RTMR3 follows from the guest's config (--config).`,
		Example: `  cocoon measure rtmr --firmware OVMF.fd --image build/image --config config.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.read()
			if err != nil {
				return err
			}
			if p.firmware.TDX == nil {
				return fault.New(fault.ExitParse, "measure.no_tdvf", "give a firmware built for TDX", "measuring %s: it has no TDVF descriptor", p.firmware.Name)
			}
			r := newTEEReport(p.firmware)
			r.AddTD(p.events)
			r.hostComponents("RTMR0")
			if f.config == "" {
				delete(r.Registers, "RTMR3")
				r.note("RTMR3 follows from the guest's config: give --config")
			}
			return f.save(cmd.OutOrStdout(), r, r.write)
		},
	}
	f.add(cmd)
	return cmd
}
