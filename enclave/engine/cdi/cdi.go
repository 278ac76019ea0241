// Package cdi hands devices to a container by their names in the Container
// Device Interface (tags.cncf.io/container-device-interface). The description
// comes from the supervisor, its hooks from the measured image. Only images
// with a driver have this package.
package cdi

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cdi"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// With gives a container devices such as nvidia.com/gpu=all. One that no
// description names is an error. It comes after all other options, which would
// take back what it adds.
func With(names []string) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, ctr *containers.Container, s *oci.Spec) error {
		if err := cdi.WithCDIDevices(names...)(ctx, c, ctr, s); err != nil {
			return fmt.Errorf("finding devices %v: %w", names, err)
		}
		return nil
	}
}
