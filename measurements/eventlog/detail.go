package eventlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf16"
)

// Proof says how much of what an event tells is covered by its digest, and
// so proven where a quote proves the register.
type Proof string

// Proofs.
const (
	ProofData  Proof = "data"  // the digest is that of the whole data
	ProofPart  Proof = "part"  // … of a part of it, which Description.Proven names
	ProofLabel Proof = "label" // the digest is of something that is not in the log: the data is anyone's word
)

// Description is what an event says, in types, and what of that is proven.
type Description struct {
	Detail Detail
	Proof  Proof
	Proven string // the part that ProofPart is about
}

// Detail is the decoded data of an event: one of the types below, nil where
// the data has no form that this package reads.
type Detail interface {
	// Kind names the type, for JSON.
	Kind() string
	// String is a line for people, printable and bounded.
	String() string
}

// Variable is a UEFI_VARIABLE_DATA (PFP section 10.2.6).
type Variable struct {
	GUID string `json:"guid"`
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// Image is a UEFI_IMAGE_LOAD_EVENT (PFP section 10.2.3). The digest is the
// image's Authenticode hash, which is not made of anything here.
type Image struct {
	Address     uint64   `json:"address"`
	Length      uint64   `json:"length"`
	LinkAddress uint64   `json:"link_address"`
	Path        []string `json:"path"` // the device path, a text for each node; nil if it does not parse
}

// GPT is a UEFI_GPT_DATA (PFP section 10.2.5).
type GPT struct {
	Disk       string      `json:"disk"` // GUID
	Partitions []Partition `json:"partitions"`
}

// Partition is an entry of a GPT.
type Partition struct {
	Type  string `json:"type"` // GUID
	ID    string `json:"id"`   // GUID
	First uint64 `json:"first_lba"`
	Last  uint64 `json:"last_lba"`
	Name  string `json:"name"`
}

// Text is an event whose data is text: an action, a version, a name.
type Text struct {
	Text string `json:"text"`
}

// Tagged is a TCG_PCClientTaggedEvent (PFP section 10.2.7).
type Tagged struct {
	ID   uint32 `json:"id"`
	Text string `json:"text"`
}

// Firmware is a UEFI_PLATFORM_FIRMWARE_BLOB or BLOB2 (PFP section 10.2.4).
type Firmware struct {
	Description string `json:"description,omitempty"`
	Base        uint64 `json:"base"`
	Length      uint64 `json:"length"`
}

// Tables is a UEFI_HANDOFF_TABLE_POINTERS or POINTERS2 (PFP section 10.2.8).
type Tables struct {
	Description string  `json:"description,omitempty"`
	Tables      []Table `json:"tables"`
}

// Table names a configuration table.
type Table struct {
	GUID    string `json:"guid"`
	Address uint64 `json:"address"`
}

// SeparatorValue is the data of an EV_SEPARATOR.
type SeparatorValue struct {
	Value uint32 `json:"value"`
}

// Loader is an EV_IPL of a boot loader: GRUB's "grub_cmd: …",
// "kernel_cmdline: …", names of files, and names of shim's variables.
type Loader struct {
	Source string `json:"source"` // "command", "kernel_cmdline", "module_cmdline" or "name"
	Text   string `json:"text"`
}

// Section is an EV_IPL of systemd's EFI stub, which measures name and content
// of a unified kernel image's PE sections in turn.
type Section struct {
	Name string `json:"name"`
}

// AgentEvent is a tagged event of the Confidential Containers guest ("AAEL").
type AgentEvent struct {
	Domain    string `json:"domain"`
	Operation string `json:"operation"`
	Content   string `json:"content"`
}

// Runtime is a runtime event of a JSON log.
type Runtime struct {
	Name    string `json:"name"`
	Payload []byte `json:"payload"`
}

// Reference is an EV_NO_ACTION that says where the platform's reference
// manifest is (PFP section 10.4.5.2, SP800-155 events). It is never measured.
type Reference struct {
	Signature string `json:"signature"`
	Data      []byte `json:"data"`
}

// Kind returns "variable".
func (Variable) Kind() string { return "variable" }

// Kind returns "image".
func (Image) Kind() string { return "image" }

// Kind returns "gpt".
func (GPT) Kind() string { return "gpt" }

// Kind returns "text".
func (Text) Kind() string { return "text" }

// Kind returns "tagged".
func (Tagged) Kind() string { return "tagged" }

// Kind returns "firmware".
func (Firmware) Kind() string { return "firmware" }

// Kind returns "tables".
func (Tables) Kind() string { return "tables" }

// Kind returns "separator".
func (SeparatorValue) Kind() string { return "separator" }

// Kind returns "loader".
func (Loader) Kind() string { return "loader" }

// Kind returns "section".
func (Section) Kind() string { return "section" }

// Kind returns "agent".
func (AgentEvent) Kind() string { return "agent" }

// Kind returns "runtime".
func (Runtime) Kind() string { return "runtime" }

// Kind returns "reference".
func (Reference) Kind() string { return "reference" }

// String returns the name and the first bytes.
func (v Variable) String() string {
	return printable([]byte(v.Name)) + " = " + short(v.Data)
}

// String returns the device path.
func (i Image) String() string {
	if len(i.Path) == 0 {
		return fmt.Sprintf("image of %d bytes", i.Length)
	}
	return printable([]byte(strings.Join(i.Path, "/")))
}

// String names disk and partitions.
func (g GPT) String() string {
	return fmt.Sprintf("disk %s, %d partitions", g.Disk, len(g.Partitions))
}

// String returns the text.
func (t Text) String() string { return printable([]byte(t.Text)) }

// String returns the text.
func (t Tagged) String() string { return printable([]byte(t.Text)) }

// String returns the description and the place.
func (f Firmware) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %#x, %d bytes", printable([]byte(f.Description)), f.Base, f.Length))
}

// String returns the description and the number of tables.
func (t Tables) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %d tables", printable([]byte(t.Description)), len(t.Tables)))
}

// String returns the value.
func (s SeparatorValue) String() string { return fmt.Sprintf("%08x", s.Value) }

// String returns the source and the text.
func (l Loader) String() string { return l.Source + ": " + printable([]byte(l.Text)) }

// String returns the name.
func (s Section) String() string { return "section " + printable([]byte(s.Name)) }

// String returns the three parts.
func (a AgentEvent) String() string {
	return printable([]byte(a.Domain + " " + a.Operation + " " + a.Content))
}

// String returns the name and the first bytes.
func (r Runtime) String() string { return printable([]byte(r.Name)) + " = " + short(r.Payload) }

// String returns the signature.
func (r Reference) String() string { return printable([]byte(r.Signature)) }

// short writes the first bytes in hex.
func short(b []byte) string {
	if len(b) <= 32 {
		return hex.EncodeToString(b)
	}
	return fmt.Sprintf("%s… (%d bytes)", hex.EncodeToString(b[:32]), len(b))
}

// guid writes a GUID, which is mixed-endian (UEFI 2.10, appendix A).
func guid(b []byte) string {
	if len(b) < 16 {
		return ""
	}
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%04X-%012X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// ucs2 reads UTF-16LE up to a terminator or the end.
func ucs2(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// covers reports whether an event's digests, each that can be computed, are
// those of b.
func (l *Log) covers(e *Event, b []byte) bool {
	n := 0
	for _, d := range e.Digests {
		h := newHash(d.Algorithm)
		if h == nil {
			continue
		}
		h.Write(b)
		if !bytes.Equal(h.Sum(nil), d.Value) {
			return false
		}
		n++
	}
	return n > 0
}
