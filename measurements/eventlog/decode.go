package eventlog

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// maxEntries bounds the partitions and tables of one event.
const maxEntries = 256

// Describe returns what event i of the log says and what of it is proven.
func (l *Log) Describe(i int) Description {
	e := &l.Events[i]
	d := Description{Detail: decode(e), Proof: ProofLabel}
	switch {
	case e.Type == NoAction: // never measured
	case len(e.Data) > 0 && l.covers(e, e.Data):
		d.Proof = ProofData
	default:
		if part, name := provenPart(e, d.Detail); name != "" && l.covers(e, part) {
			d.Proof, d.Proven = ProofPart, name
		}
	}
	return d
}

// provenPart returns the part of an event's data that firmware and loaders
// take the digest of where it is not the whole, and its name.
func provenPart(e *Event, d Detail) ([]byte, string) {
	switch d := d.(type) {
	case Variable:
		// EV_EFI_VARIABLE_BOOT measures the variable's data alone (PFP section
		// 10.4.1); BOOT2 the whole structure.
		return d.Data, "variable data"
	case Loader:
		// GRUB measures the text without its label and terminator.
		if d.Source != loaderName {
			return []byte(d.Text), "text"
		}
	case Section:
		// systemd's stub measures the name in ASCII with its terminator, and
		// after it, under the same label, the content.
		return append([]byte(d.Name), 0), "section name"
	case Text:
		return []byte(d.Text), "text"
	case Runtime:
		return runtimeInput(e.Name, e.Data), "name and payload"
	}
	return nil, ""
}

// decode reads an event's data by its type; nil where it has another form.
func decode(e *Event) Detail {
	switch e.Type {
	case EFIVariableDriverConf, EFIVariableBoot, EFIVariableBoot2, EFIVariableAuthority:
		return decodeVariable(e.Data)
	case EFIBootApplication, EFIBootDriver, EFIRuntimeDriver:
		return decodeImage(e.Data)
	case EFIGPTEvent, EFIGPTEvent2:
		return decodeGPT(e.Data)
	case EFIFirmwareBlob, EFIFirmwareBlob2:
		return decodeFirmware(e.Data, e.Type == EFIFirmwareBlob2)
	case EFIHandoffTables, EFIHandoffTables2:
		return decodeTables(e.Data, e.Type == EFIHandoffTables2)
	case EventTag:
		return decodeTagged(e.Data)
	case IPL:
		return decodeIPL(e.Data)
	case RuntimeEvent:
		return Runtime{e.Name, e.Data}
	case NoAction:
		return decodeNoAction(e.Data)
	case Separator:
		if len(e.Data) == 4 {
			return SeparatorValue{binary.LittleEndian.Uint32(e.Data)}
		}
		return nil
	case SCRTMVersion:
		if isUCS2(e.Data) {
			return Text{ucs2(e.Data)}
		}
		return text(e.Data)
	case Action, EFIAction, PostCode, PlatformConfigFlags, SCRTMContents, OmitBootDeviceEvents, CompactHash, EFIHCRTMEvent,
		TableOfDevices, NonhostInfo, NonhostConfig:
		return text(e.Data)
	}
	return nil
}

// text reads text up to its terminator; nil where there is none to be read.
func text(b []byte) Detail {
	t, _, _ := bytes.Cut(b, []byte{0})
	if len(t) == 0 {
		return nil
	}
	for _, c := range t {
		if c < 0x20 && c != '\t' && c != '\n' && c != '\r' || c > 0x7e {
			return nil
		}
	}
	return Text{string(t)}
}

func decodeVariable(b []byte) Detail {
	r := &reader{b: b}
	id, n, size := r.bytes(16), r.u64(), r.u64()
	if r.err != nil || n > uint64(r.left())/2 {
		return nil
	}
	name := r.bytes(int(2 * n))
	if size != uint64(r.left()) {
		return nil
	}
	return Variable{guid(id), ucs2(name), r.bytes(r.left())}
}

func decodeImage(b []byte) Detail {
	r := &reader{b: b}
	i := Image{Address: r.u64(), Length: r.u64(), LinkAddress: r.u64()}
	n := r.u64()
	if r.err != nil || n != uint64(r.left()) {
		return nil
	}
	i.Path = devicePath(r.bytes(int(n)))
	return i
}

func decodeGPT(b []byte) Detail {
	// UEFI_PARTITION_TABLE_HEADER (UEFI 2.10, section 5.3.2), then a count and
	// entries of 128 bytes.
	r := &reader{b: b}
	h, n := r.bytes(92), r.u64()
	if r.err != nil || string(h[:8]) != "EFI PART" || n > maxEntries || n*128 != uint64(r.left()) {
		return nil
	}
	g := GPT{Disk: guid(h[56:72])}
	for range n {
		e := r.bytes(128)
		g.Partitions = append(g.Partitions, Partition{Type: guid(e), ID: guid(e[16:]),
			First: binary.LittleEndian.Uint64(e[32:]), Last: binary.LittleEndian.Uint64(e[40:]), Name: ucs2(e[56:])})
	}
	return g
}

func decodeFirmware(b []byte, described bool) Detail {
	r := &reader{b: b}
	var f Firmware
	if described {
		f.Description = cstring(r.bytes(int(r.u8())))
	}
	f.Base, f.Length = r.u64(), r.u64()
	if r.err != nil || r.left() != 0 {
		return nil
	}
	return f
}

func decodeTables(b []byte, described bool) Detail {
	r := &reader{b: b}
	var t Tables
	if described {
		t.Description = cstring(r.bytes(int(r.u8())))
	}
	n := r.u64()
	if r.err != nil || n > maxEntries || n*24 != uint64(r.left()) {
		return nil
	}
	for range n {
		t.Tables = append(t.Tables, Table{GUID: guid(r.bytes(16)), Address: r.u64()})
	}
	return t
}

// tagAgent is "AAEL", little-endian: the guest agent's event log of
// Confidential Containers.
const tagAgent = 0x4141454C

func decodeTagged(b []byte) Detail {
	r := &reader{b: b}
	id, n := r.u32(), r.size()
	data := r.bytes(int(n))
	if r.err != nil || r.left() != 0 {
		return nil
	}
	if id == tagAgent {
		if p := strings.SplitN(string(data), " ", 3); len(p) == 3 {
			return AgentEvent{p[0], p[1], p[2]}
		}
	}
	return Tagged{id, cstring(data)}
}

// loaderName is the source of an EV_IPL that is a name alone.
const loaderName = "name"

func decodeIPL(b []byte) Detail {
	if isUCS2(b) {
		return Section{ucs2(b)}
	}
	t, _, ok := bytes.Cut(b, []byte{0})
	if !ok || len(t) == 0 {
		return nil
	}
	for _, p := range []struct{ prefix, source string }{
		{"grub_cmd: ", "command"}, {"kernel_cmdline: ", "kernel_cmdline"}, {"module_cmdline: ", "module_cmdline"},
		{"grub_cmd ", "command"}, {"grub_kernel_cmdline ", "kernel_cmdline"},
	} {
		if rest, ok := bytes.CutPrefix(t, []byte(p.prefix)); ok {
			return Loader{p.source, string(rest)}
		}
	}
	return Loader{loaderName, string(t)}
}

func decodeNoAction(b []byte) Detail {
	if len(b) < 16 {
		return nil
	}
	sig := cstring(b[:16])
	if sig == "" || sig != printable([]byte(sig)) {
		return nil
	}
	return Reference{sig, b[16:]}
}

// isUCS2 reports whether b is ASCII in UTF-16LE with a terminator.
func isUCS2(b []byte) bool {
	if len(b) < 4 || len(b)%2 != 0 || b[len(b)-2] != 0 || b[len(b)-1] != 0 {
		return false
	}
	for i := 0; i < len(b)-2; i += 2 {
		if b[i] < 0x20 || b[i] > 0x7e || b[i+1] != 0 {
			return false
		}
	}
	return true
}

// cstring reads text up to its terminator or the end.
func cstring(b []byte) string {
	t, _, _ := bytes.Cut(b, []byte{0})
	return string(t)
}

func (r *reader) u64() uint64 {
	if v := r.bytes(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}
