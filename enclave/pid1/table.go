package pid1

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Hardening is one row of the hardening table. Ambient rights are never given.
type Hardening struct {
	NoNewPrivs   bool
	User         int      // user and group it runs as, without further groups; 0 is root
	Drop         []int    // capabilities taken out of the bounding set
	DenySyscalls []string // answered with EPERM by a seccomp filter
	Namespaces   []string // of its own: net, ipc, uts
	OOMScoreAdj  int      // -1000 to 1000
	Cgroup       string   // below CgroupRoot, or empty
	NoFile       uint64   // RLIMIT_NOFILE, 0 to leave
	NoCore       bool     // RLIMIT_CORE = 0
}

// Rows of the table.
const (
	RowSupervisor = "supervisor"
	RowContainerd = "containerd"
	RowMkfs       = "mkfs"
	RowNVML       = "nvml"
	RowNVMLReady  = "nvml-ready"
	RowPersist    = "nvidia-persistenced"
	RowFabric     = "nvidia-fabricmanager"
)

// kernelCalls are system calls that change the kernel, the clock, or look into
// other processes: no program in the guest needs one once the modules are
// latched.
func kernelCalls() []string {
	return []string{
		"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load",
		"ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "perf_event_open", "userfaultfd",
		"io_uring_setup", "io_uring_enter", "io_uring_register",
		"iopl", "ioperm", "modify_ldt", "swapon", "swapoff", "acct", "quotactl", "syslog",
		"settimeofday", "clock_settime", "clock_adjtime", "adjtimex",
		"add_key", "request_key", "open_by_handle_at", "lookup_dcookie", "vhangup", "uselib", "nfsservctl",
	}
}

// kernelCaps are the capabilities for the same.
func kernelCaps() []int {
	return []int{
		unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_TIME, unix.CAP_SYS_PACCT,
		unix.CAP_SYS_TTY_CONFIG, unix.CAP_SYSLOG, unix.CAP_WAKE_ALARM, unix.CAP_BLOCK_SUSPEND,
		unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE, unix.CAP_AUDIT_CONTROL, unix.CAP_AUDIT_READ,
		unix.CAP_LINUX_IMMUTABLE, unix.CAP_LEASE, unix.CAP_PERFMON, unix.CAP_NET_RAW,
		unix.CAP_NET_BROADCAST, unix.CAP_IPC_OWNER,
	}
}

// allCaps are all capabilities, SETPCAP last: dropping the others takes it.
func allCaps() []int {
	var out []int
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if c != unix.CAP_SETPCAP {
			out = append(out, c)
		}
	}
	return append(out, unix.CAP_SETPCAP)
}

// Table is the hardening of each process that PID 1 answers for, and of
// itself. The engine's container has its own in package engine. Capabilities
// and system calls are taken away by list: containerd and runc build
// containers, so they need SYS_ADMIN and the identity capabilities, but
// nothing that reaches the kernel, the clock, the network or devices.
//
// no_new_privs is inherited over execve and would not hinder runc, whose
// files carry neither set-uid bits nor file capabilities.
func Table() map[string]Hardening {
	return map[string]Hardening{
		// From the latch on; nothing of it can be taken back.
		RowSupervisor: {
			NoNewPrivs:   true,
			Drop:         kernelCaps(),
			DenySyscalls: kernelCalls(),
		},
		RowContainerd: {
			NoNewPrivs:   true,
			Drop:         append(kernelCaps(), unix.CAP_SYS_BOOT),
			DenySyscalls: append(kernelCalls(), "reboot"),
			// It talks over UNIX sockets with paths, and so do its shims: no
			// network at all.
			Namespaces: []string{"net", "ipc"},
			Cgroup:     RowContainerd,
			// The engine dies before containerd does, containerd before PID 1.
			OOMScoreAdj: -500,
			NoFile:      65536,
			NoCore:      true,
		},
		// Runs once in a data disk's life: one device, which root owns.
		RowMkfs: {
			NoNewPrivs:   true,
			Drop:         allCaps(),
			DenySyscalls: append(kernelCalls(), "reboot", "mount", "umount2", "bpf", "setns", "unshare"),
			Namespaces:   []string{"net", "ipc"},
			NoFile:       64,
			NoCore:       true,
		},
		// NVIDIA's libraries, for one request each: they reach the driver through
		// its devices, which everybody may open, and nothing else.
		RowNVML: {
			NoNewPrivs:   true,
			User:         NVMLUser,
			Drop:         allCaps(),
			DenySyscalls: deviceUserCalls(),
			Namespaces:   []string{"net", "ipc"},
			OOMScoreAdj:  100,
			NoFile:       256,
			NoCore:       true,
		},
		// The same for the one request that the driver grants to nobody but an
		// administrator (CAP_SYS_ADMIN).
		RowNVMLReady: {
			NoNewPrivs:   true,
			Drop:         allCapsBut(unix.CAP_SYS_ADMIN),
			DenySyscalls: deviceUserCalls(),
			Namespaces:   []string{"net", "ipc"},
			OOMScoreAdj:  100,
			NoFile:       256,
			NoCore:       true,
		},
		// Holds the devices open for the machine's life, as root: the driver
		// lets nobody else set persistence. It makes no namespace, mount or
		// process of its own.
		RowPersist: {
			NoNewPrivs:   true,
			Drop:         allCapsBut(unix.CAP_SYS_ADMIN, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE),
			DenySyscalls: deviceUserCalls(),
			Namespaces:   []string{"net", "ipc"},
			Cgroup:       RowPersist,
			OOMScoreAdj:  -500,
			NoFile:       1024,
			NoCore:       true,
		},
		// Programs the switches' routes, over the driver's devices; it listens
		// on the loopback device, behind the firewall.
		RowFabric: {
			NoNewPrivs:   true,
			Drop:         allCapsBut(unix.CAP_SYS_ADMIN, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE),
			DenySyscalls: deviceUserCalls(),
			Cgroup:       RowFabric,
			OOMScoreAdj:  -500,
			NoFile:       4096,
			NoCore:       true,
		},
	}
}

// NVMLUser is the user that NVIDIA's libraries run as.
const NVMLUser = 65533

// deviceUserCalls is what a program that only talks to devices needs none of.
func deviceUserCalls() []string {
	return append(kernelCalls(), "reboot", "mount", "umount2", "pivot_root", "bpf", "setns", "unshare", "keyctl")
}

// allCapsBut are all capabilities without some, SETPCAP last.
func allCapsBut(keep ...int) []int {
	return slices.DeleteFunc(allCaps(), func(c int) bool { return slices.Contains(keep, c) })
}

// Groups are the control groups of the table's rows. The engine's limits are
// in package engine.
func Groups() []Cgroup {
	return []Cgroup{
		{Name: RowContainerd, Limits: map[string]string{"pids.max": "512", "memory.max": "384M", "memory.oom.group": "1"}},
		{Name: RowPersist, Limits: map[string]string{"pids.max": "64", "memory.max": "256M", "memory.oom.group": "1"}},
		{Name: RowFabric, Limits: map[string]string{"pids.max": "256", "memory.max": "1G", "memory.oom.group": "1"}},
	}
}
