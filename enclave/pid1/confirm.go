package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// Codes of what is not as hard as it should be.
const (
	CodeLockdown = "harden.lockdown"
	CodeModules  = "harden.modules"
	CodeSysctl   = "harden.sysctl"
	CodeMount    = "harden.mount"
	CodeProcess  = "harden.process"
)

const remedyImage = "boot the image with its own command line; if it was, report this with the console log"

func soft(code, what, expected, actual string) error {
	return fault.Mismatch(fault.ExitRefused, code, what, expected, actual, remedyImage)
}

// Confirm reads back what the kernel really enforces: lockdown, module
// signatures and their latch, every sysctl, every mount. It reports all that
// differs. The latch is recorded in the measurements only after it (DESIGN
// section 4, latch events). root is os.DirFS("/").
func Confirm(root fs.FS) error {
	return errors.Join(confirmKernel(root), confirmSysctls(root), confirmMounts(root))
}

func readTrimmed(root fs.FS, name string) (string, error) {
	b, err := fs.ReadFile(root, name)
	return strings.TrimSpace(string(b)), err
}

func confirmKernel(root fs.FS) error {
	var errs []error
	// kernel_lockdown(7): the mode in force stands in brackets.
	const want = "[confidentiality]"
	if got, err := readTrimmed(root, "sys/kernel/security/lockdown"); err != nil {
		errs = append(errs, soft(CodeLockdown, "kernel lockdown", want, err.Error()))
	} else if !strings.Contains(got, want) {
		errs = append(errs, soft(CodeLockdown, "kernel lockdown", want, got))
	}
	for _, f := range []struct{ name, what, want string }{
		{"sys/module/module/parameters/sig_enforce", "enforcement of module signatures", "Y"},
		{strings.TrimPrefix(modulesDisabled, "/"), "the latch on kernel modules", "1"},
	} {
		got, err := readTrimmed(root, f.name)
		if err != nil {
			got = err.Error()
		}
		if got != f.want {
			errs = append(errs, soft(CodeModules, f.what, f.want, got))
		}
	}
	return errors.Join(errs...)
}

func confirmSysctls(root fs.FS) error {
	var errs []error
	for _, s := range Sysctls() {
		got, err := readTrimmed(root, "proc/sys/"+s.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // Harden has the reason
		case err != nil:
			errs = append(errs, soft(CodeSysctl, s.Name, s.Value, err.Error()))
		case got != s.Value:
			errs = append(errs, soft(CodeSysctl, s.Name, s.Value, got))
		}
	}
	return errors.Join(errs...)
}

// mountFlags are the options of /proc/self/mounts that are checked.
var mountFlags = []struct {
	flag uintptr
	word string
}{
	{unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"},
}

// rootFlags are those of the root file system, which holds the programs.
const rootFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV

func confirmMounts(root fs.FS) error {
	table, err := readTrimmed(root, "proc/self/mounts")
	if err != nil {
		return fmt.Errorf("reading mounts: %w", err)
	}
	options := map[string][]string{}
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) >= 4 {
			options[f[1]] = strings.Split(f[3], ",") // the last on a target is the one that is seen
		}
	}
	var errs []error
	confirm := func(target string, flags uintptr) {
		got, ok := options[target]
		if !ok {
			errs = append(errs, soft(CodeMount, "the mounts", target, "not mounted"))
			return
		}
		for _, f := range mountFlags {
			if flags&f.flag != 0 && !contains(got, f.word) {
				errs = append(errs, soft(CodeMount, "the mount "+target, f.word, strings.Join(got, ",")))
			}
		}
	}
	confirm("/", rootFlags)
	for _, m := range Mounts() {
		confirm(m.Target, m.Flags)
	}
	return errors.Join(errs...)
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// ConfirmProcess reads back from /proc that every thread of a process is under
// its row: no_new_privs, a seccomp filter, and none of the capabilities that
// the row drops; and, where the row says so, namespaces of its own and its
// control group. root is os.DirFS("/").
func ConfirmProcess(root fs.FS, name string, pid int, row Hardening) error {
	dir := "proc/" + strconv.Itoa(pid)
	tasks, err := fs.ReadDir(root, dir+"/task")
	if err != nil {
		return fmt.Errorf("reading threads of %s: %w", name, err)
	}
	var errs []error
	for _, task := range tasks {
		status, err := readTrimmed(root, dir+"/task/"+task.Name()+"/status")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading threads of %s: %w", name, err))
			continue
		}
		errs = append(errs, confirmThread(name, status, row))
	}
	for _, ns := range row.Namespaces {
		mine, err := fs.ReadLink(root, "proc/self/ns/"+ns)
		if err == nil {
			var its string
			if its, err = fs.ReadLink(root, dir+"/ns/"+ns); err == nil && its == mine {
				errs = append(errs, soft(CodeProcess, ns+" namespace of "+name, "its own", "the supervisor's"))
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading namespaces of %s: %w", name, err))
		}
	}
	if row.Cgroup != "" {
		got, err := readTrimmed(root, dir+"/cgroup")
		if err != nil {
			errs = append(errs, fmt.Errorf("reading control group of %s: %w", name, err))
		} else if want := "0::/" + row.Cgroup; got != want {
			errs = append(errs, soft(CodeProcess, "control group of "+name, want, got))
		}
	}
	return errors.Join(errs...)
}

// confirmThread checks the text of /proc/PID/task/TID/status (proc(5)).
func confirmThread(name, status string, row Hardening) error {
	field := map[string]string{}
	for line := range strings.Lines(status) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			field[k] = strings.TrimSpace(v)
		}
	}
	var errs []error
	want := func(key, value string) {
		if field[key] != value {
			errs = append(errs, soft(CodeProcess, key+" of "+name, value, field[key]))
		}
	}
	if row.NoNewPrivs {
		want("NoNewPrivs", "1")
	}
	if len(row.DenySyscalls) > 0 {
		want("Seccomp", "2") // SECCOMP_MODE_FILTER
	}
	for _, key := range []string{"CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"} {
		set, err := strconv.ParseUint(field[key], 16, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading %s of %s: %w", key, name, err))
			continue
		}
		if bad := set & mask(row.Drop); bad != 0 {
			errs = append(errs, soft(CodeProcess, key+" of "+name, fmt.Sprintf("none of %#x", mask(row.Drop)), fmt.Sprintf("%#x", set)))
		}
	}
	return errors.Join(errs...)
}

func mask(caps []int) uint64 {
	var m uint64
	for _, c := range caps {
		m |= 1 << c
	}
	return m
}
