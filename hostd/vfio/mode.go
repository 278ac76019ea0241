package vfio

import (
	"fmt"

	"cocoon/internal/fault"
)

// Mode is a device's confidential-computing mode.
type Mode string

// Modes. Devtools and Invalid never serve: the first lets the host look into
// the GPU, the second is what an interrupted mode switch leaves behind.
const (
	ModeOff      Mode = "off"
	ModeCC       Mode = "cc"       // single GPU, encrypted PCIe
	ModePPCIE    Mode = "ppcie"    // protected PCIe: all 8 GPUs and 4 switches in one VM
	ModeDevtools Mode = "devtools" // debugging
	ModeInvalid  Mode = "invalid"
)

// Registers in BAR0 (gpu-admin-tools 2025.10.20).
const (
	regBoot       = 0x200bc  // GPU: FSP boot state
	regBootSwitch = 0x660bc  // LS10
	regHopper     = 0x1182cc // bits 1:0 mode, bit 5 PPCIE
	regBlackwell  = 0x590    // bits 1:0 mode
	regSwitch     = 0x28c50  // LS10, bit 0 PPCIE

	bootDone = 0xff
	gone     = 0xffffffff // what a read of an absent device gives
)

// QueryMode reads a device's mode. Faults: gpu.vanished, gpu.booting,
// gpu.register (not readable: no right, or decoding is off),
// gpu.mode.unknown.
func QueryMode(sys Reader, d *Device) (Mode, error) {
	var boot, reg int64 = regBoot, 0
	switch d.Arch {
	case Hopper:
		reg = regHopper
	case Blackwell:
		reg = regBlackwell
	case LS10:
		boot, reg = regBootSwitch, regSwitch
	default:
		return "", fault.New(fault.ExitNotReady, "gpu.mode.unknown", "use a GPU that NVIDIA supports in confidential computing", "reading the mode of %s: device %s is not known", d.BDF, d.ID)
	}
	read := func(at int64) (uint32, error) {
		v, err := sys.Register(devices+d.BDF+"/resource0", at)
		if err != nil {
			return 0, fault.New(fault.ExitNotReady, "gpu.register", "run as root; with kernel lockdown BAR0 cannot be read", "reading BAR0 of %s: %w", d.BDF, err)
		}
		if v == gone {
			return 0, vanished(d.BDF)
		}
		return v, nil
	}
	state, err := read(boot)
	if err != nil {
		return "", err
	}
	if state&0xff != bootDone {
		return "", fault.New(fault.ExitNotReady, "gpu.booting", "wait ten seconds; if it stays so, power the host off and on", "reading the mode of %s: its firmware has not booted (%#x)", d.BDF, state)
	}
	v, err := read(reg)
	if err != nil {
		return "", err
	}
	return decodeMode(d.Arch, v), nil
}

func vanished(bdf string) error {
	return fault.New(fault.ExitNotReady, "gpu.vanished", "power the host off and on; if it happens again, see that the GPU's power control is \"on\"", "reading BAR0 of %s: the device does not answer", bdf)
}

// decodeMode says what a mode register means.
func decodeMode(arch string, v uint32) Mode {
	if arch == LS10 {
		if v&1 != 0 {
			return ModePPCIE
		}
		return ModeOff
	}
	ppcie := arch == Hopper && v&0x20 != 0
	switch v & 3 {
	case 0:
		if ppcie {
			return ModePPCIE
		}
		return ModeOff
	case 1:
		if ppcie { // they exclude each other
			return ModeInvalid
		}
		return ModeCC
	case 3:
		return ModeDevtools
	}
	return ModeInvalid
}

// SetCommand returns the commands of NVIDIA's gpu-admin-tools that bring a
// device into a mode.
func SetCommand(bdf string, want Mode) string {
	const tool = "nvidia_gpu_tools.py --devices "
	cc := func(s string) string {
		return fmt.Sprintf("%s%s --set-cc-mode=%s --reset-after-cc-mode-switch", tool, bdf, s)
	}
	ppcie := func(s string) string {
		return fmt.Sprintf("%s%s --set-ppcie-mode=%s --reset-after-ppcie-mode-switch", tool, bdf, s)
	}
	switch want {
	case ModeCC:
		return ppcie("off") + " && " + cc("on")
	case ModePPCIE:
		return cc("off") + " && " + ppcie("on")
	}
	return cc("off")
}
