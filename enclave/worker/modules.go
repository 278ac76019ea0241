package worker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"cocoon/enclave/boot"
	"cocoon/enclave/datadisk"
	"cocoon/enclave/pid1"
	"cocoon/enclave/vsock"
	"cocoon/internal/fault"
	"cocoon/internal/kmod"
	"cocoon/verifier/evidence"
)

// CodeModule is the refusal of a machine whose kernel modules do not load.
const CodeModule = "boot.module"

// loadModules loads the modules that every machine needs, and vsock's where
// the host gave the guest such a device. All modules come from the verified root
// and before the latch; which devices there are is the host's word, and what
// has no driver is a device that is not there.
func (w *Worker) loadModules(context.Context) error {
	lists := []string{kmod.Base}
	if vsock.Attached(os.DirFS("/sys")) {
		lists = append(lists, kmod.Vsock)
	}
	return load(lists...)
}

// cipherStages load what encrypted disks need, on a machine that has one.
func (w *Worker) cipherStages() []boot.Stage {
	if !needsCiphers(os.DirFS("/sys"), w.config) {
		return nil
	}
	return []boot.Stage{{Name: "ciphers", Timeout: 2 * time.Minute, Run: func(context.Context) error { return load(kmod.Ciphers) }}}
}

// needsCiphers reports whether a disk has the data disk's serial, or the
// config names an encrypted model, be it one of several. A disk that shows up
// later is not opened: without its modules the stage data fails.
func needsCiphers(sys fs.FS, c *evidence.Config) bool {
	if slices.ContainsFunc(c.ServedModels(), func(m evidence.ConfigModel) bool { return m.KeySHA256 != nil }) {
		return true
	}
	_, err := pid1.DiskBySerial(sys, datadisk.Serial)
	return !errors.Is(err, pid1.ErrNoDevice)
}

func load(lists ...string) error {
	for _, list := range lists {
		if err := kmod.Load(kmod.Dir, list); err != nil {
			return fault.New(fault.ExitNotReady, CodeModule, "boot kernel, initrd, command line and disk of one and the same image", "%w", err)
		}
	}
	return nil
}
