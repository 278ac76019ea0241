package pid1

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestMain runs the hardened half of StartService, as the supervisor's main
// does.
func TestMain(m *testing.M) {
	if os.Args[0] == ExecName {
		fmt.Fprintln(os.Stderr, HardenExec(os.Args))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestSweepLeavesOwnedChildrenToTheirCommands(t *testing.T) {
	queue := []int{11, 12, 7, 13} // 7 is owned
	r := NewReaper()
	r.owned[7] = true
	var collected []int
	r.peek = func() (int, error) {
		if len(queue) == 0 {
			return 0, unix.ECHILD
		}
		return queue[0], nil
	}
	r.collect = func(pid int) error { collected = append(collected, pid); queue = queue[1:]; return nil }
	if !r.sweep() {
		t.Error("the sweep did not stop at the owned child")
	}
	delete(r.owned, 7)
	queue = queue[1:] // its command has collected it
	if r.sweep() {
		t.Error("the sweep stopped without an owned child")
	}
	if diff := cmp.Diff([]int{11, 12, 13}, collected); diff != "" {
		t.Errorf("collected (-want +got):\n%s", diff)
	}
}

// TestReaperWithRealProcesses makes this process adopt orphans, as process 1
// does, and checks that none stays and no exit status is lost.
func TestReaperWithRealProcesses(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skipf("this kernel lets no process adopt orphans: %v", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	r := NewReaper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	for i := range 20 {
		// The shell leaves an orphan behind and ends with a status of its own.
		wait, err := r.Start(exec.Command("/bin/sh", "-c", "(exit 0)& (sleep 0.01)& exit 7"))
		if err != nil {
			t.Fatal(err)
		}
		err = wait()
		var ee *exec.ExitError
		if !errors.As(err, &ee) || ee.ExitCode() != 7 {
			t.Fatalf("run %d: got %v, want exit status 7", i, err)
		}
	}
	deadline := time.Now().Add(time.Minute)
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.ECHILD) {
			break // no child at all, dead or alive
		}
		if time.Now().After(deadline) {
			t.Fatal("orphans are left")
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-done
}

type fakeLimiter struct {
	calls []string
	fail  string
}

func (f *fakeLimiter) do(call string) error {
	f.calls = append(f.calls, call)
	if call == f.fail {
		return unix.EPERM
	}
	return nil
}
func (f *fakeLimiter) DropBounding(c int) error    { return f.do(fmt.Sprintf("drop %d", c)) }
func (f *fakeLimiter) Identity(u int) error        { return f.do(fmt.Sprintf("user %d", u)) }
func (f *fakeLimiter) NoNewPrivs() error           { return f.do("no_new_privs") }
func (f *fakeLimiter) Filter(deny []string) error  { return f.do(fmt.Sprintf("filter %v", deny)) }
func (f *fakeLimiter) Limit(r int, v uint64) error { return f.do(fmt.Sprintf("limit %d %d", r, v)) }

func TestApplyDoesEverythingAndStopsAtAFailure(t *testing.T) {
	h := Hardening{NoNewPrivs: true, User: 7, Drop: []int{16, 17}, NoFile: 100, NoCore: true, DenySyscalls: []string{"ptrace"}}
	var f fakeLimiter
	if err := h.apply(&f); err != nil {
		t.Fatal(err)
	}
	want := []string{"limit 4 0", "limit 7 100", "drop 16", "drop 17", "user 7", "no_new_privs", "filter [ptrace]"}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for _, call := range want {
		if err := h.apply(&fakeLimiter{fail: call}); !errors.Is(err, unix.EPERM) {
			t.Errorf("a failing %q passed: %v", call, err)
		}
	}
}

func TestImpossibleHardeningIsRefused(t *testing.T) {
	for name, h := range map[string]Hardening{
		"unknown capability": {Drop: []int{unix.CAP_LAST_CAP + 1}},
		"oom score":          {OOMScoreAdj: 1001},
		"unknown user":       {User: 65535},
		"unknown namespace":  {Namespaces: []string{"time"}},
		"unknown call":       {DenySyscalls: []string{"make_coffee"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := h.encode(); err == nil {
				t.Error("it was encoded")
			}
		})
	}
	if err := HardenExec([]string{ExecName}); err == nil {
		t.Error("a child without arguments was executed")
	}
	if err := HardenExec([]string{ExecName, "{", "/bin/true"}); err == nil {
		t.Error("a child with half a row was executed")
	}
}

// TestAServiceRunsHardened starts a real child and reads what the kernel says
// about it.
func TestAServiceRunsHardened(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("dropping capabilities needs root")
	}
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	row := Table()["containerd"]
	row.NoFile = 512
	if row.OOMScoreAdj >= 0 {
		t.Error("containerd would be killed before the engine")
	}
	row.Cgroup = ""       // the machine's own
	row.OOMScoreAdj = 400 // lowering it takes a right that a test may lack
	c, err := StartService(context.Background(), NewReaper(), "/proc/self/exe", Service{
		Name: "probe", Path: "/bin/sh",
		Args:   []string{"-c", "while read -r l; do echo \"$l\"; done < /proc/self/status; ulimit -n; ulimit -c; echo oom $(cat /proc/self/oom_score_adj); echo env $(env | wc -l)"},
		Env:    []string{"PATH=/usr/bin:/bin"},
		Harden: row,
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	<-c.Done
	if c.Err() != nil {
		t.Fatalf("%v\n%s", c.Err(), out.String())
	}
	got := map[string]string{}
	var lines []string
	dec := json.NewDecoder(&out)
	for dec.More() {
		var l struct{ Msg string }
		if err := dec.Decode(&l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l.Msg)
		if k, v, ok := strings.Cut(l.Msg, ":"); ok {
			got[k] = strings.TrimSpace(v)
		}
	}
	if got["NoNewPrivs"] != "1" {
		t.Errorf("NoNewPrivs is %q", got["NoNewPrivs"])
	}
	var bounding uint64
	if _, err := fmt.Sscanf(got["CapBnd"], "%x", &bounding); err != nil {
		t.Fatal(err)
	}
	for _, cap := range row.Drop {
		if bounding&(1<<cap) != 0 {
			t.Errorf("capability %d is still in the bounding set", cap)
		}
	}
	if bounding&(1<<unix.CAP_SYS_ADMIN) == 0 {
		t.Error("SYS_ADMIN is gone: containerd could not mount")
	}
	for _, want := range []string{"512", "0", "oom 400"} {
		if !strings.Contains("\n"+strings.Join(lines, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("no line %q in\n%s", want, strings.Join(lines, "\n"))
		}
	}
}

func TestStopKillsAChildThatIgnoresTheRequest(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	c, err := StartService(context.Background(), NewReaper(), "/proc/self/exe", Service{
		Name: "stubborn", Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; while :; do sleep 0.05; done"}, Env: []string{"PATH=/bin"},
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	c.Stop(50 * time.Millisecond)
	if c.Err() == nil {
		t.Error("a killed child has no error")
	}
}

func TestLongLinesAreCutAndChatterIsForDebugging(t *testing.T) {
	var out bytes.Buffer
	l := &lineLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	if _, err := l.Write([]byte(strings.Repeat("x", 5000) + "\nlevel=info msg=hello\nshort\n")); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "x"); n != maxLogLine {
		t.Errorf("%d bytes of a long line were kept, want %d", n, maxLogLine)
	}
	if strings.Contains(out.String(), "hello") || !strings.Contains(out.String(), "short") {
		t.Errorf("log is %q", out.String())
	}
}
