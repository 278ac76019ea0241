package tdxtest

import (
	"crypto/sha512"
	"encoding/binary"

	"cocoon/measurements/eventlog"
)

// CCEvent is an event of a made CCEL. Its digest is the SHA-384 of Of.
type CCEvent struct {
	Register uint32 // 1 to 4 for RTMR0 to RTMR3
	Type     eventlog.Type
	Of, Data string
}

// DirectBoot returns what firmware writes at a direct boot, in few words.
func DirectBoot() []CCEvent {
	const sep = "\x00\x00\x00\x00"
	tag := func(text string) string {
		return string(binary.LittleEndian.AppendUint32([]byte{0xec, 0x22, 0x3b, 0x8f}, uint32(len(text)))) + text
	}
	const exited = "Exit Boot Services Returned with Success"
	return []CCEvent{
		{1, eventlog.EFIFirmwareBlob2, "configuration volume", ""},
		{1, eventlog.EFIVariableDriverConf, "SecureBoot", ""},
		{1, eventlog.Separator, sep, sep},
		{2, eventlog.EFIBootApplication, "kernel", ""},
		{2, eventlog.Separator, sep, sep},
		{3, eventlog.EventTag, "command line", tag("LOADED_IMAGE::LoadOptions\x00")},
		{3, eventlog.EventTag, "initrd", tag("Linux initrd\x00")},
		{2, eventlog.EFIAction, exited, exited},
	}
}

// CCEL writes a CCEL with a SHA-384 bank, in a table that is larger than the
// events, and returns the registers that it gives.
func CCEL(events []CCEvent) ([]byte, [4][48]byte) {
	le := binary.LittleEndian
	spec := []byte("Spec ID Event03\x00\x00\x00\x00\x00\x00\x02\x00\x02\x01\x00\x00\x00\x0c\x00\x30\x00\x00")
	b := make([]byte, 28)
	le.PutUint32(b, 1)
	le.PutUint32(b[4:], uint32(eventlog.NoAction))
	b = append(le.AppendUint32(b, uint32(len(spec))), spec...)
	var regs [4][48]byte
	for _, e := range events {
		d := sha512.Sum384([]byte(e.Of))
		b = le.AppendUint32(b, e.Register)
		b = le.AppendUint32(b, uint32(e.Type))
		b = le.AppendUint32(b, 1)
		b = le.AppendUint16(b, uint16(eventlog.SHA384))
		b = append(b, d[:]...)
		b = le.AppendUint32(b, uint32(len(e.Data)))
		b = append(b, e.Data...)
		r := &regs[e.Register-1]
		*r = sha512.Sum384(append(r[:], d[:]...))
	}
	return append(b, make([]byte, 64)...), regs
}
