package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/enclave/gpu/wire"
)

// TestMain is the program itself where a test runs it with its own libraries.
func TestMain(m *testing.M) {
	if dir := os.Getenv("COCOON_NVML_TEST"); dir != "" {
		if err := run(os.Stdin, os.Stdout, libraries{nvml: filepath.Join(dir, os.Getenv("COCOON_NVML_LIB")), nscq: filepath.Join(dir, "nscq.so")}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// simulated compiles the simulations of NVIDIA's libraries.
func simulated(t *testing.T) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler: the libraries' simulation cannot be built")
	}
	dir := t.TempDir()
	for out, args := range map[string][]string{"nvml.so": {"testdata/nvml_sim.c"}, "old.so": {"-DOLD", "testdata/nvml_sim.c"}, "nscq.so": {"testdata/nscq_sim.c"}} {
		if text, err := exec.Command(cc, append([]string{"-shared", "-fPIC", "-O1", "-Wall", "-o", filepath.Join(dir, out)}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	return dir
}

// ask runs the program for one request in a process of its own.
func ask(t *testing.T, dir, library, sim string, r *wire.Request) (*wire.Reply, error) {
	t.Helper()
	r.Version = wire.Version
	doc, err := wire.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"COCOON_NVML_TEST=" + dir, "COCOON_NVML_LIB=" + library, "COCOON_SIM=" + sim}
	cmd.Stdin = bytes.NewReader(doc)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	return wire.ParseReply(out.Bytes(), r.Op)
}

var nonce = strings.Repeat("5a", 32)

func TestTheLibrariesAreCalledByTheirHeaders(t *testing.T) {
	dir := simulated(t)
	r, err := ask(t, dir, "nvml.so", "", &wire.Request{Op: wire.OpState})
	if err != nil {
		t.Fatal(err)
	}
	want := wire.State{Driver: "550.90.07", Environment: 2, CC: true, GPUs: []wire.GPU{{UUID: "GPU-0", VBIOS: "96.00.9F.00.01", Fabric: true}, {UUID: "GPU-1", VBIOS: "96.00.9F.00.01"}}}
	if fmt.Sprint(*r.State) != fmt.Sprint(want) {
		t.Errorf("state is %+v, want %+v", *r.State, want)
	}
	if r, err := ask(t, dir, "nvml.so", "ppcie devtools nofabric", &wire.Request{Op: wire.OpState}); err != nil || r.State.CC || !r.State.DevTools || r.State.MultiGPU != wire.MultiPPCIE || !r.State.GPUs[1].Fabric {
		t.Errorf("protected PCIe with DEVTOOLS: %+v, %v", r, err)
	}
	if r, err := ask(t, dir, "old.so", "", &wire.Request{Op: wire.OpState}); err != nil || !r.State.CC || r.State.MultiGPU != wire.MultiNone {
		t.Errorf("a library without the newer function: %+v, %v", r, err)
	}
	if _, err := ask(t, dir, "nvml.so", "", &wire.Request{Op: wire.OpReady}); err != nil {
		t.Errorf("ready: %v", err)
	}
	r, err = ask(t, dir, "nvml.so", "", &wire.Request{Op: wire.OpCollect, Nonce: nonce, Switches: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range r.Devices {
		got = append(got, fmt.Sprintf("%s %s %x %x", d.Kind, d.UUID, d.Report, d.Chain))
	}
	wantDevices := []string{"gpu GPU-0 11" + nonce + " [010203 040506]", "gpu GPU-1 12" + nonce + " [010203 040506]"}
	for i := range 4 {
		wantDevices = append(wantDevices, fmt.Sprintf("switch SWX-%d %x%s [070809]", i, 0x20+i, nonce))
	}
	if fmt.Sprint(got) != fmt.Sprint(wantDevices) {
		t.Errorf("devices are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wantDevices, "\n"))
	}
	if r, err := ask(t, dir, "nvml.so", "", &wire.Request{Op: wire.OpCollect, Nonce: nonce}); err != nil || len(r.Devices) != 2 {
		t.Errorf("without switches: %v, %v", r, err)
	}
}

func TestWhatALibraryRefusesIsAnAnswer(t *testing.T) {
	dir := simulated(t)
	for _, c := range []struct{ sim, op, code string }{
		{"mismatch", wire.OpState, wire.CodeDriver},
		{"lost", wire.OpState, wire.CodeLost},
		{"many", wire.OpState, wire.CodeOther},
		{"unterminated", wire.OpState, wire.CodeOther},
		{"denied", wire.OpReady, wire.CodeDenied},
		{"timeout", wire.OpCollect, wire.CodeTimeout},
		{"overflow", wire.OpCollect, wire.CodeOther},
		{"rdt", wire.OpCollect, wire.CodeDriver},
		{"badswitch", wire.OpCollect, wire.CodeDriver},
		{"nocert", wire.OpCollect, wire.CodeOther},
	} {
		r := &wire.Request{Op: c.op}
		if c.op == wire.OpCollect {
			r.Nonce, r.Switches = nonce, true
		}
		_, err := ask(t, dir, "nvml.so", c.sim, r)
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("%s: got %v, want %s", c.sim, err, c.code)
		}
	}
	_, err := ask(t, dir, "none.so", "", &wire.Request{Op: wire.OpState})
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeLibrary {
		t.Errorf("without a library: got %v", err)
	}
}

func TestARequestThatIsNoneGetsNoAnswer(t *testing.T) {
	var out bytes.Buffer
	for _, in := range []string{"", "{}", `{"version":1,"op":"collect"}`, strings.Repeat(" ", wire.MaxRequest+1)} {
		if err := run(strings.NewReader(in), &out, libraries{nvml: "/nonexistent"}); err == nil || out.Len() > 0 {
			t.Errorf("%.40q: got %v and %d bytes", in, err, out.Len())
		}
	}
}
