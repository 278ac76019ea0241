package pid1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// hardRoot is the /proc and /sys of a machine that is as it should be.
func hardRoot() fstest.MapFS {
	root := fstest.MapFS{
		"sys/kernel/security/lockdown":             {Data: []byte("none integrity [confidentiality]\n")},
		"sys/module/module/parameters/sig_enforce": {Data: []byte("Y\n")},
		"proc/sys/kernel/modules_disabled":         {Data: []byte("1\n")},
	}
	for _, s := range Sysctls() {
		root["proc/sys/"+s.Name] = &fstest.MapFile{Data: []byte(s.Value + "\n")}
	}
	table := "rootfs / rootfs rw 0 0\n/dev/dm-0 / erofs ro,nosuid,nodev,relatime 0 0\n"
	for _, m := range Mounts() {
		opts := "rw"
		for _, f := range mountFlags {
			if m.Flags&f.flag != 0 {
				opts += "," + f.word
			}
		}
		table += fmt.Sprintf("%s %s %s %s 0 0\n", m.Source, m.Target, m.FSType, opts)
	}
	root["proc/self/mounts"] = &fstest.MapFile{Data: []byte(table)}
	return root
}

// One case for each row of the table: whatever is softer than it should be
// stops the boot, with its own code.
func TestConfirmFindsWhateverIsSofter(t *testing.T) {
	if err := Confirm(hardRoot()); err != nil {
		t.Fatalf("a machine that is hard enough: %v", err)
	}
	type change struct {
		name, file, text, code string
		drop                   bool
	}
	cases := []change{
		{"lockdown off", "sys/kernel/security/lockdown", "[none] integrity confidentiality\n", CodeLockdown, false},
		{"lockdown of integrity only", "sys/kernel/security/lockdown", "none [integrity] confidentiality\n", CodeLockdown, false},
		{"a kernel without lockdown", "sys/kernel/security/lockdown", "", CodeLockdown, true},
		{"unsigned modules", "sys/module/module/parameters/sig_enforce", "N\n", CodeModules, false},
		{"a kernel without module signatures", "sys/module/module/parameters/sig_enforce", "", CodeModules, true},
		{"modules not latched", "proc/sys/kernel/modules_disabled", "0\n", CodeModules, false},
		{"a kernel without the latch", "proc/sys/kernel/modules_disabled", "", CodeModules, true},
		{"no mounts", "proc/self/mounts", "rootfs / rootfs ro,nosuid,nodev 0 0\n", CodeMount, false},
	}
	for _, s := range Sysctls() {
		cases = append(cases, change{"the switch " + s.Name, "proc/sys/" + s.Name, s.Value + "7", CodeSysctl, false})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			root := hardRoot()
			root[c.file] = &fstest.MapFile{Data: []byte(c.text)}
			if c.drop {
				delete(root, c.file)
			}
			if err := Confirm(root); !fault.Has(err, c.code) {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
}

func TestConfirmFindsEveryMountFlagThatIsMissing(t *testing.T) {
	table := string(hardRoot()["proc/self/mounts"].Data)
	lines := strings.Split(strings.TrimSpace(table), "\n")
	for i, line := range lines[1:] { // the first is hidden under the second
		for _, f := range mountFlags {
			if !strings.Contains(line, ","+f.word) && !strings.Contains(line, " "+f.word+",") {
				continue
			}
			t.Run(line+" without "+f.word, func(t *testing.T) {
				changed := append([]string(nil), lines...)
				changed[i+1] = strings.Replace(line, ","+f.word, "", 1)
				if i == 0 && f.word == "ro" {
					changed[i+1] = strings.Replace(line, " ro,", " rw,", 1)
				}
				root := hardRoot()
				root["proc/self/mounts"] = &fstest.MapFile{Data: []byte(strings.Join(changed, "\n"))}
				if err := Confirm(root); !fault.Has(err, CodeMount) {
					t.Errorf("got %v, want %s", err, CodeMount)
				}
			})
		}
	}
}

func TestASwitchThatTheKernelLacksNeedsNone(t *testing.T) {
	root := hardRoot()
	delete(root, "proc/sys/kernel/yama/ptrace_scope")
	if err := Confirm(root); err != nil {
		t.Error(err)
	}
}

func TestLatch(t *testing.T) {
	f := &fakeKernel{}
	if err := Latch(f); err != nil || len(f.calls) != 1 || f.calls[0] != "write /proc/sys/kernel/modules_disabled 1" {
		t.Errorf("calls %v, %v", f.calls, err)
	}
	f.fail = map[string]error{f.calls[0]: unix.EPERM}
	if err := Latch(f); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want EPERM", err)
	}
}

const hardStatus = "NoNewPrivs:\t1\nSeccomp:\t2\nCapInh:\t0000000000000000\nCapPrm:\t0000000000200000\nCapEff:\t0000000000200000\nCapBnd:\t0000000000200000\nCapAmb:\t0000000000000000\n"

func TestConfirmProcessLooksAtEveryThread(t *testing.T) {
	row := Hardening{NoNewPrivs: true, Drop: []int{unix.CAP_SYS_MODULE, unix.CAP_PERFMON}, DenySyscalls: []string{"ptrace"},
		Namespaces: []string{"net"}, Cgroup: "svc"}
	root := func() fstest.MapFS {
		return fstest.MapFS{
			"proc/7/task/7/status": {Data: []byte(hardStatus)}, "proc/7/task/8/status": {Data: []byte(hardStatus)},
			"proc/self/ns/net": {Mode: fs.ModeSymlink, Data: []byte("net:[1]")},
			"proc/7/ns/net":    {Mode: fs.ModeSymlink, Data: []byte("net:[2]")},
			"proc/7/cgroup":    {Data: []byte("0::/svc\n")},
		}
	}
	if err := ConfirmProcess(root(), "svc", 7, row); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(fstest.MapFS){
		"one thread without a filter": func(r fstest.MapFS) {
			r["proc/7/task/8/status"] = &fstest.MapFile{Data: []byte(strings.Replace(hardStatus, "Seccomp:\t2", "Seccomp:\t0", 1))}
		},
		"one thread with new privileges": func(r fstest.MapFS) {
			r["proc/7/task/8/status"] = &fstest.MapFile{Data: []byte(strings.Replace(hardStatus, "NoNewPrivs:\t1", "NoNewPrivs:\t0", 1))}
		},
		"a capability that is back": func(r fstest.MapFS) {
			r["proc/7/task/7/status"] = &fstest.MapFile{Data: []byte(strings.Replace(hardStatus, "CapBnd:\t0000000000200000", "CapBnd:\t0000000000210000", 1))}
		},
		"the high half of the capabilities": func(r fstest.MapFS) {
			r["proc/7/task/7/status"] = &fstest.MapFile{Data: []byte(strings.Replace(hardStatus, "CapEff:\t0000000000200000", "CapEff:\t0000004000200000", 1))}
		},
		"the supervisor's network": func(r fstest.MapFS) { r["proc/7/ns/net"] = r["proc/self/ns/net"] },
		"another control group":    func(r fstest.MapFS) { r["proc/7/cgroup"] = &fstest.MapFile{Data: []byte("0::/\n")} },
	} {
		t.Run(name, func(t *testing.T) {
			r := root()
			edit(r)
			if err := ConfirmProcess(r, "svc", 7, row); !fault.Has(err, CodeProcess) {
				t.Errorf("got %v, want %s", err, CodeProcess)
			}
		})
	}
	if err := ConfirmProcess(root(), "svc", 9, row); err == nil {
		t.Error("a process that is not there was confirmed")
	}
}

// TestEveryRowIsInForceOnARealProcess starts a child under each row and reads
// it back with what the supervisor uses.
func TestEveryRowIsInForceOnARealProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("dropping capabilities needs root")
	}
	for name, row := range Table() {
		t.Run(name, func(t *testing.T) {
			row.Cgroup, row.OOMScoreAdj, row.NoFile = "", 0, 512 // what a test may set
			out, log := io.Pipe()
			c, err := StartService(context.Background(), NewReaper(), "/proc/self/exe", Service{
				Name: name, Path: "/bin/sh", Args: []string{"-c", "echo ready; exec sleep 600"}, Env: []string{"PATH=/usr/bin:/bin"}, Harden: row,
			}, slog.New(slog.NewTextHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Stop(0)
			go func() { <-c.Done; log.Close() }()
			// The row is in force once the shell speaks. That the process has its
			// name says less: the kernel gives it before the credentials.
			said, err := bufio.NewReader(out).ReadString('\n')
			if !strings.Contains(said, "ready") {
				c.Stop(0)
				t.Fatalf("%q, %v, %v", said, err, c.Err())
			}
			if err := ConfirmProcess(os.DirFS("/"), name, c.PID, row); err != nil {
				t.Error(err)
			}
			soft := exec.Command("/bin/sleep", "600")
			if err := soft.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = soft.Process.Kill(); _ = soft.Wait() }()
			if err := ConfirmProcess(os.DirFS("/"), "soft", soft.Process.Pid, row); !fault.Has(err, CodeProcess) {
				t.Errorf("a process without a row: got %v", err)
			}
		})
	}
}

// run evaluates a filter as the kernel would, over a seccomp_data.
func runFilter(t *testing.T, prog []bpf.RawInstruction, archID, nr uint32) uint32 {
	t.Helper()
	insns, ok := bpf.Disassemble(prog)
	if !ok {
		t.Fatal("the filter holds an unknown instruction")
	}
	vm, err := bpf.NewVM(insns)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64)
	// The interpreter reads big-endian, the kernel the machine's order.
	data[0], data[1], data[2], data[3] = byte(nr>>24), byte(nr>>16), byte(nr>>8), byte(nr)
	data[4], data[5], data[6], data[7] = byte(archID>>24), byte(archID>>16), byte(archID>>8), byte(archID)
	n, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func TestTheFilterOfEachRow(t *testing.T) {
	const x86, i386, x32 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, 0x40000000
	for name, row := range Table() {
		t.Run(name, func(t *testing.T) {
			prog, err := filter(row.DenySyscalls)
			if err != nil {
				t.Fatal(err)
			}
			allow, eperm := uint32(seccomp.ActionAllow), uint32(seccomp.ActionErrno)|uint32(unix.EPERM)
			for _, nr := range []uint32{unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_PTRACE,
				unix.SYS_PROCESS_VM_READV, unix.SYS_PERF_EVENT_OPEN, unix.SYS_IO_URING_SETUP, unix.SYS_CLOCK_SETTIME, unix.SYS_IOPL} {
				if got := runFilter(t, prog, x86, nr); got != eperm {
					t.Errorf("call %d: got %#x", nr, got)
				}
			}
			for _, nr := range []uint32{unix.SYS_READ, unix.SYS_MOUNT, unix.SYS_CLONE, unix.SYS_EXECVE, unix.SYS_BPF, unix.SYS_SECCOMP} {
				if slices.Contains(row.DenySyscalls, "mount") && (nr == unix.SYS_MOUNT || nr == unix.SYS_BPF) {
					continue
				}
				if got := runFilter(t, prog, x86, nr); got != allow {
					t.Errorf("call %d: got %#x", nr, got)
				}
			}
			if got := runFilter(t, prog, i386, 128); got != unix.SECCOMP_RET_KILL_PROCESS { // init_module by int 0x80
				t.Errorf("i386: got %#x", got)
			}
			if got := runFilter(t, prog, x86, x32|unix.SYS_READ); got == allow {
				t.Error("the x32 entry is open")
			}
			reboot := runFilter(t, prog, x86, unix.SYS_REBOOT)
			if (name == RowSupervisor) != (reboot == allow) {
				t.Errorf("reboot: got %#x", reboot)
			}
		})
	}
}
