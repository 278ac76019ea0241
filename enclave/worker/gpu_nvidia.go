//go:build nvidia

package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"cocoon/enclave/boot"
	"cocoon/enclave/fwcfg"
	"cocoon/enclave/gpu"
	"cocoon/verifier/appraise"
	gpuevidence "cocoon/verifier/appraise/nvgpu"
)

// openGPUs prepares the GPUs' stages. Their reference measurements come from
// the host, which is not believed: package gpu verifies them.
func (w *Worker) openGPUs() (gpus, []boot.Stage, error) {
	bundle, err := fwcfg.Read(os.DirFS(fwcfg.Dir), fwcfg.GPUCollateral, maxCollateral)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading the GPUs' reference measurements: %w", err)
	}
	m := gpu.New(gpu.Options{
		Expect: w.config.GPUs, Collateral: bundle, Clock: time.Now, Log: w.log,
		System: &gpu.Linux{Reaper: w.reaper, Self: executable(), Log: w.log},
	})
	var stages []boot.Stage
	for _, s := range m.Before() {
		stages = append(stages, boot.Stage{Name: s.Name, Timeout: s.Timeout, Run: s.Run})
	}
	return m, stages, nil
}

// maxCollateral bounds the bundle, in bytes: QEMU's own limit is higher.
const maxCollateral = 4 << 20

// gpuAppraiser judges another machine's GPUs.
func gpuAppraiser() appraise.GPU { return gpuevidence.New(gpuevidence.Options{}) }
