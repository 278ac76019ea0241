package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"cocoon/measurements/eventlog"
)

// CmdlineRule says what the kernel's load options look like when they are
// measured, given the command line that QEMU's -append takes.
type CmdlineRule string

// Rules that are known. Which one holds depends on the firmware's version.
const (
	CmdlineInitrdFirst CmdlineRule = "initrd-first" // "initrd=initrd " + cmdline: OVMF 2026.08
	CmdlineInitrdLast  CmdlineRule = "initrd-last"  // cmdline + " initrd=initrd": OVMF 2022.11
	CmdlineAlone       CmdlineRule = "alone"        // as it stands: a UKI's .cmdline section
)

// MaxCmdline is the longest command line, in bytes: the kernel's
// COMMAND_LINE_SIZE on x86.
const MaxCmdline = 2048

// ErrCmdline is returned for command lines that cannot be predicted.
var ErrCmdline = errors.New("command line must be printable ASCII of 1 to 2048 bytes without \"initrd=\"")

// CheckCmdline refuses command lines whose measured form is not known: what
// is not ASCII is converted differently by different loaders, and an
// "initrd=" of its own would meet the loader's.
func CheckCmdline(s string) error {
	if len(s) == 0 || len(s) > MaxCmdline || !utf8.ValidString(s) {
		return ErrCmdline
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return ErrCmdline
		}
		if len(s)-i >= 7 && s[i:i+7] == "initrd=" {
			return ErrCmdline
		}
	}
	return nil
}

// LoadOptions returns the bytes that the kernel's EFI stub measures for a
// command line: UTF-16LE with a final NUL (Linux
// drivers/firmware/efi/libstub/efi-stub-helper.c, efi_convert_cmdline). The
// initrd, which QEMU's loader hands over as a file of this name, puts
// "initrd=initrd" before or after it.
func LoadOptions(rule CmdlineRule, cmdline string) ([]byte, error) {
	if err := CheckCmdline(cmdline); err != nil {
		return nil, err
	}
	switch rule {
	case CmdlineInitrdFirst:
		cmdline = "initrd=initrd " + cmdline
	case CmdlineInitrdLast:
		cmdline += " initrd=initrd"
	case CmdlineAlone:
	default:
		return nil, fmt.Errorf("predicting load options: rule %.32q is unknown", rule)
	}
	return append(utf16(cmdline), 0, 0), nil
}

// utf16 returns ASCII as UTF-16LE.
func utf16(s string) []byte {
	b := make([]byte, 0, 2*len(s))
	for _, c := range []byte(s) {
		b = append(b, c, 0)
	}
	return b
}

// Text of the actions that firmware measures (PFP section 10.4.3).
const (
	ActionBoot       = "Calling EFI Application from Boot Option"
	ActionExit       = "Exit Boot Services Invocation"
	ActionExitResult = "Exit Boot Services Returned with Success"
)

// GUID is a UEFI identifier in its mixed byte order.
type GUID = [16]byte

// Vendors of the variables that are measured (UEFI 2.10 section 3.3 and 32.4).
var (
	VendorGlobal   = GUID{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c} // 8be4df61-93ca-11d2-aa0d-00e098032b8c
	VendorSecurity = GUID{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f} // d719b2cb-3d3a-4596-a3bc-dad00e67656f
)

// VariableData returns the UEFI_VARIABLE_DATA whose hash EV_EFI_VARIABLE_*
// events carry (PFP section 10.2.6): vendor, u64 length of the name in UTF-16
// units, u64 length of the data, name, data. Names are ASCII.
func VariableData(vendor GUID, name string, data []byte) []byte {
	b := append([]byte{}, vendor[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(name)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	return append(append(b, utf16(name)...), data...)
}

// secureBootVariables are measured in this order (PFP section 3.3.4.8).
var secureBootVariables = []struct {
	vendor *GUID
	name   string
}{{&VendorGlobal, "SecureBoot"}, {&VendorGlobal, "PK"}, {&VendorGlobal, "KEK"}, {&VendorSecurity, "db"}, {&VendorSecurity, "dbx"}}

// SecureBoot returns the events of PCR 7 for a firmware in which no key is
// enrolled: every variable is measured as absent, then the separator.
func SecureBoot(source string) []Event {
	var out []Event
	for _, v := range secureBootVariables {
		out = append(out, New(7, eventlog.EFIVariableDriverConf, "variable "+v.name, source, Of(VariableData(*v.vendor, v.name, nil))))
	}
	return append(out, New(7, eventlog.Separator, "separator", SourceConstant, Of(Separator())))
}

// BootOption is an entry of the boot menu that firmware makes for an
// application in its own volume.
type BootOption struct {
	Attributes  uint32
	Description string
	File        GUID // of the application
}

// ovmfVolume is the volume of OVMF's own applications (OvmfPkg, DXEFV).
var ovmfVolume = GUID{0xc9, 0xbd, 0xb8, 0x7c, 0xeb, 0xf8, 0x34, 0x4f, 0xaa, 0xea, 0x3e, 0xe4, 0xaf, 0x65, 0x16, 0xa1} // 7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1

// fileUiApp and fileBootMenu are OVMF's setup program and its boot menu
// (MdeModulePkg/Application/UiApp, BootManagerMenuApp).
var (
	fileUiApp    = GUID{0x21, 0xaa, 0x2c, 0x46, 0x14, 0x76, 0x03, 0x45, 0x83, 0x6e, 0x8a, 0xb6, 0xf4, 0x66, 0x23, 0x31} // 462caa21-7614-4503-836e-8ab6f4662331
	fileBootMenu = GUID{0xdc, 0x5b, 0xc2, 0xee, 0xf2, 0x67, 0x95, 0x4d, 0xb1, 0xd5, 0xf8, 0x1b, 0x20, 0x39, 0xd1, 0x1d} // eec25bdc-67f2-4d95-b1d5-f81b2039d11d
)

// BootMenu is the list of boot options that a version of OVMF makes.
type BootMenu string

// Menus that are known.
const (
	MenuUiApp BootMenu = "ui-app"    // one entry: OVMF before 2025.05
	MenuSetup BootMenu = "boot-menu" // boot menu and setup: OVMF 2026.08
)

// bytes returns the EFI_LOAD_OPTION (UEFI 2.10 section 3.1.3): attributes, u16
// length of the device path, description, device path of volume, file and
// end (sections 10.3.5.6 and 10.3.5.7).
func (o BootOption) bytes() []byte {
	path := append([]byte{4, 7, 20, 0}, ovmfVolume[:]...)
	path = append(append(path, 4, 6, 20, 0), o.File[:]...)
	path = append(path, 0x7f, 0xff, 4, 0)
	b := binary.LittleEndian.AppendUint32(nil, o.Attributes)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	b = append(append(b, utf16(o.Description)...), 0, 0)
	return append(b, path...)
}

// Events returns the events of the boot variables: the order, then each
// option. OVMF hashes the variable's data alone (EV_EFI_VARIABLE_BOOT, PFP
// section 10.4.1). A machine with bootable devices has more of them.
func (m BootMenu) Events(source string) ([]Event, error) {
	var options []BootOption
	switch m {
	case MenuUiApp:
		options = []BootOption{{0x109, "UiApp", fileUiApp}}
	case MenuSetup:
		options = []BootOption{{0x109, "BootManagerMenuApp", fileBootMenu}, {0x101, "EFI Firmware Setup", fileUiApp}}
	default:
		return nil, fmt.Errorf("predicting boot variables: menu %.32q is unknown", m)
	}
	var order []byte
	for i := range options {
		order = binary.LittleEndian.AppendUint16(order, uint16(i))
	}
	out := []Event{New(1, eventlog.EFIVariableBoot, "variable BootOrder", source, Of(order))}
	for i, o := range options {
		out = append(out, New(1, eventlog.EFIVariableBoot, fmt.Sprintf("variable Boot%04X", i), source, Of(o.bytes())))
	}
	return out, nil
}
