package doctor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"regexp"
	"strings"

	"cocoon/internal/fault"
)

const maxFirmware = 64 << 20

var qemuRE = regexp.MustCompile(`QEMU emulator version (\d+\.\d+(?:\.\d+)?)`)

func softwareChecks(ctx context.Context, h *host, o *Options) []item {
	return []item{kernelVersion(h), kvmDevice(h), qemuVersion(ctx, h), firmware(h, o)}
}

// kernelVersion: guests of TDX since 6.16, of SNP since 6.11.
func kernelVersion(h *host) item {
	const id = "kernel.version"
	if h.release == "" {
		return unseen(forProduction, id, "mount /proc", "the kernel's version cannot be read")
	}
	major, minor := 6, 11
	if h.tee() == "tdx" {
		minor = 16
	}
	if h.tee() != "" && !atLeast(h.kernel, major, minor) {
		return fail(forProduction, id, "install a newer kernel: on Debian trixie, apt install -t trixie-backports linux-image-amd64", "Linux %s; %s guests need %d.%d or newer", h.release, strings.ToUpper(h.tee()), major, minor)
	}
	return pass(id, "Linux %s", h.release)
}

func kvmDevice(h *host) item {
	const id = "kvm.device"
	if !h.exists("dev/kvm") {
		it := warn(id, "switch virtualisation on in the BIOS (VMX or SVM), or nested virtualisation if this is a VM; modprobe kvm_intel or kvm_amd", "there is no /dev/kvm: VMs are emulated, some ten times slower")
		if h.tee() != "" {
			it.Status, it.need = Fail, forProduction
		}
		return it
	}
	return pass(id, "/dev/kvm; the first VM shows whether it can boot a kernel")
}

func qemuVersion(ctx context.Context, h *host) item {
	const id, remedy = "qemu.version", "sudo make deps, which installs the pinned QEMU, and name the tree with --tools"
	b, err := h.sys.Run(ctx, "qemu-system-x86_64", "--version")
	m := qemuRE.FindStringSubmatch(string(b))
	if err != nil || m == nil {
		return fail(forDevelopment, id, remedy, "no QEMU")
	}
	v := version(m[1])
	switch {
	case !atLeast(v, 10, 0):
		return fail(forDevelopment, id, remedy, "QEMU %s: below 10.0 the measured kernel is not the file's", m[1])
	case h.tee() == "tdx" && !atLeast(v, 10, 1):
		return fail(forProduction, id, remedy, "QEMU %s; TDX guests need 10.1 or newer", m[1])
	}
	return pass(id, "QEMU %s", m[1])
}

// firmware must be one whose measurements are published.
func firmware(h *host, o *Options) item {
	const id, remedy = "ovmf.known", "sudo make deps, which installs the pinned OVMF"
	if o.Firmware == "" {
		return fail(forDevelopment, id, remedy, "no OVMF: there is no tools tree")
	}
	st, err := fs.Stat(h.sys, o.Firmware)
	if err != nil || st.Size() > maxFirmware {
		return fail(forDevelopment, id, remedy, "no OVMF at /%s", o.Firmware)
	}
	b, err := fs.ReadFile(h.sys, o.Firmware)
	if err != nil {
		return fail(forDevelopment, id, remedy, "OVMF at /%s cannot be read", o.Firmware)
	}
	sum := sha256.Sum256(b)
	name, ok := o.KnownFirmware[hex.EncodeToString(sum[:])]
	if !ok {
		return fail(forProduction, id, remedy, "OVMF at /%s is none whose measurements are published: SHA-256 %x", o.Firmware, sum)
	}
	return pass(id, "%s", name)
}

func resourceChecks(_ context.Context, h *host, o *Options) []item {
	return []item{memory(h), hugepages(h), disk(h, o), clock(h)}
}

const gib = 1 << 30

func memory(h *host) item {
	const id = "memory.free"
	n := h.memory["MemAvailable"]
	gpus := 0
	for _, g := range h.gpus {
		if g.Model != "" && g.Kind == "gpu" {
			gpus++
		}
	}
	// The driver maps the GPUs' windows: with eight, guests below 64 GiB fail.
	want := uint64(max(2, 8*gpus))
	switch {
	case n == 0:
		return unseen(forProduction, id, "mount /proc", "the memory cannot be read")
	case n < 2*gib:
		return fail(forDevelopment, id, "stop other programs, or add memory", "%.1f GiB available, want 2 GiB or more", float64(n)/gib)
	case n < want*gib:
		return warn(id, "stop other programs, or add memory", "%.1f GiB available; a VM with %d GPUs wants %d GiB", float64(n)/gib, gpus, want)
	}
	return pass(id, "%.1f GiB available", float64(n)/gib)
}

func hugepages(h *host) item {
	const id = "memory.hugepages"
	total, free := h.memory["HugePages_Total"], h.memory["HugePages_Free"]
	if total == 0 {
		return skip(id, "none reserved; a VM without \"hugepages\" in its spec needs none")
	}
	return pass(id, "%d of %d free, %d KiB each", free, total, h.memory["Hugepagesize"]>>10)
}

func disk(h *host, o *Options) item {
	const id = "disk.free"
	n, err := h.sys.FreeBytes(o.StateDir)
	switch {
	case err != nil:
		return fail(forDevelopment, id, "name the state directory with --state", "the space in %s cannot be read: %v", o.StateDir, err)
	case n < 2*gib:
		return fail(forDevelopment, id, "free space there, or choose another directory with --state", "%.1f GiB free in %s, want 2 GiB or more", float64(n)/gib, o.StateDir)
	case n < 10*gib:
		return warn(id, "free space there: images, packs and logs want 10 GiB and the models' size", "%.1f GiB free in %s", float64(n)/gib, o.StateDir)
	}
	return pass(id, "%.0f GiB free in %s", float64(n)/gib, o.StateDir)
}

func clock(h *host) item {
	const id, remedy = "time.synchronised", "apt install chrony"
	ok, err := h.sys.ClockSynchronised()
	switch {
	case err != nil:
		return unseen(forInfo, id, remedy, "the clock's state cannot be read")
	case !ok:
		return warn(id, remedy, "nothing disciplines the clock: evidence and verdicts have short lives")
	}
	return pass(id, "disciplined")
}

func policyChecks(_ context.Context, _ *host, o *Options) []item {
	const id = "idle.policy"
	if o.IdlePolicy == nil {
		return []item{skip(id, "none named: VMs run when they are started")}
	}
	text, err := o.IdlePolicy()
	if err != nil {
		return []item{fail(forInfo, id, "correct the file; docs/operators.md lists the fields", "%s", firstFault(err))}
	}
	return []item{pass(id, "%s", text)}
}

// firstFault is an error in one line, without its tree.
func firstFault(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if fs := fault.All(err); len(fs) > 0 {
		return oneLine(fs[0].Error())
	}
	return oneLine(err.Error())
}
