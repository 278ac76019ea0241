package pid1

import (
	"errors"
	"fmt"
	"io/fs"
)

// Sysctl is one switch of the kernel.
type Sysctl struct {
	Name  string // file below /proc/sys
	Value string
	Why   string
}

// Sysctls harden the kernel before anything untrusted is read.
func Sysctls() []Sysctl {
	return []Sysctl{
		{"kernel/kptr_restrict", "2", "no kernel addresses for anybody"},
		{"kernel/dmesg_restrict", "1", "no kernel log for the unprivileged"},
		{"kernel/unprivileged_bpf_disabled", "1", "no BPF programs for the unprivileged; cannot be taken back"},
		{"kernel/perf_event_paranoid", "3", "no performance counters, which leak what others compute"},
		{"kernel/kexec_load_disabled", "1", "no other kernel than the measured one; cannot be taken back"},
		{"kernel/yama/ptrace_scope", "3", "no process reads another's memory; cannot be taken back"},
		{"kernel/sysrq", "0", "the console's keys, which are the host's, do nothing"},
		{"kernel/ctrl-alt-del", "0", "the keyboard's reset, which is the host's, asks the supervisor instead"},
		{"kernel/core_pattern", "|/bin/false", "no memory of a process reaches a disk"},
		{"kernel/panic_on_oops", "1", "a kernel that went wrong computes nothing more"},
		{"kernel/panic", "-1", "and resets at once"},
		{"kernel/io_uring_disabled", "2", "an interface that no program here uses"},
		{"kernel/randomize_va_space", "2", "addresses are random"},
		{"user/max_user_namespaces", "0", "nobody becomes root of a namespace of their own"},
		{"fs/suid_dumpable", "0", "no core of a program with others' rights"},
		{"fs/protected_symlinks", "1", "no links set as traps in shared directories"},
		{"fs/protected_hardlinks", "1", "the same for hard links"},
		{"fs/protected_fifos", "2", "the same for pipes"},
		{"fs/protected_regular", "2", "the same for files"},
		{"vm/mmap_min_addr", "65536", "a null pointer of the kernel points at nothing"},
		{"vm/overcommit_memory", "0", "no more memory is promised than could be there"},
		{"vm/unprivileged_userfaultfd", "0", "the unprivileged cannot stop the kernel at a page"},
		{"dev/tty/ldisc_autoload", "0", "no line disciplines on demand"},
		{"net/core/bpf_jit_harden", "2", "constants in compiled filters are blinded"},
		{"net/ipv4/ip_forward", "0", "nothing is passed through"},
		{"net/ipv4/icmp_echo_ignore_all", "1", "no answer to probing"},
		{"net/ipv4/conf/all/rp_filter", "1", "no packets from where they cannot come"},
		{"net/ipv4/conf/all/accept_redirects", "0", "no routes from others"},
		{"net/ipv4/conf/all/accept_source_route", "0", "no routes in packets"},
		{"net/ipv6/conf/all/disable_ipv6", "1", "no second way in or out"},
	}
}

// Harden sets the kernel's switches. One that this kernel lacks is skipped,
// since a feature that is not there needs no switch; any other failure is an
// error.
func Harden(k Kernel) error {
	var errs []error
	for _, s := range Sysctls() {
		err := k.WriteFile("/proc/sys/"+s.Name, []byte(s.Value))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("setting %s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}

// modulesDisabled is the latch after which no kernel module can be loaded or
// removed until the next boot (admin-guide/sysctl/kernel, modules_disabled).
const modulesDisabled = "/proc/sys/kernel/modules_disabled"

// Latch closes the list of kernel modules: what is loaded by now is all there
// is.
func Latch(k Kernel) error {
	if err := k.WriteFile(modulesDisabled, []byte("1")); err != nil {
		return fmt.Errorf("latching kernel modules: %w", err)
	}
	return nil
}
