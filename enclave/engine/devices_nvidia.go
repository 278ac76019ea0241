//go:build nvidia

package engine

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/pkg/cdi"
	"github.com/containerd/containerd/v2/pkg/oci"

	"cocoon/internal/fault"
)

// withDevices gives the container devices by their names in the Container
// Device Interface. The specification comes from the supervisor (GPUDevices),
// its hooks from the measured image. An unknown device is an error.
func withDevices(names []string) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, ctr *containerdContainer, s *oci.Spec) error {
		if err := cdi.WithCDIDevices(names...)(ctx, c, ctr, s); err != nil {
			return fault.New(fault.ExitNotReady, CodeDevices, "look at the stage gpu-devices", "giving the engine its devices: %w", fmt.Errorf("%v: %w", names, err))
		}
		return nil
	}
}
