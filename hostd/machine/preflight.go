package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/hostd/doctor"
	"cocoon/internal/fault"
)

// minFree is the disk space that a VM's directory needs: TPM state and both
// bounded logs, in bytes.
const minFree = 2*ConsoleLimit + 2*StatusLimit + 8<<20

// preflight reports everything that would stop the VM later, at once.
func preflight(ctx context.Context, o Options) error {
	var errs []error
	if o.Spec.Confidential() {
		probe := o.Probe
		if probe == nil {
			probe = teeOfThisHost
		}
		errs = append(errs, probe(ctx, o.Spec.TEE))
	}
	errs = append(errs, o.Spec.CheckFiles())
	if _, err := os.Stat(o.Firmware); err != nil {
		errs = append(errs, fault.New(fault.ExitNotReady, "vm.firmware.missing", "run: make deps", "opening firmware: %w", err))
	}
	errs = append(errs, checkSpace(o.Dir), checkMemory(o.Spec.MemoryMiB))
	return errors.Join(errs...)
}

// teeOfThisHost asks the doctor, under whose codes it refuses.
func teeOfThisHost(ctx context.Context, tee string) error {
	sys, err := doctor.NewLinux(nil)
	if err != nil {
		return err
	}
	if err := doctor.TEE(ctx, sys, tee); err != nil {
		return errors.Join(fault.New(fault.ExitNotReady, "vm.tee.unavailable", `follow the remedies below, or use "tee": "vtpm" for development`,
			"starting a %s guest: this host cannot", tee), err)
	}
	return nil
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
	avail, err := MemoryAvailableMiB()
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

// MemoryAvailableMiB is what the kernel says that programs can still have.
func MemoryAvailableMiB() (int, error) { return memAvailableMiB("/proc/meminfo") }

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
