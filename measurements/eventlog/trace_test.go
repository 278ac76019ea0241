package eventlog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxpb "github.com/google/go-tdx-guest/proto/tdx"
)

// TestJSONLogsReplayToTheirQuotes replays the logs of two real TDs, runtime
// events included, to RTMR0 to RTMR3 of the quotes beside them.
func TestJSONLogsReplayToTheirQuotes(t *testing.T) {
	for _, name := range []string{"jsonlog-dstack-quote-report.json", "jsonlog-dstack-tdx-lite-getquote.json"} {
		t.Run(name, func(t *testing.T) {
			raw := read(t, name)
			var doc struct {
				Quote string `json:"quote"`
			}
			if err := json.Unmarshal(raw, &doc); err != nil {
				t.Fatal(err)
			}
			b, err := hex.DecodeString(doc.Quote)
			if err != nil {
				t.Fatal(err)
			}
			q, err := tdxabi.QuoteToProto(b)
			if err != nil {
				t.Fatal(err)
			}
			traces, err := logOf(t, name).Traces(SHA384)
			if err != nil {
				t.Fatal(err)
			}
			if len(traces) != 4 {
				t.Fatalf("%d registers, want 4", len(traces))
			}
			for i, want := range q.(*tdxpb.QuoteV4).GetTdQuoteBody().GetRtmrs() {
				if !bytes.Equal(traces[i].Value, want) {
					t.Errorf("RTMR%d is %x, the quote has %x", i, traces[i].Value, want)
				}
			}
		})
	}
}

// TestTracesAgreeWithReplay compares every register of real logs.
func TestTracesAgreeWithReplay(t *testing.T) {
	for _, name := range []string{"tpm-ubuntu2404-sevsnp.eventlog.bin", "ccel-gcp-cos113.ccel.bin", "ccel-trustee-CCEL_AAEL_alibabacloud.ccel.bin"} {
		l := logOf(t, name)
		l.StartupLocality = 3 // so that PCR 0 starts elsewhere
		for _, a := range l.Algorithms {
			want, err := l.Replay(a)
			if err != nil {
				t.Fatal(err)
			}
			traces, err := l.Traces(a)
			if err != nil {
				t.Fatal(err)
			}
			got, steps := Registers{}, 0
			for _, tr := range traces {
				got[tr.Register] = tr.Value
				steps += len(tr.Steps)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-replay +traces):\n%s", name, diff)
			}
			extended := 0
			for i := range l.Events {
				if l.Events[i].Type != NoAction {
					extended++
				}
			}
			if steps != extended {
				t.Errorf("%s: %d steps, want %d", name, steps, extended)
			}
		}
	}
}

// TestDiffNamesTheFirstEventThatDiffers compares a forged boot with the good
// one.
func TestDiffNamesTheFirstEventThatDiffers(t *testing.T) {
	good, forged := logOf(t, "ccel-gcp-cos113.ccel.bin"), logOf(t, "neg-cos113-dupe-separator.ccel.bin")
	if ds, err := good.Diff(good, SHA384); err != nil || ds != nil {
		t.Errorf("a log differs from itself: %v, %v", ds, err)
	}
	ds, err := forged.Diff(good, SHA384)
	if err != nil {
		t.Fatal(err)
	}
	type short struct{ Register, Event, Reference int }
	var got []short
	for _, d := range ds {
		got = append(got, short{d.Register, d.Event, d.Reference})
		if bytes.Equal(d.Got, d.Want) {
			t.Errorf("register %d: digests are equal", d.Register)
		}
	}
	// The forged log is of another firmware, and RTMR1 lacks its separator.
	if diff := cmp.Diff([]short{{1, 1, 1}, {2, 16, 15}}, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	if _, err := good.Diff(bootLog(t), SHA384); err == nil {
		t.Error("a CCEL is compared with a TPM's log")
	}
	if _, err := good.Diff(forged, SHA256); err == nil {
		t.Error("a bank that is not there is compared")
	}
}
