// Package launch computes, from the files of an image and of a firmware, what
// every supported TEE will report for it. It is the package that the manifest,
// the audit and the appraisal of evidence use.
//
// It works in two steps, so that a published document can be recomputed without
// the files:
//
//	files    → components: ReadImage, ReadFirmware
//	components → expected: Expect, or Events for the list behind the registers
//
// Image and Firmware are hashes and sizes only and encode as strict JSON. A
// Firmware has what each TEE needs of one firmware file: TPM (the measured
// core and whether keys are enrolled), TDX (MRTD, the configuration volume, the
// TD HOB's layout) and SNP (the launch digest after the firmware's pages and
// its SEV metadata); a part that a firmware does not have is nil. Expected has
// the values of one image on one firmware:
//
//   - TDX: MRTD for each order of QEMU, RTMR1, RTMR2, and RTMR0 as a list of
//     components, because it depends on the host's memory and ACPI tables; a
//     Host with all of them gives the value.
//   - SNP: a launch digest for each Shape (vCPU model and count).
//   - TPM: PCR 0 to 9 and 11 to 14 of both banks but those that depend on the
//     host, which are absent; PCR 1 is a list of components.
//
// RTMR3 and PCR 15 follow from the guest's config: see boot.Runtime. An event
// log is held against a list of events with boot.Explain.
package launch

import (
	"errors"
	"fmt"

	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/mrtd"
	"cocoon/measurements/ovmf"
	"cocoon/measurements/pe"
	"cocoon/measurements/rtmr"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdvf"
)

// ErrComponents is returned for components that nothing follows from.
var ErrComponents = errors.New("components are not complete")

// Image has the components of an image that boots directly: kernel, initrd and
// command line are given to QEMU.
type Image struct {
	Cmdline    string        `json:"cmdline"`             // QEMU's -append
	Kernel     boot.Digests  `json:"kernel_authenticode"` // PE image hash, package pe
	KernelFile digest.SHA256 `json:"kernel_sha256"`       // of the file: SEV's table of kernel hashes has it
	Initrd     boot.Digests  `json:"initrd"`              // of the file
}

// ReadImage returns the components of files.
func ReadImage(kernel, initrd []byte, cmdline string) (*Image, error) {
	a256, err := pe.Authenticode256(kernel)
	if err != nil {
		return nil, fmt.Errorf("measuring kernel: %w", err)
	}
	a384, err := pe.Authenticode384(kernel)
	if err != nil {
		return nil, fmt.Errorf("measuring kernel: %w", err)
	}
	if len(initrd) == 0 {
		return nil, fmt.Errorf("measuring initrd: %w: it is empty", ErrComponents)
	}
	im := &Image{Cmdline: cmdline, Kernel: boot.Digests{SHA256: a256, SHA384: a384}, KernelFile: digest.Sum256(kernel), Initrd: *boot.Of(initrd)}
	return im, im.Validate()
}

// Validate refuses components that are not complete.
func (im *Image) Validate() error {
	if err := boot.CheckCmdline(im.Cmdline); err != nil {
		return err
	}
	if im.KernelFile.IsZero() || im.Kernel.Incomplete() || im.Initrd.Incomplete() {
		return fmt.Errorf("%w: a hash of kernel or initrd is missing", ErrComponents)
	}
	return nil
}

// Firmware has the components of a firmware file.
type Firmware struct {
	Name    string           `json:"name"`         // for people
	SHA256  digest.SHA256    `json:"sha256"`       // of the file
	Cmdline boot.CmdlineRule `json:"cmdline_rule"` // how it passes the command line on
	Menu    boot.BootMenu    `json:"boot_menu"`    // which boot options it makes
	TPM     *FirmwareTPM     `json:"tpm,omitempty"`
	TDX     *FirmwareTDX     `json:"tdx,omitempty"`
	SNP     *snp.Firmware    `json:"snp,omitempty"`
}

// FirmwareTPM is what PCR 0 and 7 follow from.
type FirmwareTPM struct {
	Version      string         `json:"version"`       // PcdFirmwareVersionString
	Volumes      []boot.Digests `json:"volumes"`       // unpacked and measured, in order
	KeysEnrolled bool           `json:"keys_enrolled"` // Secure Boot is on: PCR 7 then depends on who signed the kernel
}

// FirmwareTDX is what MRTD and RTMR0 follow from.
type FirmwareTDX struct {
	MRTD          mrtd.Values  `json:"mrtd"`
	Configuration boot.Digests `json:"configuration_volume"` // of the CFV section
	HOB           rtmr.HOB     `json:"td_hob"`
}

// Validate refuses components that are not complete.
func (f *Firmware) Validate() error {
	var errs []error
	if f.Name == "" || len(f.Name) > 128 || f.SHA256.IsZero() {
		errs = append(errs, fmt.Errorf("%w: name or hash of a firmware is missing", ErrComponents))
	}
	if _, err := boot.LoadOptions(f.Cmdline, "x"); err != nil {
		errs = append(errs, err)
	}
	if _, err := f.Menu.Events(f.Name); err != nil {
		errs = append(errs, err)
	}
	if t := f.TPM; t != nil {
		if len(t.Version) == 0 || len(t.Version) > 128 || len(t.Volumes) == 0 || len(t.Volumes) > 16 {
			errs = append(errs, fmt.Errorf("%w: measured core of firmware %.64q", ErrComponents, f.Name))
		}
		for i := range t.Volumes {
			if t.Volumes[i].Incomplete() {
				errs = append(errs, fmt.Errorf("%w: volume %d of firmware %.64q", ErrComponents, i, f.Name))
			}
		}
	}
	if t := f.TDX; t != nil {
		if t.MRTD.SinglePass.IsZero() || t.MRTD.TwoPass.IsZero() || t.Configuration.Incomplete() {
			errs = append(errs, fmt.Errorf("%w: TDX part of firmware %.64q", ErrComponents, f.Name))
		}
		if err := t.HOB.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if f.SNP != nil {
		if err := f.SNP.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ReadFirmware returns the components of a firmware file.
func ReadFirmware(name string, b []byte) (*Firmware, error) {
	f, err := tdvf.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("measuring firmware %s: %w", name, err)
	}
	out := &Firmware{Name: name, SHA256: f.SHA256()}
	if err := out.readTPM(f); err != nil {
		return nil, fmt.Errorf("measuring firmware %s: %w", name, err)
	}
	if err := out.readTDX(f); err != nil {
		return nil, fmt.Errorf("measuring firmware %s: %w", name, err)
	}
	sections, err := f.SEV()
	if err != nil {
		return nil, fmt.Errorf("measuring firmware %s: %w", name, err)
	}
	if len(sections) > 0 {
		s, err := snp.ReadFirmware(f)
		if err != nil {
			return nil, fmt.Errorf("measuring firmware %s: %w", name, err)
		}
		out.SNP = &s
	}
	return out, nil
}

func (f *Firmware) readTPM(b *tdvf.Firmware) error {
	core, err := ovmf.ReadCore(b)
	if core != nil {
		f.Cmdline, f.Menu = traits(core.Version)
	}
	if errors.Is(err, ovmf.ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	vars, err := ovmf.ReadVariables(b)
	if errors.Is(err, ovmf.ErrAbsent) {
		return nil // variables come in a file of their own
	}
	if err != nil {
		return err
	}
	f.TPM = &FirmwareTPM{Version: core.Version, KeysEnrolled: vars.Enrolled}
	for _, v := range core.Volumes {
		f.TPM.Volumes = append(f.TPM.Volumes, *v)
	}
	return nil
}

func (f *Firmware) readTDX(b *tdvf.Firmware) error {
	sections, err := b.TDX()
	if errors.Is(err, tdvf.ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	t := &FirmwareTDX{}
	if t.MRTD, err = mrtd.Measure(b); err != nil {
		return err
	}
	if t.HOB, err = rtmr.ReadHOB(b); err != nil {
		return err
	}
	for _, s := range sections {
		if s.Type == tdvf.CFV {
			if !t.Configuration.Incomplete() {
				return fmt.Errorf("%w: two configuration volumes", tdvf.ErrFormat)
			}
			t.Configuration = *boot.Of(b.Data[s.Offset : uint64(s.Offset)+uint64(s.RawSize)])
		}
	}
	if t.Configuration.Incomplete() {
		return fmt.Errorf("%w: no configuration volume", tdvf.ErrFormat)
	}
	f.TDX = t
	return nil
}

// traits returns what a version of OVMF does, empty where that is not known:
// 2025.02 and older put the initrd last and make one boot option; 2026.08 puts
// it first and makes two. What lies between has not been watched.
func traits(version string) (boot.CmdlineRule, boot.BootMenu) {
	switch {
	case len(version) < 7:
		return "", ""
	case version[:7] <= "2025.02":
		return boot.CmdlineInitrdLast, boot.MenuUiApp
	case version[:7] >= "2026.08":
		return boot.CmdlineInitrdFirst, boot.MenuSetup
	}
	return "", ""
}
