package pid1

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

func (h Hardening) encode() (string, error) {
	for _, c := range h.Drop {
		if c < 0 || c > unix.CAP_LAST_CAP {
			return "", fmt.Errorf("encoding hardening: capability %d is unknown", c)
		}
	}
	if h.OOMScoreAdj < -1000 || h.OOMScoreAdj > 1000 {
		return "", fmt.Errorf("encoding hardening: oom score %d, want -1000 to 1000", h.OOMScoreAdj)
	}
	if h.User < 0 || h.User > 65534 {
		return "", fmt.Errorf("encoding hardening: user %d, want 0 to 65534", h.User)
	}
	for _, ns := range h.Namespaces {
		if namespaceFlags[ns] == 0 {
			return "", fmt.Errorf("encoding hardening: namespace %q is unknown", ns)
		}
	}
	if len(h.DenySyscalls) > 0 {
		if _, err := filter(h.DenySyscalls); err != nil {
			return "", fmt.Errorf("encoding hardening: %w", err)
		}
	}
	b, err := json.Marshal(h)
	if err != nil {
		return "", fmt.Errorf("encoding hardening: %w", err)
	}
	return string(b), nil
}

// namespaceFlags are the namespaces that a row may name.
var namespaceFlags = map[string]uintptr{"net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS}

func (h Hardening) cloneFlags() uintptr {
	var f uintptr
	for _, ns := range h.Namespaces {
		f |= namespaceFlags[ns]
	}
	return f
}

// limiter is the part of the system that Apply changes.
type limiter interface {
	DropBounding(capability int) error
	Identity(user int) error
	NoNewPrivs() error
	Limit(resource int, value uint64) error
	Filter(deny []string) error
}

// apply puts the row on the calling thread's process.
func (h Hardening) apply(l limiter) error {
	if h.NoCore {
		if err := l.Limit(unix.RLIMIT_CORE, 0); err != nil {
			return fmt.Errorf("limiting core size: %w", err)
		}
	}
	if h.NoFile != 0 {
		if err := l.Limit(unix.RLIMIT_NOFILE, h.NoFile); err != nil {
			return fmt.Errorf("limiting open files: %w", err)
		}
	}
	for _, c := range h.Drop {
		if err := l.DropBounding(c); err != nil {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if h.User != 0 {
		// After the bounding set, which it takes a capability to change: with
		// the user go all capabilities.
		if err := l.Identity(h.User); err != nil {
			return fmt.Errorf("becoming user %d: %w", h.User, err)
		}
	}
	if h.NoNewPrivs {
		if err := l.NoNewPrivs(); err != nil {
			return fmt.Errorf("setting no_new_privs: %w", err)
		}
	}
	if len(h.DenySyscalls) > 0 {
		// Last: without no_new_privs it takes SYS_ADMIN.
		if err := l.Filter(h.DenySyscalls); err != nil {
			return fmt.Errorf("filtering system calls: %w", err)
		}
	}
	return nil
}

type linuxLimiter struct{}

// DropBounding takes a capability out of the bounding set (capabilities(7)).
func (linuxLimiter) DropBounding(c int) error {
	return unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
}

// Identity changes the calling thread alone, which is the one that executes.
func (linuxLimiter) Identity(user int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return errno
	}
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, errno := unix.RawSyscall(call, uintptr(user), uintptr(user), uintptr(user)); errno != 0 {
			return errno
		}
	}
	return nil
}

// NoNewPrivs keeps the process and its children from gaining rights (prctl(2)).
func (linuxLimiter) NoNewPrivs() error {
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// Limit sets a resource's soft and hard limit (setrlimit(2)).
func (linuxLimiter) Limit(resource int, value uint64) error {
	return unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value})
}

// Filter loads the seccomp filter that refuses these system calls.
func (linuxLimiter) Filter(deny []string) error { return loadFilter(deny, 0) }

// HardenExec is the child's half of StartService: it reads the row from
// args[1], applies it, and executes args[2] with args[3:]. It returns only
// with an error.
func HardenExec(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("hardening child: %d arguments, want at least 3", len(args))
	}
	var h Hardening
	if err := json.Unmarshal([]byte(args[1]), &h); err != nil {
		return fmt.Errorf("hardening child: %w", err)
	}
	// Bounding set and no_new_privs belong to the thread that executes.
	runtime.LockOSThread()
	if err := h.apply(linuxLimiter{}); err != nil {
		return fmt.Errorf("hardening child: %w", err)
	}
	if err := unix.Exec(args[2], args[2:], os.Environ()); err != nil {
		return fmt.Errorf("executing %s: %w", args[2], err)
	}
	return nil
}
