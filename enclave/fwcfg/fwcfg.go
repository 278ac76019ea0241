// Package fwcfg reads the files that the host offers through QEMU's fw_cfg
// device (Linux: /sys/firmware/qemu_fw_cfg/by_name). They are untrusted input.
package fwcfg

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Names of the files that a supervisor reads.
const (
	Config   = "opt/cocoon/config.json"     // evidence.Config, measured
	Operator = "opt/cocoon/operator.json"   // evidence.Operator
	TON      = "opt/cocoon/ton-global.json" // lite-servers of the ledger

	// Ticket is a data disk's key that was handed over, sealed to this machine
	// (datadisk.NewTicket).
	Ticket = "opt/cocoon/ticket.json"

	// GPUCollateral is a bundle of reference measurements and OCSP responses
	// (verifier/nvgpu/services), for images with GPUs.
	GPUCollateral = "opt/cocoon/gpu-collateral.json"
)

// Dir is where Linux shows the files.
const Dir = "/sys/firmware/qemu_fw_cfg/by_name"

// ErrTooLarge is returned for a file over the caller's limit.
var ErrTooLarge = errors.New("fw_cfg file is too large")

// Read returns the named file, refusing more than limit bytes. fsys is
// os.DirFS(Dir). A missing file is fs.ErrNotExist.
func Read(fsys fs.FS, name string, limit int) ([]byte, error) {
	f, err := fsys.Open(name + "/raw")
	if err != nil {
		return nil, fmt.Errorf("opening fw_cfg file %s: %w", name, err)
	}
	defer f.Close()
	// The size in sysfs is the host's word, so it is not used to allocate.
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("reading fw_cfg file %s: %w", name, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("reading fw_cfg file %s, limit %d bytes: %w", name, limit, ErrTooLarge)
	}
	return b, nil
}
