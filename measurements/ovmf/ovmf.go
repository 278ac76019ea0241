package ovmf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"

	"cocoon/measurements/boot"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/tdvf"
)

// Core is what OVMF's measured core extends into PCR 0.
type Core struct {
	Version string          // PcdFirmwareVersionString
	Volumes []*boot.Digests // of the volumes that were unpacked, in order
}

// ReadCore unpacks a firmware and returns its core. ErrAbsent says that the
// firmware is not built like OVMF or measures nothing of itself.
func ReadCore(f *tdvf.Firmware) (*Core, error) {
	left := budget{maxUnpacked, maxCompressed}
	c := &Core{}
	for _, v := range volumes(f.Data) {
		if v.guid == guidNVData {
			continue
		}
		found, err := v.unpacked(&left)
		if err != nil {
			return nil, fmt.Errorf("unpacking firmware: %w", err)
		}
		for _, b := range found {
			if err := c.add(b); err != nil {
				return nil, err
			}
		}
	}
	if len(c.Volumes) == 0 || c.Version == "" {
		return nil, fmt.Errorf("reading measured core: %w: %d volumes, version %q", ErrAbsent, len(c.Volumes), c.Version)
	}
	return c, nil
}

// add takes an unpacked volume and looks for the module that measures.
func (c *Core) add(b []byte) error {
	v, ok := readVolume(b)
	if !ok || len(v.data) != len(b) {
		return fmt.Errorf("reading unpacked volume: %w", ErrFormat)
	}
	c.Volumes = append(c.Volumes, boot.Of(b))
	err := v.files(func(f file) error {
		if f.guid != guidTcg2Pei {
			return nil
		}
		version, err := findVersion(f.body)
		if err == nil && c.Version != "" {
			err = fmt.Errorf("%w: two modules that measure", ErrFormat)
		}
		c.Version = version
		return err
	})
	if err != nil {
		return fmt.Errorf("reading unpacked volume: %w", err)
	}
	return nil
}

// versionRE is the form of an edk2 release's version: year, month, and what a
// distribution puts behind it.
var versionRE = regexp.MustCompile(`(?:[0-9]\x00){4}\.\x00(?:[0-9]\x00){2}(?:[-+~.0-9A-Za-z]\x00){0,64}\x00\x00`)

// findVersion returns the version string that is compiled into the module: the
// one UTF-16 text in it that has the form of a version.
func findVersion(module []byte) (string, error) {
	seen := map[string]bool{}
	for _, m := range versionRE.FindAll(module, 16) {
		seen[string(bytes.ReplaceAll(m[:len(m)-2], []byte{0}, nil))] = true
	}
	if len(seen) != 1 {
		return "", fmt.Errorf("%w: %d texts in the module could be the version", ErrAbsent, len(seen))
	}
	for s := range seen {
		return s, nil
	}
	return "", ErrAbsent
}

// Events returns the events of PCR 0 up to its separator: EV_S_CRTM_VERSION
// over the version in UTF-16 with a final NUL, then
// EV_EFI_PLATFORM_FIRMWARE_BLOB for each volume (Tcg2Pei.c).
func (c *Core) Events(source string) []boot.Event {
	var version []byte
	for _, b := range []byte(c.Version) {
		version = append(version, b, 0)
	}
	out := []boot.Event{boot.New(0, eventlog.SCRTMVersion, "firmware version "+c.Version, source, boot.Of(append(version, 0, 0)))}
	for i, d := range c.Volumes {
		out = append(out, boot.New(0, eventlog.EFIFirmwareBlob, fmt.Sprintf("firmware volume %d", i), source, d))
	}
	return out
}

// Variables says which variables a firmware file comes with.
type Variables struct {
	Names    []string // of those that are set, in order
	Enrolled bool     // whether Secure Boot keys are among them
}

// Layout of a variable store (VariableFormat.h).
const (
	storeHeader    = 28
	variableHeader = 60 // AUTHENTICATED_VARIABLE_HEADER
	startID        = 0x55aa
	stateAdded     = 0x3f
	maxName        = 1024
)

var guidAuthStore = tdvf.GUID{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92} // aaf32c78-947b-439a-a180-2e144ec37792

// ReadVariables reads the variable store of a firmware file.
func ReadVariables(f *tdvf.Firmware) (*Variables, error) {
	v, ok := readVolume(f.Data)
	if !ok || v.guid != guidNVData {
		return nil, fmt.Errorf("reading variable store: %w", ErrAbsent)
	}
	b := v.data[v.header:]
	if len(b) < storeHeader || tdvf.GUID(b) != guidAuthStore {
		return nil, fmt.Errorf("reading variable store: %w: not an authenticated one", ErrFormat)
	}
	size := binary.LittleEndian.Uint32(b[16:])
	if size < storeHeader || uint64(size) > uint64(len(b)) {
		return nil, fmt.Errorf("reading variable store: %w: %d bytes", ErrFormat, size)
	}
	out := &Variables{}
	for b = b[storeHeader:size]; len(b) >= variableHeader && binary.LittleEndian.Uint16(b) == startID; {
		name, data := binary.LittleEndian.Uint32(b[36:]), binary.LittleEndian.Uint32(b[40:])
		end := uint64(variableHeader) + uint64(name) + uint64(data)
		if name%2 != 0 || name > maxName || end > uint64(len(b)) {
			return nil, fmt.Errorf("reading variable store: %w: variable of %d and %d bytes", ErrFormat, name, data)
		}
		if b[2] == stateAdded {
			n := string(bytes.ReplaceAll(b[variableHeader:variableHeader+name], []byte{0}, nil))
			out.Names = append(out.Names, n)
			switch n {
			case "PK", "KEK", "db", "dbx", "SecureBootEnable":
				out.Enrolled = true
			}
		}
		b = b[min((end+3)&^3, uint64(len(b))):]
	}
	return out, nil
}
