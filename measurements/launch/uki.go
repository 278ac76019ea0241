package launch

import (
	"fmt"

	"cocoon/measurements/boot"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/uki"
)

// UKIEvents returns what the boot of a unified kernel image on the firmware
// measures, in order. The image is QEMU's -kernel, without -append and
// -initrd. From a disk, firmware may have to leave boot services twice, and
// measures the disk's partitions into PCR 5: that register is then not what is
// predicted here.
func UKIEvents(im *uki.Image, f *Firmware, h Host) ([]boot.Event, error) {
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("predicting boot: %w", err)
	}
	out, err := firmwareEvents(f, h)
	if err != nil {
		return nil, fmt.Errorf("predicting boot: %w", err)
	}
	menu, err := f.Menu.Events(f.Name)
	if err != nil {
		return nil, fmt.Errorf("predicting boot: %w", err)
	}
	stub, err := im.StubEvents("uki.efi")
	if err != nil {
		return nil, err
	}
	out = append(out, boot.New(4, eventlog.EFIBootApplication, "unified kernel image", "uki.efi", &im.Application), onlyTPM(boot.New(1, eventlog.EFIHandoffTables, "SMBIOS tables", boot.SourceHost, h.SMBIOS)))
	out = append(append(out, menu...), bootCalled()...)
	return append(append(out, stub...), servicesExited()...), nil
}
