package gpumode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
)

const (
	bdf     = "0000:1b:00.0"
	devices = "sys/bus/pci/devices/"
	invalid = 2 // what an interrupted tool leaves in the register
)

// TestMain lets the test binary be Python with a fake of NVIDIA's tool, and a
// process that has a mode set and can be killed.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 5 && strings.HasSuffix(os.Args[4], Entry):
		os.Exit(fakeTool(os.Args[4], os.Args[5:]))
	case len(os.Args) == 4 && os.Args[1] == "set":
		s, d := setter(os.Args[2], os.Args[3])
		fmt.Println(s.Set(context.Background(), d, vfio.ModeCC))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeTool stands for NVIDIA's tool and touches no device. Its program says
// where the simulated host is and how it behaves.
func fakeTool(program string, args []string) int {
	fmt.Println("a fake of NVIDIA's tool for tests, which touches no device:", args)
	b, err := os.ReadFile(program)
	if err != nil {
		return 1
	}
	root, how, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	dir := filepath.Join(root, devices, args[1])
	runs, _ := os.ReadFile(filepath.Join(root, "runs"))
	if err := os.WriteFile(filepath.Join(root, "runs"), append(runs, strings.Join(args, " ")+"\n"...), 0o600); err != nil {
		return 1
	}
	first := !strings.Contains(string(runs), "cc-mode=on")
	write := func(v int) {
		if err := os.WriteFile(filepath.Join(dir, "mode"), []byte(strconv.Itoa(v)), 0o600); err != nil {
			panic(err)
		}
		// As the real one does.
		if err := os.WriteFile(filepath.Join(dir, "power/control"), []byte("auto\n"), 0o600); err != nil {
			panic(err)
		}
	}
	last := strings.HasSuffix(args[2], "=on")
	mode := 0
	if args[2] == "--set-cc-mode=on" {
		mode = 1
	}
	if args[2] == "--set-ppcie-mode=on" {
		mode = 0x20
	}
	switch {
	case !last:
		write(0)
	case how == "lie":
		fmt.Println("CC mode is on")
	case how == "fail":
		fmt.Println("FspRpcError")
		return 1
	case how == "complain":
		write(mode)
		return 1
	case how == "die" || how == "die-once" && first:
		write(invalid)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case how == "hang":
		write(invalid)
		for {
			if _, err := os.Stat(filepath.Join(root, "go")); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		write(mode)
	default:
		write(mode)
	}
	return 0
}

// board is a simulated host: files for sysfs, and a register that is a file.
type board struct {
	fs.ReadLinkFS
	root string
}

func (b board) Register(name string, offset int64) (uint32, error) {
	if offset == 0x200bc || offset == 0x660bc {
		return 0xff, nil // the firmware has booted
	}
	text, err := os.ReadFile(filepath.Join(b.root, filepath.Dir(name), "mode"))
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(string(text), 10, 32)
	if offset == 0x28c50 && v == 0x20 {
		v = 1 // an NVSwitch has a register of its own
	}
	return uint32(v), err
}

func (b board) Write(_ context.Context, name, data string) error {
	return os.WriteFile(filepath.Join(b.root, name), []byte(data), 0o600)
}

// newBoard makes a host with one H100, or with more devices by address and ID.
func newBoard(t *testing.T, more map[string]string) string {
	t.Helper()
	root := t.TempDir()
	all := map[string]string{bdf: "0x2331"}
	for k, v := range more {
		all[k] = v
	}
	for addr, id := range all {
		class := "0x030200"
		if id == "0x22a3" {
			class = "0x068000"
		}
		for name, text := range map[string]string{"vendor": "0x10de", "device": id, "class": class, "power/control": "on\n", "mode": "0"} {
			path := filepath.Join(root, devices, addr, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// install makes a tool that behaves so on a simulated host, and returns its
// directory.
func install(t *testing.T, root, how string) string {
	t.Helper()
	dir := filepath.Join(root, "tool")
	if err := os.MkdirAll(filepath.Join(dir, "gpu"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{Entry: root + " " + how, "gpu/hopper.py": "# a part of it\n", "README.md": "not a program"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// setter returns one on a simulated host, and the host's devices.
func setter(root, hash string) (*Setter, []*vfio.Device) {
	sys := board{os.DirFS(root).(fs.ReadLinkFS), root}
	list, err := vfio.List(sys)
	if err != nil {
		panic(err)
	}
	var out []*vfio.Device
	for i := range list {
		out = append(out, &list[i])
	}
	return &Setter{Tool: Tool{Dir: filepath.Join(root, "tool"), SHA256: hash, Python: os.Args[0]}, Dir: filepath.Join(root, "state"), System: sys,
		Clock: time.Now, Logger: slog.New(slog.DiscardHandler)}, out
}

// host returns a setter with a tool that behaves so.
func host(t *testing.T, how string) (*Setter, []*vfio.Device, string) {
	t.Helper()
	root := newBoard(t, nil)
	hash, err := Hash(install(t, root, how))
	if err != nil {
		t.Fatal(err)
	}
	s, d := setter(root, hash)
	return s, d, root
}

func runs(t *testing.T, root string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// clean checks that nothing is left to be completed.
func clean(t *testing.T, root string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(root, "state", "*.json*"))
	if err != nil || len(left) != 0 {
		t.Errorf("journals are left: %v, %v", left, err)
	}
}

func TestAModeIsSetAndReadFromTheDevice(t *testing.T) {
	for _, tc := range []struct {
		how, code string
		runs      int
	}{
		{"well", "", 2},
		{"complain", "", 2}, // it says that it failed, and has not
		{"lie", "gpu.mode.unset", 2},
		{"fail", "gpu.mode.failed", 2},
		{"die-once", "", 4}, // killed half way: set again
		{"die", "gpu.mode.failed", 4},
	} {
		t.Run(tc.how, func(t *testing.T) {
			s, d, root := host(t, tc.how)
			err := s.Set(t.Context(), d, vfio.ModeCC)
			if (err == nil) != (tc.code == "") || tc.code != "" && !fault.Has(err, tc.code) {
				t.Fatalf("Set() = %v, want %q", err, tc.code)
			}
			if got := runs(t, root); len(got) != tc.runs {
				t.Errorf("the tool ran %d times, want %d: %q", len(got), tc.runs, got)
			}
			if now, err := vfio.Read(s.System, bdf); err != nil || now.Power != "on" {
				t.Errorf("afterwards the device is %+v, %v", now, err)
			}
			clean(t, root)
			if err := s.Busy(bdf); err != nil {
				t.Errorf("Busy() = %v", err)
			}
			if tc.code == "gpu.mode.failed" && !strings.Contains(err.Error(), "a fake of NVIDIA's tool") {
				t.Errorf("the tool's words are missing: %v", err)
			}
			if tc.code != "" {
				return
			}
			// In the mode already, it is left alone.
			if err := s.Set(t.Context(), d, vfio.ModeCC); err != nil || len(runs(t, root)) != tc.runs {
				t.Errorf("again: %v, %q", err, runs(t, root))
			}
		})
	}
}

// Whoever waits may give up or be killed: the tool goes on, and whoever comes
// next waits for it and looks at the device.
func TestTheToolIsNeverInterrupted(t *testing.T) {
	s, d, root := host(t, "hang")
	child := exec.Command(os.Args[0], "set", root, s.Tool.SHA256)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for len(runs(t, root)) < 2 {
		time.Sleep(5 * time.Millisecond)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	if err := s.Busy(bdf); !fault.Has(err, CodeInProgress) {
		t.Errorf("after the kill Busy() = %v", err)
	}
	// Set by somebody who has no time.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Set(ctx, d, vfio.ModeCC); !fault.Has(err, CodeInProgress) {
		t.Errorf("Set() = %v", err)
	}
	// Nothing touches the device meanwhile.
	o := vfio.Options{System: s.System, Busy: s.Busy}
	if err := vfio.Reset(t.Context(), o, []string{bdf}); !fault.Has(err, CodeInProgress) {
		t.Errorf("Reset() = %v", err)
	}
	if err := vfio.Restore(t.Context(), o, []vfio.Previous{{BDF: bdf, Driver: "nvidia"}}); !fault.Has(err, CodeInProgress) {
		t.Errorf("Restore() = %v", err)
	}
	if _, err := vfio.Prepare(t.Context(), o, []string{bdf}); !fault.Has(err, CodeInProgress) {
		t.Errorf("Prepare() = %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Recover(t.Context()) }()
	if err := os.WriteFile(filepath.Join(root, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Recover() = %v", err)
	}
	if got := runs(t, root); len(got) != 2 {
		t.Errorf("the tool was started again: %q", got)
	}
	if mode, err := vfio.QueryMode(s.System, d[0]); err != nil || mode != vfio.ModeCC {
		t.Errorf("mode %s, %v", mode, err)
	}
	clean(t, root)
}

func TestWhoeverWaitsMayGiveUp(t *testing.T) {
	s, d, root := host(t, "hang")
	s.Warn = time.Millisecond // a limit that only warns
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Set(ctx, d, vfio.ModeCC) }()
	for len(runs(t, root)) < 2 {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; !fault.Has(err, CodeInProgress) {
		t.Errorf("Set() = %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(t.Context(), d, vfio.ModeCC); err != nil || len(runs(t, root)) != 2 {
		t.Errorf("the next Set() = %v, runs %q", err, runs(t, root))
	}
	clean(t, root)
}

// The machine lost its power while the tool was at work: the journal is there,
// nobody holds the lock, and the device is in no mode.
func TestAnInterruptedChangeIsCompleted(t *testing.T) {
	s, _, root := host(t, "well")
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.remember(journal{BDF: bdf, Want: vfio.ModeCC, Began: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, devices, bdf, "mode"), []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Recover(t.Context()); err != nil || len(runs(t, root)) != 2 {
		t.Errorf("Recover() = %v, runs %q", err, runs(t, root))
	}
	clean(t, root)
	if err := os.WriteFile(filepath.Join(s.Dir, bdf+".json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Recover(t.Context()); !fault.Has(err, "gpu.mode.journal") {
		t.Errorf("with a damaged journal Recover() = %v", err)
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Errorf("once it is set aside Recover() = %v", err)
	}
}

func TestAnotherVersionOfTheToolIsNotRun(t *testing.T) {
	s, d, root := host(t, "well")
	if err := s.Set(t.Context(), d, vfio.ModeCC); err != nil {
		t.Fatal(err)
	}
	// What was copied is what runs, whatever becomes of the original.
	if err := os.WriteFile(filepath.Join(root, "tool", Entry), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(t.Context(), d, vfio.ModeOff); err != nil {
		t.Fatal(err)
	}
	n := len(runs(t, root))
	if err := os.WriteFile(filepath.Join(s.Dir, "tool-"+s.Tool.SHA256[:16], "gpu/hopper.py"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(t.Context(), d, vfio.ModeCC); !fault.Has(err, "gpu.tool.hash") || len(runs(t, root)) != n {
		t.Errorf("with a changed copy and original Set() = %v, runs %q", err, runs(t, root))
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "tool", "x.py")); err != nil {
		t.Fatal(err)
	}
	if _, err := Hash(filepath.Join(root, "tool")); !fault.Has(err, "gpu.tool.unreadable") {
		t.Errorf("with a link Hash() = %v", err)
	}
	if err := (&Tool{Dir: "/x", SHA256: "AB"}).Validate(); err == nil {
		t.Error("a hash that is none passes")
	}
}

// The hash is one that an operator can make with programs of the system's.
func TestTheHashIsThatOfSha256sum(t *testing.T) {
	dir := install(t, t.TempDir(), "well")
	out, err := exec.CommandContext(t.Context(), "sh", "-c", "cd "+dir+" && find * -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Hash(dir); err != nil || !strings.HasPrefix(string(out), got+" ") {
		t.Errorf("Hash() = %s, %v, want %s", got, err, out)
	}
}

// On a board CC is off everywhere before protected PCIe is on anywhere.
func TestABoardIsSetAsAWhole(t *testing.T) {
	root := newBoard(t, map[string]string{"0000:2b:00.0": "0x2335", "0000:07:00.0": "0x22a3"})
	hash, err := Hash(install(t, root, "well"))
	if err != nil {
		t.Fatal(err)
	}
	s, d := setter(root, hash)
	if err := s.Set(t.Context(), d, vfio.ModePPCIE); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range runs(t, root) {
		f := strings.Fields(line)
		got = append(got, f[1]+" "+f[2])
	}
	want := []string{"0000:1b:00.0 --set-cc-mode=off", "0000:2b:00.0 --set-cc-mode=off",
		"0000:07:00.0 --set-ppcie-mode=on", "0000:1b:00.0 --set-ppcie-mode=on", "0000:2b:00.0 --set-ppcie-mode=on"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
}

func FuzzParseJournal(f *testing.F) {
	f.Add([]byte(`{"bdf":"0000:1b:00.0","want":"cc","began":"2026-11-22T12:00:00Z"}`))
	f.Add([]byte(`{"bdf":"../x","want":"cc"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := parseJournal(b); err == nil && vfio.CheckBDF(j.BDF) != nil {
			t.Error("a journal of no device passes")
		}
	})
}
