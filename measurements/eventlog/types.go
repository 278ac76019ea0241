package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Type is an event type (PFP section 10.4.1).
type Type uint32

// Event types that firmware, boot loaders and the kernel's EFI stub write.
const (
	PrebootCert           Type = 0x00000000
	PostCode              Type = 0x00000001
	NoAction              Type = 0x00000003 // never extended
	Separator             Type = 0x00000004
	Action                Type = 0x00000005
	EventTag              Type = 0x00000006
	SCRTMContents         Type = 0x00000007
	SCRTMVersion          Type = 0x00000008
	CPUMicrocode          Type = 0x00000009
	PlatformConfigFlags   Type = 0x0000000A
	TableOfDevices        Type = 0x0000000B
	CompactHash           Type = 0x0000000C
	IPL                   Type = 0x0000000D
	IPLPartitionData      Type = 0x0000000E
	NonhostCode           Type = 0x0000000F
	NonhostConfig         Type = 0x00000010
	NonhostInfo           Type = 0x00000011
	OmitBootDeviceEvents  Type = 0x00000012
	EFIVariableDriverConf Type = 0x80000001
	EFIVariableBoot       Type = 0x80000002
	EFIBootApplication    Type = 0x80000003
	EFIBootDriver         Type = 0x80000004
	EFIRuntimeDriver      Type = 0x80000005
	EFIGPTEvent           Type = 0x80000006
	EFIAction             Type = 0x80000007
	EFIFirmwareBlob       Type = 0x80000008
	EFIHandoffTables      Type = 0x80000009
	EFIFirmwareBlob2      Type = 0x8000000A
	EFIHandoffTables2     Type = 0x8000000B
	EFIVariableBoot2      Type = 0x8000000C
	EFIHCRTMEvent         Type = 0x80000010
	EFIVariableAuthority  Type = 0x800000E0
	EFISPDMFirmwareBlob   Type = 0x800000E1
	EFISPDMFirmwareConfig Type = 0x800000E2
)

var names = map[Type]string{
	PrebootCert: "EV_PREBOOT_CERT", PostCode: "EV_POST_CODE", NoAction: "EV_NO_ACTION", Separator: "EV_SEPARATOR",
	Action: "EV_ACTION", EventTag: "EV_EVENT_TAG", SCRTMContents: "EV_S_CRTM_CONTENTS", SCRTMVersion: "EV_S_CRTM_VERSION",
	CPUMicrocode: "EV_CPU_MICROCODE", PlatformConfigFlags: "EV_PLATFORM_CONFIG_FLAGS", TableOfDevices: "EV_TABLE_OF_DEVICES",
	CompactHash: "EV_COMPACT_HASH", IPL: "EV_IPL", IPLPartitionData: "EV_IPL_PARTITION_DATA",
	NonhostCode: "EV_NONHOST_CODE", NonhostConfig: "EV_NONHOST_CONFIG", NonhostInfo: "EV_NONHOST_INFO",
	OmitBootDeviceEvents: "EV_OMIT_BOOT_DEVICE_EVENTS", EFIVariableDriverConf: "EV_EFI_VARIABLE_DRIVER_CONFIG",
	EFIVariableBoot: "EV_EFI_VARIABLE_BOOT", EFIBootApplication: "EV_EFI_BOOT_SERVICES_APPLICATION",
	EFIBootDriver: "EV_EFI_BOOT_SERVICES_DRIVER", EFIRuntimeDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER",
	EFIGPTEvent: "EV_EFI_GPT_EVENT", EFIAction: "EV_EFI_ACTION", EFIFirmwareBlob: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	EFIHandoffTables: "EV_EFI_HANDOFF_TABLES", EFIFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	EFIHandoffTables2: "EV_EFI_HANDOFF_TABLES2", EFIVariableBoot2: "EV_EFI_VARIABLE_BOOT2",
	EFIHCRTMEvent: "EV_EFI_HCRTM_EVENT", EFIVariableAuthority: "EV_EFI_VARIABLE_AUTHORITY",
	EFISPDMFirmwareBlob: "EV_EFI_SPDM_FIRMWARE_BLOB", EFISPDMFirmwareConfig: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

// String returns the TCG's name, or the number.
func (t Type) String() string {
	if n, ok := names[t]; ok {
		return n
	}
	return fmt.Sprintf("event type %#08x", uint32(t))
}

// MarshalText returns what String does.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a TCG's name. A type without one is refused: no
// document of this project names it.
func (t *Type) UnmarshalText(b []byte) error {
	for v, n := range names {
		if n == string(b) {
			*t = v
			return nil
		}
	}
	return fmt.Errorf("reading event type %.64q: %w", b, ErrFormat)
}

// MaxLabel bounds the text that Label returns.
const MaxLabel = 128

// Label returns what the event's data says of itself, for people: the text of
// actions and tags, the name of a variable. It is printable ASCII, not
// proven, and empty where there is nothing to say.
func (e *Event) Label() string {
	switch e.Type {
	case Action, EFIAction, IPL, NoAction, SCRTMContents:
		return printable(e.Data)
	case EventTag:
		// TCG_PCClientTaggedEvent: id u32, size u32, data.
		if len(e.Data) >= 8 && int64(binary.LittleEndian.Uint32(e.Data[4:])) == int64(len(e.Data)-8) {
			return printable(e.Data[8:])
		}
	case EFIVariableDriverConf, EFIVariableBoot, EFIVariableBoot2, EFIVariableAuthority:
		// UEFI_VARIABLE_DATA: GUID, name length u64 in UTF-16 units, data length u64.
		if len(e.Data) >= 32 {
			n := binary.LittleEndian.Uint64(e.Data[16:])
			if n <= MaxLabel && int(n)*2 <= len(e.Data)-32 {
				return printable(e.Data[32 : 32+2*n])
			}
		}
	}
	return ""
}

// printable returns the ASCII letters of b, up to MaxLabel of them; bytes of
// value 0, which UTF-16 and terminators have, are left out.
func printable(b []byte) string {
	b = bytes.TrimRight(b, "\x00")
	var out []byte
	for _, c := range b {
		if len(out) == MaxLabel {
			break
		}
		switch {
		case c == 0:
		case c < 0x20 || c > 0x7e:
			out = append(out, '.')
		default:
			out = append(out, c)
		}
	}
	return string(out)
}
