// Command initrd is /init of the confidential VM's initramfs.
//
// It loads the kernel modules that lead to the root file system, reads the
// measured command line, puts dm-verity over the disk that holds it, and hands
// process 1 to the supervisor on it, which loads all other modules. Everything
// but the command line and itself is untrusted: a disk that is missing, too small
// or wrong stops the machine with one clear line on the console.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/bootargs"
	"cocoon/internal/dmverity"
	"cocoon/internal/kmod"
)

// supervisor is process 1 of the verified root file system.
const supervisor = "/usr/bin/cocoon-enclave"

// rootSerial is the virtio-blk serial by which hostd marks the root disk. It
// only finds the disk; dm-verity decides whether it is the right one.
const rootSerial = "cocoon-root"

// diskTimeout bounds the wait for the root disk to show up.
const diskTimeout = 10 * time.Second

// bootError carries the stable code of a failed step.
type bootError struct {
	code string
	err  error
}

// Error returns the code and what went wrong.
func (e *bootError) Error() string { return e.code + ": " + e.err.Error() }

// Unwrap returns the cause.
func (e *bootError) Unwrap() error { return e.err }

func fail(code string, err error) error {
	if err == nil {
		return nil
	}
	return &bootError{code: code, err: err}
}

func main() {
	err := boot()
	// Only reached on failure: success replaces this process.
	fmt.Fprintf(os.Stderr, "\ncocoon-init: refused: %v\n", err)
	fmt.Fprintln(os.Stderr, "cocoon-init: hint: rebuild the image, or boot the disk, kernel, initrd and command line of one and the same image")
	unix.Sync()
	time.Sleep(200 * time.Millisecond) // let the serial console drain
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintf(os.Stderr, "cocoon-init: powering off: %v\n", err)
	}
	os.Exit(1) // process 1 ends: the kernel panics
}

func boot() error {
	if os.Getpid() != 1 {
		return fail("init.not_pid1", errors.New("this program only runs as process 1 of a VM"))
	}
	if err := mountKernel(); err != nil {
		return fail("init.mount", err)
	}
	if err := kmod.Load("/modules", kmod.Root); err != nil {
		return fail("init.module", err)
	}
	if err := os.RemoveAll("/modules"); err != nil { // their memory
		return fail("init.module", err)
	}
	line, err := readLimited("/proc/cmdline", bootargs.MaxLength+1)
	if err != nil {
		return fail("init.cmdline", err)
	}
	root, err := bootargs.Parse(string(line))
	if err != nil {
		return fail("init.cmdline", err)
	}
	disk, err := findDisk("/sys/block", rootSerial, diskTimeout)
	if err != nil {
		return fail("init.root_disk", err)
	}
	dev, err := dmverity.Open(dmverity.Spec{
		Name: "root", Device: disk, Root: root.Hash, Salt: root.Salt, DataBlocks: root.Blocks, OnCorruption: dmverity.Panic,
	})
	if err != nil {
		return fail("init.verity", err)
	}
	if err := unix.Mount(dev, "/root", "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return fail("init.root_mount", fmt.Errorf("mounting the root file system: %w", err))
	}
	if root.Debug {
		fmt.Fprintln(os.Stderr, "cocoon-init: this is a debug image; production policies refuse it")
	}
	fmt.Fprintf(os.Stderr, "cocoon-init: root %x is verified block by block from here on\n", root.Hash)
	return fail("init.switch", switchRoot())
}
