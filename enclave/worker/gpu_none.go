//go:build !nvidia

package worker

import (
	"cocoon/enclave/boot"
	"cocoon/verifier/appraise"
)

// openGPUs refuses: nothing in this image could reach a GPU.
func (w *Worker) openGPUs() (gpus, []boot.Stage, error) {
	return nil, nil, errNoDriver(w.config.GPUs)
}

// gpuAppraiser is for judging another machine: one with this config, and so
// without GPUs.
func gpuAppraiser() appraise.GPU { return nil }
