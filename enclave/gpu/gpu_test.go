package gpu

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/enclave/gpu/wire"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/rimtest"
	"cocoon/verifier/nvgpu/services"
	"cocoon/verifier/nvgputest"
)

// fleet is devices under test roots with everything that vouches for them. It
// is a simulation: no real GPU is at hand, and every certificate says so.
type fleet struct {
	pki     *nvgputest.PKI
	bound   []*nvgputest.Bound
	devices []nvgputest.Device
	bundle  []byte
}

var (
	pair  = sync.OnceValues(func() (*fleet, error) { return newFleet([]nvgputest.Device{nvgputest.GPU(0), nvgputest.GPU(1)}) })
	board = sync.OnceValues(func() (*fleet, error) { return newFleet(nvgputest.Board()) })
)

func newFleet(devices []nvgputest.Device) (*fleet, error) {
	pki, err := nvgputest.New("enclave")
	if err != nil {
		return nil, err
	}
	f := &fleet{pki: pki, devices: devices}
	server := rimtest.NewServer()
	var items []nvgpu.Item
	for i := range devices {
		b, err := pki.Bind(&devices[i])
		if err != nil {
			return nil, err
		}
		f.bound = append(f.bound, b)
		report, err := b.Report([32]byte{})
		if err != nil {
			return nil, err
		}
		items = append(items, nvgpu.Item{Report: report, Chain: b.Chain()})
		if err := pki.Serve(server, &devices[i], nvgputest.Now); err != nil {
			return nil, err
		}
	}
	http := httptest.NewServer(server)
	defer http.Close()
	client, err := services.New(services.Options{RIMURL: http.URL, Roots: pki.RIMRoots(), Clock: clock, HTTP: http.Client()})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var ids []string
	var certs []services.Pair
	for _, d := range nvgpu.Verify(items, &nvgpu.Options{Roots: pki.Roots(), RIMRoots: pki.RIMRoots(), Now: nvgputest.Now, NoRIM: true}).Devices {
		ids = append(ids, d.RIMIDs()...)
		chain := d.Issuers()
		for i := range len(chain) - 1 {
			certs = append(certs, services.Pair{Cert: chain[i], Issuer: chain[i+1]})
		}
	}
	b, err := client.Export(context.Background(), ids, certs)
	if err != nil {
		return nil, err
	}
	f.bundle, err = b.Marshal()
	return f, err
}

func clock() time.Time { return nvgputest.Now }

// machine plays the system of a VM with a fleet. Each field changes one thing;
// log has what was done to it, in order.
type machine struct {
	*fleet
	log       []string
	state     wire.State
	gone      map[string]bool
	hang      bool             // reset does not come back
	module    error            // of LoadModule
	nodes     error            // of MakeNodes
	persist   error            // of Persist
	ask       map[string]error // by operation
	edit      func([]wire.Device) []wire.Device
	joinAfter int // looks until the fabric is there
	stay      bool
}

func (m *machine) do(what string) { m.log = append(m.log, what) }

func address(i int) string { return fmt.Sprintf("0000:%02x:00.0", i+1) }

func (m *machine) Functions() ([]Function, error) {
	var out []Function
	for i, d := range m.devices {
		kind := wire.KindGPU
		if d.Chip == "LS_10" {
			kind = wire.KindSwitch
		}
		if !m.gone[address(i)+" from the start"] {
			out = append(out, Function{Address: address(i), Kind: kind})
		}
	}
	return out, nil
}

func (m *machine) Reset(ctx context.Context, address string) (bool, error) {
	m.do("reset " + address)
	if m.hang {
		return false, context.DeadlineExceeded // as after the time is over
	}
	return true, nil
}

func (m *machine) Alive(address string) bool { return !m.gone[address] }

func (m *machine) LoadModule(name, parameters string) error {
	m.do(strings.TrimSpace("module " + name + " " + parameters))
	return m.module
}
func (m *machine) MakeNodes() error              { m.do("nodes"); return m.nodes }
func (m *machine) Persist(context.Context) error { m.do("persist"); return m.persist }
func (m *machine) Describe(context.Context) error {
	m.do("describe")
	return m.ask["describe"]
}
func (m *machine) Fabric(context.Context) error { m.do("fabric"); return nil }

func (m *machine) Ask(ctx context.Context, r *wire.Request) (*wire.Reply, error) {
	m.do(r.Op)
	if err := m.ask[r.Op]; err != nil {
		return nil, err
	}
	reply := &wire.Reply{Version: wire.Version}
	switch r.Op {
	case wire.OpState:
		s := m.state
		if m.joinAfter--; m.joinAfter < 0 {
			s.GPUs = append([]wire.GPU(nil), s.GPUs...)
			for i := range s.GPUs {
				s.GPUs[i].Fabric = true
			}
		}
		reply.State = &s
	case wire.OpReady:
		m.state.Ready = !m.stay
	case wire.OpCollect:
		nonce, err := r.NonceBytes()
		if err != nil {
			return nil, err
		}
		for i, b := range m.bound {
			kind := wire.KindGPU
			if m.devices[i].Chip == "LS_10" {
				kind = wire.KindSwitch
				if !r.Switches {
					continue
				}
			}
			report, err := b.Report(nonce)
			if err != nil {
				return nil, err
			}
			reply.Devices = append(reply.Devices, wire.Device{Kind: kind, UUID: fmt.Sprint("GPU-", i), Report: report, Chain: b.Chain()})
		}
		if m.edit != nil {
			reply.Devices = m.edit(reply.Devices)
		}
	}
	// Over the wire, as the real one: what it refuses must not pass here.
	doc, err := wire.Marshal(reply)
	if err != nil {
		return nil, err
	}
	return wire.ParseReply(doc, r.Op)
}

// good is a machine with a fleet, and what its config expects.
func good(t *testing.T, fleets func() (*fleet, error)) (*machine, *Machine) {
	t.Helper()
	f, err := fleets()
	if err != nil {
		t.Fatal(err)
	}
	sys := &machine{fleet: f, gone: map[string]bool{}, ask: map[string]error{},
		state: wire.State{Driver: "550.90.07", Environment: wire.EnvironmentProduction, CC: true}}
	expect := evidence.ConfigGPUs{Mode: ModeOn}
	for i, d := range f.devices {
		if d.Chip == "LS_10" {
			expect.Mode, sys.state.CC, sys.state.MultiGPU = ModePPCIE, false, wire.MultiPPCIE
			continue
		}
		expect.Count++
		sys.state.GPUs = append(sys.state.GPUs, wire.GPU{UUID: fmt.Sprint("GPU-", i), VBIOS: d.VBIOS})
	}
	return sys, New(Options{Expect: expect, System: sys, Collateral: f.bundle, Roots: f.pki.Roots(), RIMRoots: f.pki.RIMRoots(),
		Clock: clock, Rand: bytes.NewReader(bytes.Repeat([]byte{7}, 32)), Log: slog.New(slog.DiscardHandler), Poll: time.Nanosecond})
}

// boot runs the steps and then the ready state, and says where it ended.
func boot(m *Machine) (string, error) {
	for _, s := range m.Before() {
		if err := s.Run(context.Background()); err != nil {
			return s.Name, err
		}
	}
	if err := m.Ready(context.Background()); err != nil {
		return "gpu-ready", err
	}
	if err := m.Describe(context.Background()); err != nil {
		return "gpu-describe", err
	}
	return "", nil
}

func TestTwoGPUsComeUpInTheOnlySafeOrder(t *testing.T) {
	sys, m := good(t, pair)
	if at, err := boot(m); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	want := []string{"reset 0000:01:00.0", "reset 0000:02:00.0", "module nvidia", "module nvidia-uvm", "nodes", "persist", "state", "collect", "ready", "state", "describe"}
	if diff := cmp.Diff(want, sys.log); diff != "" {
		t.Errorf("what was done (-want +got):\n%s", diff)
	}
	gpus, err := m.Collect(context.Background(), [32]byte{1, 2, 3})
	if err != nil || len(gpus) != 2 {
		t.Fatalf("%d GPUs, %v", len(gpus), err)
	}
	items := []nvgpu.Item{{Report: gpus[0].Report, Chain: gpus[0].Chain}, {Report: gpus[1].Report, Chain: gpus[1].Chain}}
	found := nvgpu.Verify(items, &nvgpu.Options{Roots: sys.pki.Roots(), RIMRoots: sys.pki.RIMRoots(), Now: nvgputest.Now, Nonce: [32]byte{1, 2, 3}, NoRIM: true})
	if bad := found.Failed(); len(bad) > 0 {
		t.Errorf("the collected evidence fails: %+v", bad)
	}
}

func TestABoardInProtectedPCIeComesUpWithItsFabricAndSwitches(t *testing.T) {
	sys, m := good(t, board)
	sys.joinAfter = 3
	if at, err := boot(m); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	text := strings.Join(sys.log, "\n")
	for _, want := range []string{`module nvidia NVreg_RegistryDwords="RmEnableProtectedPcie=0x1"`, "persist\nfabric\nstate\nstate\nstate\nstate\nstate\ncollect\nready"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	gpus, err := m.Collect(context.Background(), [32]byte{9})
	if err != nil || len(gpus) != 12 {
		t.Errorf("evidence of %d devices, %v; want 8 GPUs and 4 switches", len(gpus), err)
	}
}

func TestEveryFaultEndsAtItsStepWithACodeAndARemedy(t *testing.T) {
	lost := &wire.Error{Code: wire.CodeLost, Call: "nvmlInit_v2", Result: 15, Text: "the GPU has fallen off the bus"}
	for _, c := range []struct {
		name   string
		fleet  func() (*fleet, error)
		change func(*machine, *Machine)
		step   string
		code   string
	}{
		{"a GPU that the host did not give", pair, func(s *machine, _ *Machine) { s.gone[address(1)+" from the start"] = true }, "gpu-reset", CodeCount},
		{"a board without one of its switches", board, func(s *machine, _ *Machine) { s.gone[address(11)+" from the start"] = true }, "gpu-reset", CodeCount},
		{"a GPU that hangs in its reset", pair, func(s *machine, _ *Machine) { s.hang = true }, "gpu-reset", CodeHung},
		{"a GPU that vanishes in its reset", pair, func(s *machine, _ *Machine) { s.gone[address(0)] = true }, "gpu-reset", CodeVanished},
		{"a driver that the kernel refuses", pair, func(s *machine, _ *Machine) { s.module = errors.New("key was rejected") }, "gpu-driver", CodeDriver},
		{"a driver that finds no GPU", pair, func(s *machine, _ *Machine) { s.nodes = errors.New("no GPU") }, "gpu-driver", CodeNodes},
		{"a daemon that does not start", pair, func(s *machine, _ *Machine) { s.persist = errors.New("exit status 1") }, "gpu-persistence", CodePersistence},
		{"confidential computing off", pair, func(s *machine, _ *Machine) { s.state.CC = false }, "gpu-state", CodeCCOff},
		{"DEVTOOLS", pair, func(s *machine, _ *Machine) { s.state.DevTools = true }, "gpu-state", CodeDevtools},
		{"a simulated environment", pair, func(s *machine, _ *Machine) { s.state.Environment = wire.EnvironmentSimulation }, "gpu-state", CodeMode},
		{"protected PCIe where the config says on", pair, func(s *machine, _ *Machine) { s.state.MultiGPU = wire.MultiPPCIE }, "gpu-state", CodeMode},
		{"a driver that has fewer GPUs than the bus", pair, func(s *machine, _ *Machine) { s.state.GPUs = s.state.GPUs[:1] }, "gpu-state", CodeCount},
		{"GPUs that take work before anybody attested them", pair, func(s *machine, _ *Machine) { s.state.Ready = true }, "gpu-state", CodeReadyEarly},
		{"libraries that do not match the driver", pair, func(s *machine, _ *Machine) {
			s.ask[wire.OpState] = &wire.Error{Code: wire.CodeDriver, Call: "nvmlInit_v2", Result: 18}
		}, "gpu-state", CodeLibrary},
		{"a GPU that the library lost", pair, func(s *machine, _ *Machine) { s.ask[wire.OpCollect] = lost }, "gpu-attest", CodeVanished},
		{"a GPU that does not answer in time", pair, func(s *machine, _ *Machine) { s.ask[wire.OpCollect] = context.DeadlineExceeded }, "gpu-attest", CodeHung},
		{"evidence of one GPU only", pair, func(s *machine, _ *Machine) { s.edit = func(d []wire.Device) []wire.Device { return d[:1] } }, "gpu-attest", "gpu.count"},
		{"one GPU that stands for two", pair, func(s *machine, _ *Machine) {
			s.edit = func(d []wire.Device) []wire.Device { return []wire.Device{d[0], d[0]} }
		}, "gpu-attest", "gpu.distinct"},
		{"a report with a changed byte", pair, func(s *machine, _ *Machine) {
			s.edit = func(d []wire.Device) []wire.Device { d[1].Report[200] ^= 1; return d }
		}, "gpu-attest", "gpu.signature"},
		{"a board that shows no switch", board, func(s *machine, _ *Machine) { s.edit = func(d []wire.Device) []wire.Device { return d[:8] } }, "gpu-attest", "gpu.topology"},
		{"no reference measurements", pair, func(_ *machine, m *Machine) { m.o.Collateral = nil }, "gpu-attest", CodeCollateral},
		{"reference measurements that are no bundle", pair, func(_ *machine, m *Machine) { m.o.Collateral = []byte("{}") }, "gpu-attest", CodeCollateral},
		{"a bundle without the documents", pair, func(_ *machine, m *Machine) {
			m.o.Collateral = []byte(`{"created":"2026-01-01T00:00:00Z","entries":[],"version":1}`)
		}, "gpu-attest", "gpu.rim.driver"},
		{"NVIDIA's roots over GPUs under others", pair, func(_ *machine, m *Machine) { m.o.Roots = nil }, "gpu-attest", "gpu.chain"},
		{"a ready state that does not stay", pair, func(s *machine, _ *Machine) { s.stay = true }, "gpu-ready", CodeLibrary},
		{"a ready state that the driver denies", pair, func(s *machine, _ *Machine) {
			s.ask[wire.OpReady] = &wire.Error{Code: wire.CodeDenied, Call: "nvmlSystemSetConfComputeGpusReadyState", Result: 4}
		}, "gpu-ready", CodeLibrary},
		{"a toolkit that does not know its driver", pair, func(s *machine, _ *Machine) { s.ask["describe"] = errors.New("exit status 1") }, "gpu-describe", CodeDescribe},
	} {
		t.Run(c.name, func(t *testing.T) {
			sys, m := good(t, c.fleet)
			c.change(sys, m)
			step, err := boot(m)
			if step != c.step || !fault.Has(err, c.code) {
				t.Fatalf("ended at %q with %v; want %s at %s", step, err, c.code, c.step)
			}
			for _, f := range fault.All(err) {
				if f.Remedy == "" || f.Exit == fault.ExitOK || f.Exit == fault.ExitInternal {
					t.Errorf("%s has remedy %q and exit %d", f.Code, f.Remedy, f.Exit)
				}
			}
			if step != "gpu-ready" && step != "gpu-describe" && sys.state.Ready && c.code != CodeReadyEarly {
				t.Error("the GPUs take work")
			}
		})
	}
}

func TestAFabricThatDoesNotComeUpEndsWithItsTime(t *testing.T) {
	sys, m := good(t, board)
	sys.joinAfter = 1 << 30
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Fabric(ctx); !fault.Has(err, CodeFabric) || !strings.Contains(err.Error(), "8 of 8 GPUs") {
		t.Errorf("got %v", err)
	}
}

func TestNoStepBeforeTheAttestationOpensTheGPUs(t *testing.T) {
	sys, m := good(t, pair)
	if err := m.Ready(context.Background()); !fault.Has(err, CodeReadyEarly) {
		t.Errorf("ready: got %v", err)
	}
	if _, err := m.Collect(context.Background(), [32]byte{}); !fault.Has(err, CodeIncomplete) {
		t.Errorf("collecting: got %v", err)
	}
	if len(sys.log) != 0 {
		t.Errorf("the machine was asked: %v", sys.log)
	}
}

func TestGPUsThatChangeAfterTheBootAreNotCollected(t *testing.T) {
	sys, m := good(t, pair)
	if at, err := boot(m); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	sys.edit = func(d []wire.Device) []wire.Device { return d[:1] }
	if _, err := m.Collect(context.Background(), [32]byte{}); !fault.Has(err, "gpu.count") {
		t.Errorf("a GPU fewer: got %v", err)
	}
	sys.edit = func(d []wire.Device) []wire.Device { d[0].Report[10] ^= 1; return d }
	if _, err := m.Collect(context.Background(), [32]byte{}); !fault.Has(err, "gpu.nonce") {
		t.Errorf("another nonce: got %v", err)
	}
	sys.edit = func(d []wire.Device) []wire.Device { return []wire.Device{d[1], d[0]} }
	if _, err := m.Collect(context.Background(), [32]byte{1}); err != nil {
		t.Errorf("the same GPUs in another order: %v", err)
	}
	// One that is as good, under the same roots, and was not there at boot.
	other := nvgputest.GPU(2)
	b, err := sys.pki.Bind(&other)
	if err != nil {
		t.Fatal(err)
	}
	report, err := b.Report([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	sys.edit = func(d []wire.Device) []wire.Device {
		return []wire.Device{d[0], {Kind: wire.KindGPU, UUID: "GPU-2", Report: report, Chain: b.Chain()}}
	}
	if gpus, err := m.Collect(context.Background(), [32]byte{1}); !fault.Has(err, CodeChanged) || gpus != nil {
		t.Errorf("another GPU in the place of one: got %v", err)
	}
}

// A revoked certificate in the host's bundle is believed; one that is missing
// is the verifier's to judge.
func TestARevokedGPUIsRefused(t *testing.T) {
	f, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(f.bound[0].Chain()[1])
	if err != nil {
		t.Fatal(err)
	}
	der, err := f.pki.OCSP(leaf, nvgputest.Revoked, nvgputest.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := services.ParseBundle(f.bundle)
	if err != nil {
		t.Fatal(err)
	}
	good0 := -1
	for i, e := range bundle.Entries {
		if strings.HasPrefix(e.Key, "ocsp ") && bytes.Contains(e.Data, leaf.SerialNumber.Bytes()) {
			good0 = i
		}
	}
	if good0 < 0 {
		t.Fatal("the bundle has no answer about the GPU")
	}
	bundle.Entries[good0].Data = der
	doc, err := bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	_, m := good(t, pair)
	m.o.Collateral = doc
	if at, err := boot(m); at != "gpu-attest" || !fault.Has(err, "gpu.ocsp") {
		t.Errorf("ended at %q with %v", at, err)
	}
}
