package cdi

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// A description as nvidia-ctk writes it, with a device of this machine that
// plays the GPU's.
const description = `{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[
{"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0","hostPath":"/dev/null"}]}},
{"name":"1","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia1","hostPath":"/dev/null"}]}},
{"name":"all","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0","hostPath":"/dev/null"},{"path":"/dev/nvidia1","hostPath":"/dev/null"}]}}],
"containerEdits":{"env":["NVIDIA_VISIBLE_DEVICES=void"],"mounts":[{"hostPath":"/usr/lib/libcuda.so.1","containerPath":"/usr/lib/libcuda.so.1","options":["ro","nosuid","nodev","bind"]}]}}`

func TestAContainerGetsTheDevicesOfItsDescriptionAndNoOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nvidia.json"), []byte(description), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cdi.Configure(cdi.WithSpecDirs(dir)); err != nil {
		t.Fatal(err)
	}
	generate := func(device string) (*oci.Spec, error) {
		ctx := namespaces.WithNamespace(context.Background(), "test")
		return oci.GenerateSpec(ctx, nil, &containers.Container{ID: "engine"}, oci.WithDefaultSpec(), oci.WithRootFSPath("/rootfs"), oci.WithRootFSReadonly(),
			oci.WithCapabilities(nil), seccomp.WithDefaultProfile(), With([]string{device}))
	}
	s, err := generate("nvidia.com/gpu=all")
	if err != nil {
		t.Fatal(err)
	}
	var nodes []string
	for _, d := range s.Linux.Devices {
		nodes = append(nodes, d.Path)
	}
	if !slices.Contains(nodes, "/dev/nvidia0") || !slices.Contains(s.Process.Env, "NVIDIA_VISIBLE_DEVICES=void") {
		t.Errorf("devices %v, environment %v", nodes, s.Process.Env)
	}
	if len(s.Process.Capabilities.Bounding) != 0 || s.Linux.Seccomp == nil || !s.Root.Readonly {
		t.Error("the devices took the hardening back")
	}
	// One of several engines has the devices that are named, and not the others.
	if s, err = generate("nvidia.com/gpu=1"); err != nil {
		t.Fatal(err)
	}
	nodes = nil
	for _, d := range s.Linux.Devices {
		nodes = append(nodes, d.Path)
	}
	if !slices.Contains(nodes, "/dev/nvidia1") || slices.Contains(nodes, "/dev/nvidia0") {
		t.Errorf("devices %v of the second GPU", nodes)
	}
	if _, err := generate("nvidia.com/gpu=7"); err == nil {
		t.Error("a device that no description names was given")
	}
}
