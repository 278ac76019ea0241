//go:build !nvidia

package engine

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/oci"

	"cocoon/internal/fault"
)

// withDevices refuses: the image has no driver, and what hands devices to
// containers is left out of it.
func withDevices(names []string) oci.SpecOpts {
	return func(context.Context, oci.Client, *containerdContainer, *oci.Spec) error {
		return fault.New(fault.ExitNotReady, CodeDevices, "boot the nvidia image", "giving the engine its devices: this image has no driver for %v", names)
	}
}
