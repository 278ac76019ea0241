package launch

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/vectors"
	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/mrtd"
	"cocoon/measurements/rtmr"
)

// dstackEvent is an event as the host's JSON log has it.
type dstackEvent struct {
	IMR     int    `json:"imr"`
	Type    uint32 `json:"event_type"`
	Digest  string `json:"digest"`
	Event   string `json:"event"`
	Payload string `json:"event_payload"`
}

// dstackLog reads a fixture: the TD's registers out of the quote, and the log.
func dstackLog(t testing.TB, name string) (report [5]digest.SHA384, log []dstackEvent, config []byte) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "eventlog", name))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Quote  string `json:"quote"`
		Log    string `json:"event_log"`
		Config string `json:"vm_config"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	quote, err := hex.DecodeString(doc.Quote)
	if err != nil {
		t.Fatal(err)
	}
	// A quote of version 4 has the TD report's body at 48, in which MRTD stands
	// at 136 and the RTMRs at 328.
	body := quote[48:]
	report[0] = digest.SHA384(body[136:])
	for i := range 4 {
		report[1+i] = digest.SHA384(body[328+48*i:])
	}
	if err := json.Unmarshal([]byte(doc.Log), &log); err != nil {
		t.Fatal(err)
	}
	return report, log, []byte(doc.Config)
}

func sum384(t testing.TB, s string) digest.SHA384 {
	t.Helper()
	d, err := digest.Parse384(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// only384 is a digest of which a TD's log knows one algorithm.
func only384(t testing.TB, s string) *boot.Digests {
	t.Helper()
	return &boot.Digests{SHA256: digest.Sum256([]byte("not in a TD's log")), SHA384: sum384(t, s)}
}

// dstackFirmware is the firmware of the fixtures as their measurement document
// describes it; its memory layout is the document's "td_hob", unpacked.
func dstackFirmware(t testing.TB) *Firmware {
	t.Helper()
	return &Firmware{
		Name: "dstack-0.6.0", SHA256: digest.Sum256([]byte("not known")), Cmdline: boot.CmdlineInitrdLast, Menu: boot.MenuUiApp,
		TDX: &FirmwareTDX{
			MRTD: mrtd.Values{
				SinglePass: sum384(t, "a6f2ac9451810686a4db259fe8fa5438dc4a58bda9fd2f5b1fb0928335705500d29a15c92387416a2f52dddce99c83f8"),
				TwoPass:    sum384(t, "fd685522ce791dfef67414614eb07d03fc07a32c5a66f36288b329dab92b724b1564c73d436ffb9ea84488c51ac5a1c5"),
			},
			Configuration: *only384(t, "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"),
			HOB:           rtmr.HOB{Base: 0x809000, Accepted: []rtmr.Range{{Start: 0x800000, Length: 0x6000}, {Start: 0x809000, Length: 0x2000}, {Start: 0x80b000, Length: 0x2000}, {Start: 0x810000, Length: 0x10000}}},
		},
	}
}

// TestARealTDReportsWhatIsComputed computes MRTD and all four RTMRs of a TD
// from the components that its host states, and holds them against its quote.
// Only the three digests of QEMU 8.2.2's ACPI tables are taken from the log:
// they are the host's.
func TestARealTDReportsWhatIsComputed(t *testing.T) {
	report, log, _ := dstackLog(t, "jsonlog-dstack-tdx-lite-getquote.json")
	im := &Image{
		Cmdline: "its text is not in the fixture", KernelFile: digest.Sum256([]byte("not known")),
		Kernel: *only384(t, "ac7e632dcf5cd2a1fe5c1f41f4d9b8219570e64ed3c61038fdbf25404e6f542ffd57f276bc5076307efaf882e6d64177"),
		Initrd: *only384(t, "4fe4f7710134a61d7def357add6ac50bdbfeee5032a4c100375e207216ffe42a3bd5822b24e679f91501fff795b81521"),
	}
	h := Host{Memory: 2 << 30}
	for _, e := range log {
		switch e.Event {
		case "acpi-loader":
			h.ACPILoader = only384(t, e.Digest)
		case "acpi-rsdp":
			h.ACPIRSDP = only384(t, e.Digest)
		case "acpi-tables":
			h.ACPITables = only384(t, e.Digest)
		}
	}
	events, err := Events(im, dstackFirmware(t), h)
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		if events[i].Component == "command line" {
			events[i].Digests = only384(t, "786280842b7364287a3a70d96f7e309252857beb45fb1f91314a2ea863db0adc04c8431ecbf29a966405604631a5aab8")
		}
	}
	var runtime [][]byte
	at := map[int]int{}
	for _, e := range log {
		if e.IMR == 3 {
			runtime = append(runtime, dstackRuntime(t, e))
			continue
		}
		want := nthOf(events, e.IMR, at[e.IMR])
		at[e.IMR]++
		if want == nil || want.Digests == nil || want.Digests.SHA384.String() != e.Digest {
			t.Errorf("event %d of RTMR%d has digest %s, computed %+v", at[e.IMR]-1, e.IMR, e.Digest, want)
		}
	}
	v, err := dstackFirmware(t).TDX.MRTD.Of(mrtd.TwoPass) // QEMU 8.2.2
	if err != nil || v != report[0] {
		t.Errorf("MRTD is %s, the quote says %s: %v", v, report[0], err)
	}
	events = append(events, boot.Runtime(runtime)...)
	for i := range 4 {
		v, known := boot.RTMR(events, i)
		if !known || v != report[1+i] {
			t.Errorf("RTMR%d is %s, the quote says %s", i, v, report[1+i])
			continue
		}
		t.Logf("✓ RTMR%d %s", i, v)
	}
}

// TestTheMemoryOfALargerTD computes the TD HOB of a machine whose memory is
// split at 4 GiB.
func TestTheMemoryOfALargerTD(t *testing.T) {
	_, log, _ := dstackLog(t, "jsonlog-dstack-quote-report.json")
	hob := dstackFirmware(t).TDX.HOB
	b, err := hob.Bytes(64 << 30)
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.Sum384(b).String(); got != log[0].Digest {
		t.Errorf("TD HOB has digest %s, the log says %s", got, log[0].Digest)
	}
}

// dstackRuntime returns the bytes under the digest of one of dstack's runtime
// events: type, name and payload, with colons between.
func dstackRuntime(t testing.TB, e dstackEvent) []byte {
	t.Helper()
	payload, err := hex.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{byte(e.Type), byte(e.Type >> 8), byte(e.Type >> 16), byte(e.Type >> 24), ':'}
	b = append(append(b, e.Event...), ':')
	return append(b, payload...)
}

func nthOf(events []boot.Event, rtmr, n int) *boot.Event {
	for i := range events {
		if events[i].RTMR != rtmr {
			continue
		}
		if n == 0 {
			return &events[i]
		}
		n--
	}
	return nil
}
