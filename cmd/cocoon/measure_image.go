package main

import (
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/compare"
	"cocoon/measurements/launch"
	"cocoon/measurements/snp"
)

// imageReport is what "cocoon measure image" writes: the components that a
// manifest publishes, and all that follows from them.
type imageReport struct {
	Image      *launch.Image      `json:"image"`
	Components []*launch.Firmware `json:"firmwares"`
	Expected   []*launch.Expected `json:"expected"`
	Reports    []*teeReport       `json:"reports"` // one for each firmware, as the other verbs write it
}

// newMeasureImageCmd computes every register of every TEE for an image.
func newMeasureImageCmd() *cobra.Command {
	f := &bootFlags{}
	var more []string
	var vcpus []int
	var vcpuTypes []string
	cmd := &cobra.Command{
		Use:   "image --image DIR --firmware FILE",
		Short: "compute what every supported TEE reports for an image",
		Long: `Compute all registers of all TEEs that a firmware supports, for a direct boot of
the image: a TPM's PCRs, a TD's MRTD and RTMRs, and SEV-SNP launch digests for
each number and model of vCPUs. The JSON form has the components too, from which
the values can be computed again without the files.`,
		Example: `  cocoon measure image --image build/image --firmware OVMF.fd --json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.uki != "" {
				return fault.New(fault.ExitInternal, "usage", "use cocoon measure pcr or rtmr", "measuring image: --uki is another boot than that of kernel and initrd")
			}
			var shapes []snp.Shape
			for _, n := range vcpus {
				for _, model := range vcpuTypes {
					shapes = append(shapes, snp.Shape{VMM: snp.QEMU, VCPUs: n, VCPUType: model, Features: snp.DefaultFeatures})
				}
			}
			out := &imageReport{}
			var errs []error
			for _, path := range append([]string{f.firmware}, more...) {
				g := *f
				g.firmware = path
				errs = append(errs, out.add(&g, shapes))
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			return f.save(cmd.OutOrStdout(), out, out.write)
		},
	}
	f.add(cmd)
	cmd.Flags().StringArrayVar(&more, "also", nil, "another firmware `file`; may be repeated")
	cmd.Flags().IntSliceVar(&vcpus, "vcpus", []int{1, 2, 4}, "`number` of vCPUs; may be repeated")
	cmd.Flags().StringSliceVar(&vcpuTypes, "vcpu-type", []string{"EPYC-v4"}, "QEMU's CPU `model`; may be repeated")
	return cmd
}

func (o *imageReport) add(f *bootFlags, shapes []snp.Shape) error {
	p, err := f.read()
	if err != nil {
		return err
	}
	e, err := launch.Expect(p.image, p.firmware, p.host, shapes)
	if err != nil {
		return fault.New(fault.ExitParse, "measure.image", "check firmware and vCPUs", "%w", err)
	}
	r := newTEEReport(p.firmware)
	if err := r.addTPM(p); err != nil {
		return err
	}
	if e.TDX != nil {
		r.Registers["MRTD single-pass"], r.Registers["MRTD two-pass"] = e.TDX.MRTD.SinglePass.String(), e.TDX.MRTD.TwoPass.String()
		r.Components = append(r.Components, compare.Component{Register: "MRTD", Name: "firmware", Source: p.firmware.Name, Digest: p.firmware.SHA256.String()})
		r.AddTD(p.events)
		r.hostComponents("RTMR0")
		if len(p.runtime) == 0 {
			delete(r.Registers, "RTMR3")
		}
	}
	for _, s := range e.SNP {
		r.Registers["SNP "+s.Shape.String()] = s.Measurement.String()
	}
	if e.SNPRefused != "" {
		r.note("no launch digest: %s", e.SNPRefused)
	}
	o.Image = p.image
	o.Components, o.Expected, o.Reports = append(o.Components, p.firmware), append(o.Expected, e), append(o.Reports, r)
	return nil
}

func (o *imageReport) write(w io.Writer) error {
	for i, r := range o.Reports {
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if err := r.write(w); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, strings.TrimSpace("image    "+o.Image.KernelFile.String()+" kernel, "+o.Image.Initrd.SHA256.String()+" initrd")+"\n")
	return err
}
