//go:build nvidia

package engine

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/oci"

	"cocoon/enclave/engine/cdi"
	"cocoon/internal/fault"
)

// withDevices gives the container its devices.
func withDevices(names []string) oci.SpecOpts {
	give := cdi.With(names)
	return func(ctx context.Context, c oci.Client, ctr *containerdContainer, s *oci.Spec) error {
		if err := give(ctx, c, ctr, s); err != nil {
			return fault.New(fault.ExitNotReady, CodeDevices, "look at the stage gpu-describe", "giving the engine its devices: %w", err)
		}
		return nil
	}
}
