package worker

import (
	"context"

	"cocoon/enclave/attest"
	"cocoon/enclave/boot"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// gpus are the GPUs of this boot, in an image that has their driver: only one
// that is built with the tag nvidia can bring them up.
type gpus interface {
	attest.GPUs
	Ready(ctx context.Context) error
	Describe(ctx context.Context) error
}

// gpuStages brings up the GPUs that the config expects, all before the latch:
// the driver is a module.
func (w *Worker) gpuStages() []boot.Stage {
	if w.config.GPUs.Mode == evidence.GPUModeNone {
		return nil
	}
	g, stages, err := w.openGPUs()
	if err != nil {
		return []boot.Stage{{Name: "gpu", Run: func(context.Context) error { return err }}}
	}
	w.gpus = g
	return stages
}

// gpuReady lets them take work, after the latch.
func (w *Worker) gpuReady() []boot.Stage {
	if w.gpus == nil {
		return nil
	}
	return []boot.Stage{{Name: "gpu-ready", Run: w.gpus.Ready}, {Name: "gpu-describe", Run: w.gpus.Describe}}
}

// gpuEvidence is where evidence gets the GPUs' part from.
func (w *Worker) gpuEvidence() attest.GPUs {
	if w.gpus == nil {
		return attest.NoGPUs{}
	}
	return w.gpus
}

// errNoDriver is for a config that expects GPUs of an image without a driver.
func errNoDriver(c evidence.ConfigGPUs) error {
	return fault.New(fault.ExitNotReady, "gpu.no_driver", `boot the nvidia image, or write gpus {"count": 0, "mode": "none"}`,
		"looking for the GPUs' driver: this image has none, and the config expects %d GPUs in mode %s", c.Count, c.Mode)
}
