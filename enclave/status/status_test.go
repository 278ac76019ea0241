package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
)

func reporter(t *testing.T, console *bytes.Buffer) (*Reporter, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "status.json")
	return New(Options{
		Clock:   func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) },
		Uptime:  func() time.Duration { return 1500 * time.Millisecond },
		Console: console, Path: path,
	}), path
}

func TestLinesReachConsolePortAndDocument(t *testing.T) {
	var console, port bytes.Buffer
	r, path := reporter(t, &console)
	r.Stage("mounts", Running, 0, nil)
	r.Stage("mounts", OK, 97*time.Millisecond, nil)
	r.Attach(&port)
	cause := fault.Mismatch(fault.ExitRefused, "pack.root_differs", "the root", "aa", "bb", "use the right pack")
	r.Stage("packs", Failed, time.Second, fmt.Errorf("running: %w", cause))
	r.State(Halted, cause)
	r.Flush(time.Minute)

	wantConsole := `cocoon: stage=mounts status=running
cocoon: stage=mounts status=ok ms=97
cocoon: stage=packs status=failed ms=1000
cocoon: code=pack.root_differs msg="the root differs" expected="aa" actual="bb" remedy="use the right pack"
cocoon: state=halted uptime_ms=1500
cocoon: code=pack.root_differs msg="the root differs" expected="aa" actual="bb" remedy="use the right pack"
`
	if diff := cmp.Diff(wantConsole, console.String()); diff != "" {
		t.Errorf("console (-want +got):\n%s", diff)
	}
	lines := strings.Split(strings.TrimSpace(port.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("port has %d lines, want 4, those before the port came included", len(lines))
	}
	last, err := Parse([]byte(lines[3]))
	if err != nil {
		t.Fatal(err)
	}
	want := []Fault{{Code: "pack.root_differs", Message: "the root differs", Expected: "aa", Actual: "bb", Remedy: "use the right pack"}}
	if diff := cmp.Diff(want, last.Faults); diff != "" || last.State != Halted || last.UptimeMS != 1500 {
		t.Errorf("last line is %+v, faults (-want +got):\n%s", last, diff)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc Document
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.State != Halted || len(doc.Stages) != 2 || doc.Stages[0].Status != OK || doc.Stages[1].Status != Failed {
		t.Errorf("document is %+v, want state halted and the last status of each stage", doc)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".status-*")); len(left) != 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

// stuck is a port whose host does not read.
type stuck struct{ release chan struct{} }

func (s stuck) Write(p []byte) (int, error) { <-s.release; return len(p), nil }

func TestAHostThatDoesNotReadHoldsUpNothing(t *testing.T) {
	var console bytes.Buffer
	r, _ := reporter(t, &console)
	port := stuck{make(chan struct{})}
	defer close(port.release)
	r.Attach(port)
	for range 4 * maxQueue {
		r.Report(Line{Type: TypeMetrics, Metrics: "x"})
	}
	// The writer may have taken one line that it does not get rid of.
	if n := len(r.port); n < cap(r.port)-1 {
		t.Errorf("%d of %d lines are kept for a host that does not read", n, cap(r.port))
	}
	r.Flush(time.Millisecond)
	if r.Report(Line{Type: TypeMetrics, Metrics: "x"}); len(r.queue) != 1 {
		t.Errorf("after the flush %d lines are queued, want the one reported since", len(r.queue))
	}
}

func TestTheQueueBeforeThePortIsBounded(t *testing.T) {
	var console, port bytes.Buffer
	r, _ := reporter(t, &console)
	for range 2 * maxQueue {
		r.Report(Line{Type: TypeMetrics, Metrics: "x"})
	}
	r.Attach(&port)
	r.Flush(time.Minute)
	if n := bytes.Count(port.Bytes(), []byte("\n")); n != maxQueue {
		t.Errorf("port got %d lines, want %d", n, maxQueue)
	}
}

func TestAnErrorWithoutAFaultGetsTheInternalCode(t *testing.T) {
	got := Faults(errors.New("boom"))
	if len(got) != 1 || got[0].Code != CodeInternal || got[0].Message != "boom" {
		t.Errorf("got %+v", got)
	}
	if Faults(nil) != nil {
		t.Error("no error has faults")
	}
}

func TestAllFaultsAreListed(t *testing.T) {
	err := errors.Join(fault.New(2, "a.b", "", "x"), fault.New(2, "c.d", "", "y"))
	if got := Faults(err); len(got) != 2 || got[0].Code != "a.b" || got[1].Code != "c.d" {
		t.Errorf("got %+v", got)
	}
}

func TestOversizedLinesAreRefused(t *testing.T) {
	l := Line{Type: TypeMetrics, Metrics: strings.Repeat("x", MaxLine)}
	if _, err := l.Marshal(); err == nil {
		t.Error("a line over the limit was encoded")
	}
	if _, err := Parse(bytes.Repeat([]byte("x"), MaxLine+1)); err == nil {
		t.Error("a line over the limit was parsed")
	}
	if _, err := Parse([]byte("{")); err == nil {
		t.Error("half a line was parsed")
	}
}

func TestConsoleTextOfOtherLines(t *testing.T) {
	exp := time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		line Line
		want string
	}{
		{"worker", Line{Type: TypeWorker, Worker: &Worker{ReceiptKey: "aa", ConfigSHA256: "bb", Model: "m"}}, "cocoon: worker receipt_key=aa config=bb model=m"},
		{"verdict", Line{Type: TypeVerdict, Verdict: &Verdict{Status: "warning", TrustClass: "vtpm", Expires: exp}}, "cocoon: verdict status=warning trust_class=vtpm expires=2026-11-22T13:00:00Z"},
		{"progress stays off the console", Line{Type: TypeProgress, Progress: &Progress{What: "model", DoneBytes: 1, TotalBytes: 2}}, ""},
		{"until its end", Line{Type: TypeProgress, Progress: &Progress{What: "model", DoneBytes: 2, TotalBytes: 2, BytesPerSecond: 4, Final: true}}, "cocoon: loaded model bytes=2 of=2 bytes_per_second=4"},
		{"progress without any", Line{Type: TypeProgress}, ""},
		{"evidence stays off the console", Line{Type: TypeEvidence, Evidence: json.RawMessage("{}")}, ""},
		{"a worker line without a worker", Line{Type: TypeWorker}, ""},
		{"a verdict line without a verdict", Line{Type: TypeVerdict}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.line.Console(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// gated is a host that reads nothing until it is let.
type gated struct {
	open chan struct{}
	buf  bytes.Buffer
}

func (g *gated) Write(b []byte) (int, error) {
	<-g.open
	return g.buf.Write(b)
}

// A host that does not read costs the guest one voucher a job, and gets the
// newest of each once it reads.
func TestTheNewestVoucherOfEachJobReachesAHostThatReadsLate(t *testing.T) {
	var console bytes.Buffer
	r, _ := reporter(t, &console)
	doc := func(n int) []byte { return fmt.Appendf(nil, `{"seq":%d}`, n) }
	r.Voucher("early", doc(20_001))
	r.Voucher("early", doc(20_002))
	port := &gated{open: make(chan struct{})}
	r.Attach(port)
	for n := range 10_000 {
		r.Voucher("a", doc(n))
		r.Voucher("b", doc(n))
		r.Report(Line{Type: TypeMetrics})
	}
	close(port.open)
	r.Flush(time.Minute)
	last, all := map[string]int{}, 0
	for l := range strings.Lines(port.buf.String()) {
		if p, err := Parse([]byte(l)); err != nil {
			t.Fatal(err)
		} else if p.Type == TypeVoucher {
			last[string(p.Voucher)]++
			all++
		}
	}
	// One of each job may have been on its way before the host looked away.
	if last[`{"seq":20002}`] != 1 || last[`{"seq":20001}`] != 0 || last[`{"seq":9999}`] != 2 || all > 5 {
		t.Errorf("the host got %v", last)
	}
	if console.Len() != 0 {
		t.Errorf("vouchers on the console: %.200s", console.String())
	}
}
