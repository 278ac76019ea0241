package launch

import (
	"fmt"

	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/mrtd"
	"cocoon/measurements/ovmf"
	"cocoon/measurements/snp"
)

// Host is what the host's machine adds to the measurements. What is nil or 0
// is not known: its events are then components without a digest.
type Host struct {
	Memory     uint64        `json:"memory,omitempty"`      // bytes
	ACPILoader *boot.Digests `json:"acpi_loader,omitempty"` // fw_cfg etc/table-loader
	ACPIRSDP   *boot.Digests `json:"acpi_rsdp,omitempty"`   // fw_cfg etc/acpi/rsdp
	ACPITables *boot.Digests `json:"acpi_tables,omitempty"` // fw_cfg etc/acpi/tables
	SMBIOS     *boot.Digests `json:"smbios,omitempty"`      // the tables as firmware hands them over; TPM only
}

// tpmLogSize is the area that QEMU reserves for a TPM's event log: it is
// measured while still empty (fw_cfg etc/tpm/log, hw/i386/acpi-build.c).
const tpmLogSize = 64 << 10

// Events returns what a direct boot of the image on the firmware measures, in
// order, for TPM and TD at once: each event says which register of either
// takes it.
func Events(im *Image, f *Firmware, h Host) ([]boot.Event, error) {
	if err := im.Validate(); err != nil {
		return nil, fmt.Errorf("predicting boot: %w", err)
	}
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
	options, err := boot.LoadOptions(f.Cmdline, im.Cmdline)
	if err != nil {
		return nil, fmt.Errorf("predicting boot: %w", err)
	}
	out = append(out, boot.New(4, eventlog.EFIBootApplication, "kernel", "vmlinuz", &im.Kernel), onlyTPM(boot.New(1, eventlog.EFIHandoffTables, "SMBIOS tables", boot.SourceHost, h.SMBIOS)))
	out = append(out, menu...)
	out = append(out, bootCalled()...)
	out = append(out,
		boot.New(9, eventlog.EventTag, "command line", "cmdline", boot.Of(options)),
		boot.New(9, eventlog.EventTag, "initrd", "initrd", &im.Initrd))
	return append(out, servicesExited()...), nil
}

// firmwareEvents are those that come before anything is loaded.
func firmwareEvents(f *Firmware, h Host) ([]boot.Event, error) {
	var out []boot.Event
	var enrolled bool
	if t := f.TPM; t != nil {
		enrolled = t.KeysEnrolled
		out = append(out, t.Events(f.Name)...)
	} else {
		out = append(out, boot.New(0, eventlog.SCRTMVersion, "measured core", f.Name, nil))
	}
	if t := f.TDX; t != nil {
		var hob *boot.Digests
		if h.Memory != 0 {
			b, err := t.HOB.Bytes(h.Memory)
			if err != nil {
				return nil, err
			}
			hob = boot.Of(b)
		}
		out = append(out, onlyTD(eventlog.EFIHandoffTables2, "TD HOB", boot.SourceHost, hob), onlyTD(eventlog.EFIFirmwareBlob2, "configuration volume", f.Name, &t.Configuration))
	}
	secure := boot.SecureBoot(f.Name)
	if enrolled {
		for i := range secure[:len(secure)-1] {
			secure[i].Digests = nil
		}
	}
	out = append(out, secure...)
	return append(out,
		boot.New(1, eventlog.PlatformConfigFlags, "ACPI loader", boot.SourceHost, h.ACPILoader),
		boot.New(1, eventlog.PlatformConfigFlags, "ACPI RSDP", boot.SourceHost, h.ACPIRSDP),
		onlyTPM(boot.New(1, eventlog.PlatformConfigFlags, "empty TPM log area", boot.SourceConstant, boot.Of(make([]byte, tpmLogSize)))),
		boot.New(1, eventlog.PlatformConfigFlags, "ACPI tables", boot.SourceHost, h.ACPITables),
	), nil
}

// Events returns the events of PCR 0 up to its separator.
func (t *FirmwareTPM) Events(source string) []boot.Event {
	core := ovmf.Core{Version: t.Version}
	for i := range t.Volumes {
		core.Volumes = append(core.Volumes, &t.Volumes[i])
	}
	return core.Events(source)
}

// bootCalled are the events at ReadyToBoot: the action, and the separators of
// PCR 0 to 6, of which a TD has one, in RTMR1 (OvmfPkg/Tcg/TdTcg2Dxe; PCR 7's
// came before).
func bootCalled() []boot.Event {
	out := []boot.Event{boot.New(4, eventlog.EFIAction, "action "+boot.ActionBoot, boot.SourceConstant, boot.Of([]byte(boot.ActionBoot)))}
	for pcr := range 7 {
		e := boot.New(pcr, eventlog.Separator, "separator", boot.SourceConstant, boot.Of(boot.Separator()))
		if pcr != 4 {
			e = onlyTPM(e)
		}
		out = append(out, e)
	}
	return out
}

// servicesExited are the events when the kernel takes over.
func servicesExited() []boot.Event {
	var out []boot.Event
	for _, a := range []string{boot.ActionExit, boot.ActionExitResult} {
		out = append(out, boot.New(5, eventlog.EFIAction, "action "+a, boot.SourceConstant, boot.Of([]byte(a))))
	}
	return out
}

func onlyTPM(e boot.Event) boot.Event {
	e.RTMR = boot.NoRegister
	return e
}

func onlyTD(t eventlog.Type, component, source string, d *boot.Digests) boot.Event {
	e := boot.New(1, t, component, source, d)
	e.PCR = boot.NoRegister
	return e
}

// Expected is what the TEEs report for one image on one firmware.
type Expected struct {
	Firmware string        `json:"firmware"`
	SHA256   digest.SHA256 `json:"firmware_sha256"`
	TPM      TPM           `json:"tpm"`
	TDX      *TDX          `json:"tdx,omitempty"`
	SNP      []SNP         `json:"snp,omitempty"`
	// SNPRefused says why there is no launch digest: a firmware that does not
	// measure kernel, initrd and command line proves nothing of the image.
	SNPRefused string `json:"snp_refused,omitempty"`
}

// TPM has both banks. A register that depends on the host, or on what is not
// known of the firmware, is absent.
type TPM struct {
	SHA256 map[int]digest.SHA256 `json:"sha256"`
	SHA384 map[int]digest.SHA384 `json:"sha384"`
	PCR1   []boot.Event          `json:"pcr1_components"`
}

// TDX has the values of a TD.
type TDX struct {
	MRTD            mrtd.Values    `json:"mrtd"`
	RTMR0           *digest.SHA384 `json:"rtmr0,omitempty"` // only where the host is known
	RTMR1           digest.SHA384  `json:"rtmr1"`
	RTMR2           digest.SHA384  `json:"rtmr2"`
	RTMR0Components []boot.Event   `json:"rtmr0_components"`
}

// SNP is the launch digest of one shape.
type SNP struct {
	snp.Shape
	Measurement digest.SHA384 `json:"measurement"`
}

// bootPCRs are the registers that a boot writes or leaves at zero, beside
// PCR 10 (the kernel's IMA, which depends on the others) and PCR 15.
var bootPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14}

// Expect returns the values of an image on a firmware. Shapes that the
// firmware cannot start are an error.
func Expect(im *Image, f *Firmware, h Host, shapes []snp.Shape) (*Expected, error) {
	events, err := Events(im, f, h)
	if err != nil {
		return nil, err
	}
	out := &Expected{Firmware: f.Name, SHA256: f.SHA256, TPM: ExpectTPM(events)}
	if f.TDX != nil {
		if out.TDX, err = expectTDX(f.TDX, events); err != nil {
			return nil, err
		}
	}
	switch {
	case f.SNP == nil || len(shapes) == 0:
	case !f.SNP.MeasuresKernel():
		out.SNPRefused = snp.ErrNoHashes.Error()
	default:
		kernel := &snp.Kernel{Kernel: im.KernelFile, Initrd: im.Initrd.SHA256, Cmdline: snp.CmdlineDigest(im.Cmdline)}
		for _, s := range shapes {
			d, err := snp.Measure(*f.SNP, kernel, s)
			if err != nil {
				return nil, fmt.Errorf("predicting launch of %s: %w", s, err)
			}
			out.SNP = append(out.SNP, SNP{s, d})
		}
	}
	return out, nil
}

// ExpectTPM returns the registers of a list of events.
func ExpectTPM(events []boot.Event) TPM {
	t := TPM{SHA256: map[int]digest.SHA256{}, SHA384: map[int]digest.SHA384{}}
	for _, n := range bootPCRs {
		if v, ok := boot.PCR256(events, n); ok {
			t.SHA256[n] = v
		}
		if v, ok := boot.PCR384(events, n); ok {
			t.SHA384[n] = v
		}
	}
	for _, e := range events {
		if e.PCR == 1 {
			t.PCR1 = append(t.PCR1, e)
		}
	}
	return t
}

func expectTDX(f *FirmwareTDX, events []boot.Event) (*TDX, error) {
	t := &TDX{MRTD: f.MRTD}
	var ok1, ok2 bool
	t.RTMR1, ok1 = boot.RTMR(events, 1)
	t.RTMR2, ok2 = boot.RTMR(events, 2)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("predicting RTMR1 and RTMR2: %w", ErrComponents)
	}
	if v, ok := boot.RTMR(events, 0); ok {
		t.RTMR0 = &v
	}
	for _, e := range events {
		if e.RTMR == 0 {
			t.RTMR0Components = append(t.RTMR0Components, e)
		}
	}
	return t, nil
}
