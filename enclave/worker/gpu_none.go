//go:build !nvidia

package worker

import "cocoon/enclave/boot"

// openGPUs refuses: nothing in this image could reach a GPU.
func (w *Worker) openGPUs() (gpus, []boot.Stage, error) {
	return nil, nil, errNoDriver(w.config.GPUs)
}
