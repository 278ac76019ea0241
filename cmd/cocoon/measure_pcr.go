package main

import (
	"errors"

	"github.com/spf13/cobra"

	"cocoon/measurements/boot"
	"cocoon/measurements/launch"
	"cocoon/measurements/pcr"
)

// newMeasurePCRCmd computes a TPM's registers.
func newMeasurePCRCmd() *cobra.Command {
	f := &bootFlags{}
	cmd := &cobra.Command{
		Use:   "pcr --firmware FILE --image DIR",
		Short: "compute a TPM's PCR 0 to 15 in both banks",
		Long: `Compute what a TPM holds after the boot of the image, in the SHA-256 and the
SHA-384 bank: for kernel, initrd and command line, or for a unified kernel image
(--uki). PCR 1 depends on the machine and is a list of components; PCR 10 is a
hash over PCR 0 to 9 and is computed where all of them are known; PCR 15 follows
from the guest's config (--config).`,
		Example: `  cocoon measure pcr --firmware OVMF.fd --image build/image
  cocoon measure pcr --firmware OVMF.fd --uki uki.efi --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.read()
			if err != nil {
				return err
			}
			r := newTEEReport(p.firmware)
			if err := r.addTPM(p); err != nil {
				return err
			}
			return f.save(cmd.OutOrStdout(), r, r.write)
		},
	}
	f.add(cmd)
	return cmd
}

// addTPM adds a TPM's registers, and says why one is absent.
func (r *teeReport) addTPM(p *parts) error {
	events := p.events
	t := launch.ExpectTPM(events)
	e, err := pcr.Aggregate(t.SHA256)
	switch {
	case errors.Is(err, pcr.ErrIMA):
		r.note("PCR 10 is IMA's hash over PCR 0 to 9: computed where all of them are known")
	case err != nil:
		return err
	default:
		events = append(events[:len(events):len(events)], e)
		t.SHA256[pcr.IMA], _ = boot.PCR256(events, pcr.IMA)
		t.SHA384[pcr.IMA], _ = boot.PCR384(events, pcr.IMA)
	}
	if len(p.runtime) > 0 {
		t.SHA256[pcr.RuntimeConfig], _ = boot.PCR256(events, pcr.RuntimeConfig)
		t.SHA384[pcr.RuntimeConfig], _ = boot.PCR384(events, pcr.RuntimeConfig)
	} else {
		r.note("PCR 15 follows from the guest's config: give --config")
	}
	r.AddTPM(t, events)
	for _, register := range []string{"PCR 0", "PCR 1", "PCR 7"} {
		r.hostComponents(register)
	}
	return nil
}
