package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/enclave/boot"
	"cocoon/enclave/serve"
	"cocoon/enclave/status"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

func newWorker() *Worker {
	rep := status.New(status.Options{Clock: time.Now, Uptime: func() time.Duration { return 0 }, Console: io.Discard})
	return New(rep, slog.New(slog.DiscardHandler))
}

// TestTheOrderOfStages guards the rules that the order carries.
func TestTheOrderOfStages(t *testing.T) {
	var names []string
	for _, s := range newWorker().stages(context.Background(), func() {}) {
		names = append(names, s.Name)
	}
	at := func(name string) int {
		i := slices.Index(names, name)
		if i < 0 {
			t.Fatalf("no stage %s in %v", name, names)
		}
		return i
	}
	for _, rule := range [][2]string{
		{"modules", "mounts"}, // configfs
		{"modules", "devices"},
		{"config", "ciphers"},
		{"ciphers", "latch"},
		{"config", "platform"}, // what is measured has been read
		{"platform", "latch"},  // the latch is the last event
		{"latch", "keys"},      // no key before everything is measured
		{"keys", "data"},
		{"data", "model"},
		{"latch", "model"},     // nothing of the host's disks before the measurement
		{"model", "engine"},    // only verified packs are run
		{"platform", "gpus"},   // whose number and mode are measured
		{"gpus", "latch"},      // their driver is a module
		{"latch", "gpu-ready"}, // no other driver reaches them then
		{"gpu-ready", "engine"},
		{"engine", "evidence"}, // evidence is of a machine that works
		{"enrol", "evidence"},
		{"latch", "model-key"}, // its owner sees evidence of all that is measured
		{"keys", "model-key"},
		{"model-key", "model"},
		{"verdict", "serve"}, // nothing is served before a verdict
	} {
		if at(rule[0]) > at(rule[1]) {
			t.Errorf("stage %s comes after %s", rule[0], rule[1])
		}
	}
}

// TestOnlyAMachineThatWasToldToTakesOver, and a machine without a data disk
// gives nothing.
func TestOnlyAMachineThatWasToldToTakesOver(t *testing.T) {
	w := newWorker()
	w.config, w.operator = &evidence.Config{Registry: "0:1"}, &evidence.Operator{Handover: "10.0.2.100:1"}
	if s := w.takeover(); len(s) != 0 {
		t.Errorf("stages %v", s)
	}
	w.giveOver(t.Context())
	w.background.Wait() // nothing was started
	w.operator.Takeover = true
	if s := w.takeover(); len(s) != 1 || s[0].Name != "takeover" {
		t.Errorf("stages %v", s)
	}
}

// TestTheDocumentedStagesAreThese keeps docs/worker-api.md true.
func TestTheDocumentedStagesAreThese(t *testing.T) {
	var names []string
	for _, s := range newWorker().stages(context.Background(), func() {}) {
		names = append(names, s.Name)
	}
	doc, err := os.ReadFile("../../docs/worker-api.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "Stages, in order: " + strings.Join(names, ", ") + "."; !strings.Contains(strings.Join(strings.Fields(string(doc)), " "), want) {
		t.Errorf("docs/worker-api.md lacks: %s", want)
	}
}

// TestTheRecordInEvidenceIsOfTheFormThatIsRead: every stage of a boot, those
// that others become included, and a failure with its code.
func TestTheRecordInEvidenceIsOfTheFormThatIsRead(t *testing.T) {
	w := newWorker()
	w.operator = &evidence.Operator{Takeover: true}
	names := []string{"gpus", "gpu-ready"}
	for _, s := range w.stages(context.Background(), func() {}) {
		if s.Expand == nil || s.Name == "takeover" {
			names = append(names, s.Name)
		}
	}
	for _, name := range names {
		w.rep.Stage(name, status.Running, 0, nil)
		w.rep.Stage(name, status.OK, 7*time.Millisecond, nil)
	}
	w.rep.Stage("last", status.Failed, time.Second, fault.New(fault.ExitRefused, "pack.root_differs", "", "x"))
	record := stageRecord(w.rep.Stages())
	if n := len(record.List); n != len(names)+1 || record.List[0] != (evidence.Stage{Name: names[0], Status: evidence.StageOK, MS: 7}) ||
		record.List[n-1] != (evidence.Stage{Name: "last", Status: evidence.StageFailed, MS: 1000, Code: "pack.root_differs"}) {
		t.Errorf("record %+v", record)
	}
	if err := record.Validate(); err != nil {
		t.Error(err)
	}
	w.rep = newWorker().rep
	w.rep.Stage("last", status.Failed, time.Second, errors.New("no fault"))
	if record = stageRecord(w.rep.Stages()); record.Validate() != nil || record.List[0].Code != status.CodeInternal {
		t.Errorf("record %+v, %v", record, record.Validate())
	}
}

// TestStagesThatOthersBecomeAreWatched: what a stage expands to is run as it
// is, and does not need the watchdog to be there.
func TestStagesThatOthersBecomeAreWatched(t *testing.T) {
	w := newWorker()
	var ran []string
	run := func(name string) boot.Stage {
		return boot.Stage{Name: name, Run: func(context.Context) error { ran = append(ran, name); return nil }}
	}
	err := boot.Run(t.Context(), time.Now, w.rep, w.watched([]boot.Stage{
		run("a"), {Name: "x", Expand: func() []boot.Stage { return []boot.Stage{run("b"), run("c")} }}, {Name: "y", Expand: func() []boot.Stage { return nil }}, run("d"),
	}))
	if err != nil || strings.Join(ran, "") != "abcd" {
		t.Errorf("ran %v, %v", ran, err)
	}
}

func TestPatientlyWaitsForTheNetworkOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		away := fault.New(fault.ExitNetwork, "verifier.unreachable", "", "x")
		err := patiently(context.Background(), func(context.Context) error {
			if n++; n < 4 {
				return away
			}
			return nil
		})
		if err != nil || n != 4 {
			t.Errorf("got %v after %d attempts", err, n)
		}
		refused := fault.New(fault.ExitRefused, "tpm.ek", "", "x")
		n = 0
		if err := patiently(context.Background(), func(context.Context) error { n++; return refused }); !errors.Is(err, refused) || n != 1 {
			t.Errorf("got %v after %d attempts, want a refusal at once", err, n)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := patiently(ctx, func(context.Context) error { return away }); !fault.Has(err, "verifier.unreachable") {
			t.Errorf("got %v, want the last error", err)
		}
	})
}

// oneShot is a listener that ends when it is closed.
type oneShot struct{ done chan struct{} }

func (o oneShot) Accept() (net.Conn, error) { <-o.done; return nil, net.ErrClosed }
func (o oneShot) Close() error              { close(o.done); return nil }
func (o oneShot) Addr() net.Addr            { return &net.TCPAddr{} }

func TestTunnelsAreDialedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		var ts tunnels
		dials, uses := 0, 0
		var failures []error
		var wg sync.WaitGroup
		wg.Go(func() {
			ts.keep(ctx, "gw:1",
				func(context.Context, string) (net.Listener, error) {
					if dials++; dials%2 == 1 {
						return nil, errors.New("refused")
					}
					return oneShot{make(chan struct{})}, nil
				},
				func(err error) { failures = append(failures, err) },
				func(net.Listener) error {
					if ts.count() != 1 {
						t.Error("an open tunnel is not counted")
					}
					uses++
					time.Sleep(time.Hour)
					return io.EOF
				})
		})
		if err := ts.await(ctx); err != nil {
			t.Errorf("await: %v", err)
		}
		time.Sleep(4 * time.Hour)
		cancel()
		wg.Wait()
		if uses < 3 || uses > 5 || len(failures) < 2*uses-2 {
			t.Errorf("%d tunnels and %d failures in four hours", uses, len(failures))
		}
		if ts.count() != 0 {
			t.Errorf("%d tunnels are left", ts.count())
		}
	})
}

// TestConnectionsBeyondTheLimitAreClosed: those within it go on, and one that
// ends makes room.
func TestConnectionsBeyondTheLimitAreClosed(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := bound(l, 2)
	defer b.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-accepted
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a third connection got an answer")
	}
	for range 2 { // closing twice gives one slot back
		first.Close()
	}
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("closing twice made room for two")
	}
}

func TestEveryKindOfEngineTalks(t *testing.T) {
	for _, kind := range []string{evidence.EngineLlamaServer, evidence.EngineVLLM, evidence.EngineSGLang} {
		got, err := endpoints(kind)
		if err != nil || !slices.Contains(got, serve.PathChat) {
			t.Errorf("%s offers %v, %v", kind, got, err)
		}
	}
	if _, err := endpoints("ollama"); err == nil {
		t.Error("an unknown kind offers something")
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ts tunnels
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := ts.await(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRedialsSlowDownToAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		var ts tunnels
		dials := 0
		ts.keep(ctx, "gw:1", func(context.Context, string) (net.Listener, error) { dials++; return nil, io.EOF },
			func(error) {}, func(net.Listener) error { return nil })
		if dials < 55 || dials > 75 {
			t.Errorf("%d dials in an hour", dials)
		}
	})
}

func TestConfigFaults(t *testing.T) {
	if err := configFault("config.json", nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	if err := configFault("config.json", errors.New("bad")); !fault.Has(err, "config.parse") || fault.ExitCode(err) != fault.ExitParse {
		t.Errorf("got %v", err)
	}
}

// TestSystemRootsAreNeverNil keeps the settings of the verifier's client
// from rotting: the pool may be empty but never nil.
func TestSystemRootsAreNeverNil(t *testing.T) {
	tr := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: systemRoots()}}
	if tr.TLSClientConfig.RootCAs == nil {
		t.Error("an empty pool would mean the host's defaults")
	}
}
