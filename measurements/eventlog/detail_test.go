package eventlog

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/vectors"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// trusteeEvent is an event as the logs' source reads it.
type trusteeEvent struct {
	Matches bool `json:"digest_matches_event"`
	Details struct {
		String     string   `json:"string"`
		Name       string   `json:"unicode_name"`
		NameLength *int     `json:"unicode_name_length"`
		GUID       string   `json:"variable_name"` // the bytes in order, not as a GUID
		Variable   string   `json:"variable_data"`
		Paths      []string `json:"device_paths"`
		Data       struct {
			Domain    string          `json:"domain"`
			Operation string          `json:"operation"`
			Content   json.RawMessage `json:"content"`
		} `json:"data"`
	} `json:"details"`
}

// TestDetailsMeanWhatTheLogsSourceReads compares the decoded events with
// those that Trustee, another reader, publishes for the same logs.
func TestDetailsMeanWhatTheLogsSourceReads(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(t), "eventlog", "*.expected.json"))
	if err != nil || len(files) != 4 {
		t.Fatalf("%d expected logs, want 4: %v", len(files), err)
	}
	kinds := map[string]int{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			Events []trusteeEvent `json:"uefi_event_logs"`
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		l := logOf(t, strings.TrimSuffix(filepath.Base(f), ".expected.json")+".ccel.bin")
		if len(l.Events) != len(want.Events) {
			t.Fatalf("%s: %d events, want %d", filepath.Base(f), len(l.Events), len(want.Events))
		}
		for i, w := range want.Events {
			d := l.Describe(i)
			if (d.Proof == ProofData) != w.Matches {
				t.Errorf("%s event %d: proof %s, want match %v", filepath.Base(f), i, d.Proof, w.Matches)
			}
			kind := "none"
			if d.Detail != nil {
				kind = d.Detail.Kind()
			}
			kinds[kind]++
			if diff := cmp.Diff(meaning(w), meaningOf(d.Detail, w)); diff != "" {
				t.Errorf("%s event %d, %s (-want +got):\n%s", filepath.Base(f), i, kind, diff)
			}
		}
	}
	for _, k := range []string{"variable", "image", "gpt", "text", "tagged", "firmware", "tables", "separator", "loader", "section", "agent", "reference"} {
		if kinds[k] == 0 {
			t.Errorf("no event of kind %s was compared", k)
		}
	}
	if kinds["none"] != 0 {
		t.Errorf("%d events were not decoded", kinds["none"])
	}
}

// meaning writes what the source says of an event.
func meaning(w trusteeEvent) []string {
	d := w.Details
	switch {
	case d.NameLength != nil:
		return []string{d.GUID, d.Name, d.Variable}
	case d.Data.Domain != "":
		var c bytes.Buffer
		if err := json.Compact(&c, d.Data.Content); err != nil {
			return []string{err.Error()}
		}
		return []string{d.Data.Domain, d.Data.Operation, strings.Trim(c.String(), `"`)}
	case d.Paths != nil:
		return d.Paths
	case d.String != "":
		return []string{d.String}
	}
	return nil
}

// meaningOf writes the same of what was decoded here.
func meaningOf(d Detail, w trusteeEvent) []string {
	switch d := d.(type) {
	case Variable:
		b := make([]byte, 16)
		// The source writes the GUID's bytes in their order in memory.
		raw, _ := hex.DecodeString(strings.ReplaceAll(d.GUID, "-", ""))
		for i, from := range []int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
			b[i] = raw[from]
		}
		h := hexOf(b)
		return []string{h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], d.Name, base64.StdEncoding.EncodeToString(d.Data)}
	case AgentEvent:
		var c bytes.Buffer
		if json.Compact(&c, []byte(d.Content)) == nil {
			return []string{d.Domain, d.Operation, c.String()}
		}
		return []string{d.Domain, d.Operation, d.Content}
	case Image:
		return d.Path
	case Text:
		return []string{d.Text}
	case Tagged:
		return []string{d.Text}
	case Firmware:
		return []string{d.Description}
	case Tables:
		return []string{d.Description}
	case Section:
		return []string{strings.TrimPrefix(d.Name, ".")} // the source leaves it out
	case Loader:
		// The label is part of the source's string.
		if strings.HasSuffix(w.Details.String, d.Text) {
			return []string{w.Details.String}
		}
		return []string{d.Text}
	}
	return nil
}

// TestProofSaysWhatADigestCovers looks at events of real logs of which it is
// known what was measured.
func TestProofSaysWhatADigestCovers(t *testing.T) {
	for _, c := range []struct {
		file   string
		event  int
		proof  Proof
		proven string
		text   string
	}{
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 0, ProofData, "", "GCE Virtual Firmware v2"},
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 2, ProofData, "", "SecureBoot = 00"},
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 8, ProofLabel, "", "ACPI DATA"},
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 11, ProofPart, "variable data", "BootOrder = 020001000000"},
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 24, ProofLabel, "", `ACPI(PNP0A03,0)/Pci(0,4)/Path(3,23,010000000000000000000000)/HD(15,`},
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 25, ProofLabel, "", "name: MokList"},
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 33, ProofPart, "text", "command: set prefix=(hd0,gpt16)/grub"},
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 104, ProofPart, "text", "kernel_cmdline: /vmlinuz-6.8.0-1010-gcp root="},
		{"tpm-ubuntu2404-sevsnp.eventlog.bin", 112, ProofLabel, "", "LOADED_IMAGE::LoadOptions"},
		{"ccel-gcp-cos113.ccel.bin", 40, ProofPart, "text", "kernel_cmdline: /syslinux/vmlinuz.A init="},
		{"ccel-trustee-CCEL_data_grub_gke.ccel.bin", 0, ProofLabel, "", "SP800-155 Event3"},
		{"ccel-trustee-CCEL_data_grub_gke.ccel.bin", 20, ProofPart, "section name", "section .linux"},
		{"ccel-trustee-CCEL_data_grub_gke.ccel.bin", 21, ProofLabel, "", "section .linux"},
		{"ccel-trustee-CCEL_AAEL_alibabacloud.ccel.bin", 85, ProofData, "", "coco.com some-operation some-content"},
		{"jsonlog-dstack-quote-report.json", 22, ProofPart, "name and payload", "compose-hash = 3763bc34"},
	} {
		d := logOf(t, c.file).Describe(c.event)
		if d.Proof != c.proof || d.Proven != c.proven || !strings.HasPrefix(d.Detail.String(), c.text) {
			t.Errorf("%s event %d: %s %q %q, want %s %q %q…", c.file, c.event, d.Proof, d.Proven, d.Detail, c.proof, c.proven, c.text)
		}
	}
}

// TestDataThatChangesIsNoLongerProven flips bytes of the data of every proven
// event of a real log: none of them may still be called proven, unless the
// byte is outside the part that is.
func TestDataThatChangesIsNoLongerProven(t *testing.T) {
	l := logOf(t, "tpm-ubuntu2404-sevsnp.eventlog.bin")
	n := 0
	for i := range l.Events {
		before := l.Describe(i)
		if before.Proof == ProofLabel {
			continue
		}
		e := &l.Events[i]
		data := e.Data
		for at := 0; at < len(data); at += 1 + len(data)/50 {
			e.Data = bytes.Clone(data)
			e.Data[at] ^= 1
			n++
			d := l.Describe(i)
			if d.Proof == ProofData || d.Proof == ProofPart && before.Proof == ProofData {
				t.Fatalf("event %d with byte %d changed is still %s", i, at, d.Proof)
			}
			if d.Proof == ProofPart && !sameProven(before.Detail, d.Detail) {
				t.Fatalf("event %d with byte %d changed: %s is still proven, and differs", i, at, d.Proven)
			}
		}
		e.Data = data
	}
	if n < 1000 {
		t.Errorf("%d changes, want 1000 or more", n)
	}
}

// sameProven compares the parts that ProofPart is about.
func sameProven(a, b Detail) bool {
	switch a := a.(type) {
	case Variable:
		v, ok := b.(Variable)
		return ok && bytes.Equal(a.Data, v.Data)
	case Loader:
		v, ok := b.(Loader)
		return ok && a.Text == v.Text
	}
	return false
}

func FuzzDescribe(f *testing.F) {
	for _, t := range []Type{EFIVariableBoot, EFIBootApplication, EFIGPTEvent, EFIFirmwareBlob2, EFIHandoffTables2, EventTag, IPL, NoAction, Separator, SCRTMVersion, RuntimeEvent, EFIAction} {
		f.Add(uint32(t), []byte("EFI PART\x04\x04\x04\x00a\x00"))
	}
	f.Add(uint32(EFIBootApplication), append(make([]byte, 24), "\x04\x00\x00\x00\x00\x00\x00\x00\x7f\xff\x04\x00"...))
	f.Fuzz(func(t *testing.T, typ uint32, data []byte) {
		l := &Log{Kind: KindTPM, Algorithms: []Algorithm{SHA256}, Events: []Event{{Type: Type(typ), Data: data, Digests: []Digest{{SHA256, make([]byte, 32)}}}}}
		d := l.Describe(0)
		if d.Proof != ProofLabel {
			t.Fatalf("a zero digest proves %v", d)
		}
		if d.Detail == nil {
			return
		}
		s := d.Detail.String()
		if len(s) > 8*MaxLabel {
			t.Fatalf("text of %d bytes", len(s))
		}
		for _, r := range s {
			if r < 0x20 || r == 0x7f {
				t.Fatalf("control character in %q", s)
			}
		}
		if _, err := json.Marshal(d.Detail); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`[{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"01"}]`))
	f.Add([]byte(`{"event_log":"[]"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := Parse(in)
		if err != nil {
			return
		}
		l.Check()
		for i := range l.Events {
			l.Describe(i)
		}
		if _, err := l.Traces(l.Algorithms[0]); err != nil && l.Algorithms[0] != SM3_256 {
			t.Fatal(err)
		}
	})
}
