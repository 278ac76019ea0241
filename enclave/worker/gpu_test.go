package worker

import (
	"context"
	"os/exec"
	"testing"

	"cocoon/enclave/attest"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

func TestAnImageWithoutADriverRefusesAConfigWithGPUs(t *testing.T) {
	w := newWorker()
	w.config = &evidence.Config{GPUs: evidence.ConfigGPUs{Mode: evidence.GPUModeNone}}
	if s := w.gpuStages(); len(s) != 0 || len(w.gpuReady()) != 0 || w.gpuEvidence() != (attest.NoGPUs{}) {
		t.Errorf("a config without GPUs has stages %v", s)
	}
	w.config.GPUs = evidence.ConfigGPUs{Mode: evidence.GPUModeOn, Count: 1}
	stages := w.gpuStages()
	if len(stages) != 1 {
		t.Fatalf("%d stages, want the one that refuses", len(stages))
	}
	if err := stages[0].Run(context.Background()); !fault.Has(err, "gpu.no_driver") {
		t.Errorf("got %v", err)
	}
}

// The supervisor of the nvidia image is this package with a tag.
func TestTheNVIDIAImagesSupervisorPassesVet(t *testing.T) {
	out, err := exec.Command("go", "vet", "-tags", "nvidia", ".", "cocoon/cmd/cocoon-enclave").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
