package machine

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/hostd/spec"
	"cocoon/internal/fault"
)

// minFree is the disk space that a VM's directory needs: TPM state and both
// bounded logs, in bytes.
const minFree = 2*ConsoleLimit + 2*StatusLimit + 8<<20

// preflight reports everything that would stop the VM later, at once.
func preflight(o Options) error {
	var errs []error
	if o.Spec.TEE != spec.TEEVTPM {
		errs = append(errs, teeUnavailable(o.Spec.TEE))
	}
	errs = append(errs, o.Spec.CheckFiles())
	if _, err := os.Stat(o.Firmware); err != nil {
		errs = append(errs, fault.New(fault.ExitNotReady, "vm.firmware.missing", "run: make deps", "opening firmware: %w", err))
	}
	errs = append(errs, checkSpace(o.Dir), checkMemory(o.Spec.MemoryMiB))
	return errors.Join(errs...)
}

// teeUnavailable names what the host lacks for a hardware TEE, or says that
// this daemon cannot use what the host has.
func teeUnavailable(tee string) error {
	path := map[string]string{
		spec.TEETDX: "/sys/module/kvm_intel/parameters/tdx",
		spec.TEESNP: "/sys/module/kvm_amd/parameters/sev_snp",
	}[tee]
	const remedy = `use "tee": "vtpm" for development`
	got := "no " + path
	if b, err := os.ReadFile(path); err == nil {
		got = path + " = " + strings.TrimSpace(string(b))
	}
	if strings.HasSuffix(got, "= Y") {
		return fault.New(fault.ExitNotReady, "vm.tee.unsupported", remedy, "starting a %s guest: this version starts vtpm guests only", tee)
	}
	return &fault.Fault{Code: "vm.tee.unavailable", Exit: fault.ExitNotReady, Msg: "starting a " + tee + " guest: the host lacks the hardware or has it disabled",
		Expected: path + " = Y", Actual: got, Remedy: remedy}
}

func checkSpace(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("looking for disk space: %w", err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < minFree {
		return &fault.Fault{Code: "vm.disk.full", Exit: fault.ExitNotReady, Msg: "looking for disk space in " + dir,
			Expected: fmt.Sprintf("%d MiB free", minFree>>20), Actual: fmt.Sprintf("%d MiB", free>>20),
			Remedy: "free space there, or choose another state directory"}
	}
	return nil
}

func checkMemory(needMiB int) error {
	avail, err := memAvailableMiB("/proc/meminfo")
	if err != nil {
		return err
	}
	if avail < needMiB {
		return &fault.Fault{Code: "vm.memory.insufficient", Exit: fault.ExitNotReady, Msg: "looking for memory",
			Expected: fmt.Sprintf("%d MiB available", needMiB), Actual: fmt.Sprintf("%d MiB", avail),
			Remedy: "stop other machines, or lower memory_mib"}
	}
	return nil
}

func memAvailableMiB(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("looking for memory: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		rest, ok := strings.CutPrefix(sc.Text(), "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
		if err != nil {
			return 0, fmt.Errorf("looking for memory: %w", err)
		}
		return kib >> 10, nil
	}
	return 0, fmt.Errorf("looking for memory: no MemAvailable in %s", path)
}
