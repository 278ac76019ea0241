package eventlog

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxpb "github.com/google/go-tdx-guest/proto/tdx"

	"cocoon/internal/vectors"
)

// header returns the header event of a log with the given algorithms.
func header(algs ...Algorithm) []byte {
	d := []byte("Spec ID Event03\x00\x00\x00\x00\x00\x00\x02\x00\x02")
	d = binary.LittleEndian.AppendUint32(d, uint32(len(algs)))
	for _, a := range algs {
		d = binary.LittleEndian.AppendUint16(d, uint16(a))
		d = binary.LittleEndian.AppendUint16(d, uint16(sizes[a]))
	}
	d = append(d, 0)
	b := make([]byte, 28)
	binary.LittleEndian.PutUint32(b[4:], uint32(NoAction))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(d)))
	return append(b, d...)
}

// event returns an event with a digest made of one byte.
func event(register uint32, t Type, fill byte, data string, algs ...Algorithm) []byte {
	b := binary.LittleEndian.AppendUint32(nil, register)
	b = binary.LittleEndian.AppendUint32(b, uint32(t))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(algs)))
	for _, a := range algs {
		b = binary.LittleEndian.AppendUint16(b, uint16(a))
		b = append(b, bytes.Repeat([]byte{fill}, sizes[a])...)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestParseRefusesMalformedLogs(t *testing.T) {
	h := header(SHA256)
	good := event(4, Separator, 1, "\x00\x00\x00\x00", SHA256)
	twice := join(h[:32], h[32:]) // a copy to be changed
	twice[28+4+24] = 0            // no algorithms
	locality := func(l string, fill byte) []byte {
		return event(0, NoAction, fill, "StartupLocality\x00"+l, SHA256)
	}
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"empty":                       {nil, ErrTruncated},
		"no header":                   {join(good, good), ErrFormat},
		"header without algorithms":   {twice, ErrFormat},
		"second header":               {join(h, event(0, NoAction, 0, "Spec ID Event03\x00", SHA256)), ErrFormat},
		"event cut short":             {join(h, good[:len(good)-1]), ErrTruncated},
		"trailing zeros":              {join(h, good, make([]byte, 64)), ErrFormat},
		"register out of range":       {join(h, event(24, Separator, 1, "", SHA256)), ErrFormat},
		"digest of another algorithm": {join(h, event(4, Separator, 1, "longer than the digest", SHA1)), ErrFormat},
		"digest missing":              {join(h, event(4, Separator, 1, "")), ErrFormat},
		"one digest too many":         {join(h, event(4, Separator, 1, "", SHA256, SHA1)), ErrFormat},
		"huge event":                  {join(h, good[:len(good)-8], []byte{0xff, 0xff, 0xff, 0xff}), ErrTruncated},
		"locality 1":                  {join(h, locality("\x01", 0)), ErrFormat},
		"locality twice":              {join(h, locality("\x03", 0), locality("\x03", 0)), ErrFormat},
		"locality after an extension": {join(h, event(0, SCRTMVersion, 1, "", SHA256), locality("\x03", 0)), ErrFormat},
		"over the size limit":         {make([]byte, MaxSize+1), ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseTPM(c.in); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestReplayStartsFromTheLocality(t *testing.T) {
	l, err := ParseTPM(join(header(SHA256),
		event(0, NoAction, 0, "StartupLocality\x00\x03", SHA256),
		event(0, SCRTMVersion, 0xab, "", SHA256),
		event(9, NoAction, 0xab, "left out", SHA256)))
	if err != nil {
		t.Fatal(err)
	}
	regs, err := l.Replay(SHA256)
	if err != nil {
		t.Fatal(err)
	}
	h := newHash(SHA256)
	h.Write(append(make([]byte, 31), 3))
	h.Write(bytes.Repeat([]byte{0xab}, 32))
	if diff := cmp.Diff(Registers{0: h.Sum(nil)}, regs); diff != "" {
		t.Errorf("registers (-want +got):\n%s", diff)
	}
	if _, err := l.Replay(SHA384); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("replay of an absent algorithm: %v", err)
	}
}

// TestRealTPMLogAgreesWithGoEventlog hands the registers that this package
// replays to google/go-eventlog, which must find the log to give them.
func TestRealTPMLogAgreesWithGoEventlog(t *testing.T) {
	raw := read(t, "tpm-ubuntu2404-sevsnp.eventlog.bin")
	l, err := ParseTPM(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []Algorithm{SHA1, SHA256, SHA384} {
		regs, err := l.Replay(a)
		if err != nil {
			t.Fatal(err)
		}
		var mrs []register.MR
		for i, v := range regs {
			mrs = append(mrs, register.PCR{Index: i, Digest: v, DigestAlg: map[Algorithm]crypto.Hash{SHA1: crypto.SHA1, SHA256: crypto.SHA256, SHA384: crypto.SHA384}[a]})
		}
		theirs, err := tcg.ParseAndReplay(raw, mrs, tcg.ParseOpts{})
		if err != nil {
			t.Fatalf("go-eventlog does not replay to the same registers: %v", err)
		}
		byNumber := map[uint32]tcg.Event{}
		for _, e := range theirs {
			byNumber[e.Num()] = e
		}
		n := 0
		for i := range l.Events {
			e, ok := byNumber[uint32(i+1)] // the header is their number 0
			if !ok {
				continue
			}
			n++
			got := &l.Events[i]
			if e.MRIndex() != got.Register || uint32(e.UntrustedType()) != uint32(got.Type) ||
				!bytes.Equal(e.ReplayedDigest(), got.Digest(a)) || !bytes.Equal(e.RawData(), got.Data) {
				t.Errorf("event %d differs: %+v, go-eventlog %+v", i, got, e)
			}
		}
		if n == 0 || n < len(theirs)-2 {
			t.Errorf("compared %d of %d events", n, len(theirs))
		}
	}
}

// TestCCELReplaysToTheQuote replays a real CCEL to the RTMRs of the quote
// that was taken with it, and refuses that for its forged sibling.
func TestCCELReplaysToTheQuote(t *testing.T) {
	q, err := tdxabi.QuoteToProto(read(t, "ccel-gcp-cos113.quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	rtmrs := q.(*tdxpb.QuoteV4).GetTdQuoteBody().GetRtmrs()
	equal := func(file string) (n int) {
		l, err := ParseCCEL(read(t, file))
		if err != nil {
			t.Fatal(err)
		}
		regs, err := l.Replay(SHA384)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if bytes.Equal(regs[i+1], rtmrs[i]) {
				n++
			}
		}
		return n
	}
	if n := equal("ccel-gcp-cos113.ccel.bin"); n != 3 {
		t.Errorf("%d of RTMR0 to RTMR2 equal the quote, want 3", n)
	}
	if n := equal("neg-cos113-dupe-separator.ccel.bin"); n != 1 {
		t.Errorf("%d of RTMR0 to RTMR2 equal the quote for the log with a duplicate separator, want 1", n)
	}
}

// TestCCELParsesAsExpected compares with the events that the logs' source
// publishes for them.
func TestCCELParsesAsExpected(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(t), "eventlog", "*.expected.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no expected logs: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var want struct {
				Events []struct {
					Index    uint32 `json:"index"`
					TypeName string `json:"type_name"`
					Event    string `json:"event"`
					Digests  []struct {
						Digest string `json:"digest"`
					} `json:"digests"`
				} `json:"uefi_event_logs"`
			}
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			l, err := ParseCCEL(read(t, strings.TrimSuffix(filepath.Base(f), ".expected.json")+".ccel.bin"))
			if err != nil {
				t.Fatal(err)
			}
			var events []Event
			for _, e := range l.Events {
				if e.Type != NoAction || len(l.Events) == len(want.Events) {
					events = append(events, e)
				}
			}
			if len(events) != len(want.Events) {
				t.Fatalf("%d events, want %d", len(events), len(want.Events))
			}
			for i, w := range want.Events {
				e := events[i]
				if e.Register != w.Index || e.Type.String() != w.TypeName ||
					hex.EncodeToString(e.Digests[0].Value) != w.Digests[0].Digest ||
					base64.StdEncoding.EncodeToString(e.Data) != w.Event {
					t.Errorf("event %d: register %d %v %x, want %d %s %s", i, e.Register, e.Type, e.Digests[0].Value, w.Index, w.TypeName, w.Digests[0].Digest)
				}
			}
		})
	}
}

// TestEveryDigestByteMatters flips each digest of a real log once: the
// register that it extends must change.
func TestEveryDigestByteMatters(t *testing.T) {
	raw := read(t, "tpm-ubuntu2404-sevsnp.eventlog.bin")
	l, err := ParseTPM(raw)
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Replay(SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.Events {
		if l.Events[i].Type == NoAction {
			continue
		}
		d := l.Events[i].Digest(SHA256)
		d[i%32] ^= 1
		got, err := l.Replay(SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if r := int(l.Events[i].Register); bytes.Equal(got[r], want[r]) {
			t.Errorf("event %d: register %d does not change with its digest", i, r)
		}
		d[i%32] ^= 1
	}
}

func TestLabelIsPrintableAndBounded(t *testing.T) {
	for name, c := range map[string]struct {
		e    Event
		want string
	}{
		"action":          {Event{Type: EFIAction, Data: []byte("Exit Boot Services Invocation")}, "Exit Boot Services Invocation"},
		"tag":             {Event{Type: EventTag, Data: []byte("\x01\x00\x00\x00\x04\x00\x00\x00ab\n\x00")}, "ab."},
		"tag, wrong size": {Event{Type: EventTag, Data: []byte("\x01\x00\x00\x00\xff\xff\xff\xffab")}, ""},
		"huge name":       {Event{Type: EFIVariableBoot, Data: append(bytes.Repeat([]byte{0xff}, 32), 'a')}, ""},
		"long text":       {Event{Type: Action, Data: bytes.Repeat([]byte("a"), 999)}, strings.Repeat("a", MaxLabel)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.e.Label(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "eventlog", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzParse(f *testing.F) {
	h := header(SHA1, SHA256)
	f.Add(join(h, event(0, NoAction, 0, "StartupLocality\x00\x03", SHA1, SHA256), event(4, EFIBootApplication, 7, "x", SHA1, SHA256)), false)
	f.Add(join(header(SHA384), event(1, EventTag, 7, "\x01\x00\x00\x00\x01\x00\x00\x00x", SHA384), make([]byte, 16)), true)
	f.Fuzz(func(t *testing.T, in []byte, ccel bool) {
		parse := ParseTPM
		if ccel {
			parse = ParseCCEL
		}
		l, err := parse(in)
		if err != nil {
			return
		}
		for i := range l.Events {
			e := &l.Events[i]
			if len(e.Label()) > MaxLabel || len(e.Digests) != len(l.Algorithms) {
				t.Fatalf("event %d: %+v", i, e)
			}
		}
		for _, a := range l.Algorithms {
			regs, err := l.Replay(a)
			if err != nil && a != SM3_256 {
				t.Fatal(err)
			}
			for r, v := range regs {
				if r < 0 || r > 23 || len(v) != sizes[a] {
					t.Fatalf("register %d: %x", r, v)
				}
			}
		}
	})
}
