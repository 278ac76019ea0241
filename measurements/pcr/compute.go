package pcr

import (
	"errors"
	"fmt"

	"cocoon/measurements/boot"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/launch"
)

// ErrNotComputed is returned for firmware whose PCR 0 and 7 do not follow from
// its file.
var ErrNotComputed = errors.New("PCR 0 and 7 do not follow from this firmware file")

// comparedFrom is the oldest version of OVMF whose computed registers were held
// against those of a boot.
const comparedFrom = "2026.08"

// Compute returns a firmware's PCR 0 and 7 from its file: the version of its
// measured core, the volumes that it unpacks, and that no Secure Boot key is
// enrolled in it (with keys, PCR 7 depends on who signed the kernel).
func Compute(f *launch.Firmware) (Firmware, error) {
	if f.TPM == nil {
		return Firmware{}, fmt.Errorf("computing PCR 0 of %s: %w: it has no measured core that is known", f.Name, ErrNotComputed)
	}
	if f.TPM.KeysEnrolled {
		return Firmware{}, fmt.Errorf("computing PCR 7 of %s: %w: Secure Boot keys are enrolled", f.Name, ErrNotComputed)
	}
	if f.TPM.Version < comparedFrom {
		return Firmware{}, fmt.Errorf("computing PCR 0 of %s: %w: no boot of a version as old as %s was compared with it", f.Name, ErrNotComputed, f.TPM.Version)
	}
	if f.Cmdline == "" {
		return Firmware{}, fmt.Errorf("computing registers of %s: %w: how version %s passes a command line on is not known", f.Name, ErrNotComputed, f.TPM.Version)
	}
	events := append(f.TPM.Events(f.Name), boot.New(Firmware0, eventlog.Separator, "separator", boot.SourceConstant, boot.Of(boot.Separator())))
	pcr0, ok0 := boot.PCR256(events, Firmware0)
	pcr7, ok7 := boot.PCR256(boot.SecureBoot(f.Name), SecureBoot)
	if !ok0 || !ok7 {
		return Firmware{}, fmt.Errorf("computing registers of %s: %w", f.Name, ErrNotComputed)
	}
	out := Firmware{Name: f.Name, SHA256: f.SHA256, PCR0: pcr0, PCR7: pcr7, Provenance: ProvenanceComputed, Cmdline: f.Cmdline}
	return out, out.Validate()
}
