package qemu

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/spec"
	"cocoon/hostd/vsock"
	"cocoon/internal/imagetest"
)

const board = "0000:05:00.0 0000:26:00.0 0000:46:00.0 0000:65:00.0 0000:85:00.0 0000:a6:00.0 0000:c6:00.0 0000:e5:00.0 0000:d1:00.0 0000:d2:00.0 0000:d3:00.0 0000:d4:00.0"

type shape struct {
	name string
	spec func(*spec.Spec)
	opts func(*Options)
}

func shapes() []shape {
	tee := func(o *Options) {
		o.Accel, o.Transport, o.CID, o.Relay = AccelKVM, vsock.Kernel, 7, nil
		o.ConfigSHA256 = bytes.Repeat([]byte{0xab}, 32)
	}
	return []shape{
		{"vtpm-numa", func(s *spec.Spec) {
			s.NUMA = []spec.Node{{HostNode: 0, MemoryMiB: 512, CPUs: 1}, {HostNode: 0, MemoryMiB: 512, CPUs: 1}}
		}, nil},
		{"vtpm-gpu", func(s *spec.Spec) {
			s.GPUs, s.Hugepages = &spec.GPUs{Devices: []string{"0000:1b:00.0"}, Mode: "off"}, "2M"
		}, nil},
		{"tdx", func(s *spec.Spec) { s.TEE = spec.TEETDX }, tee},
		{"tdx-h100", func(s *spec.Spec) {
			s.TEE, s.MemoryMiB, s.CPUs, s.Hugepages, s.MMIO64MiB = spec.TEETDX, 65536, 16, "1G", 262144
			s.GPUs, s.TDX = &spec.GPUs{Devices: []string{"0000:1b:00.0"}, Mode: "cc"}, &spec.TDX{QuoteSocket: "/run/qgs.sock"}
			s.NUMA = []spec.Node{{HostNode: 1, MemoryMiB: 65536, CPUs: 16, HostCPUs: "32-47"}}
		}, tee},
		{"tdx-serial", func(s *spec.Spec) { s.TEE = spec.TEETDX }, func(o *Options) { o.Accel, o.Transport = AccelKVM, vsock.Serial }},
		{"snp", func(s *spec.Spec) { s.TEE = spec.TEESNP }, tee},
		{"snp-id-block", func(s *spec.Spec) {
			s.TEE, s.SNP = spec.TEESNP, &spec.SNP{VCPUType: "EPYC-Milan", Policy: "0x20000", CBitPos: 47, IDBlock: "/id", IDAuth: "/auth"}
		}, func(o *Options) {
			tee(o)
			o.IDBlock, o.IDAuth = []byte{1, 2, 3}, append(make([]byte, 0x880), 1)
		}},
		{"snp-h200-ppcie", func(s *spec.Spec) {
			s.TEE, s.MemoryMiB, s.CPUs, s.MMIO64MiB = spec.TEESNP, 1048576, 64, 4194304
			s.GPUs = &spec.GPUs{Devices: strings.Fields(board), Mode: "ppcie"}
			s.NUMA = []spec.Node{{HostNode: 0, MemoryMiB: 524288, CPUs: 32, HostCPUs: "0-31"}, {HostNode: 1, MemoryMiB: 524288, CPUs: 32, HostCPUs: "96-127"}}
		}, func(o *Options) {
			tee(o)
			o.DeviceNode = map[string]int{}
			for i, d := range strings.Fields(board) {
				o.DeviceNode[d] = min(i/4, 1)
			}
		}},
	}
}

func build(t *testing.T, sh shape) (*spec.Spec, []string) {
	t.Helper()
	s, o := testSpec(), testOptions()
	sh.spec(s)
	if sh.opts != nil {
		sh.opts(&o)
	}
	if err := s.Validate(); err != nil {
		t.Fatalf("the shape is no valid spec: %v", err)
	}
	args, err := Args(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return s, args
}

// The arguments of each shape of machine, one a line.
func TestArgsOfEachShape(t *testing.T) {
	for _, sh := range shapes() {
		t.Run(sh.name, func(t *testing.T) {
			s, args := build(t, sh)
			got := strings.Join(args, "\n") + "\n"
			path := filepath.Join("testdata", sh.name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("arguments (-want +got), -update writes them:\n%s", diff)
			}
			if s.Confidential() == strings.Contains(got, "tpm-crb") {
				t.Error("a guest has both a TEE and a TPM of the host's, or neither")
			}
			ports := map[string]bool{}
			for _, v := range values(args, "-device") {
				if !strings.HasPrefix(v, "{") {
					continue
				}
				m := decode(t, v)
				if m["driver"] != "vfio-pci" {
					continue
				}
				bus := m["bus"].(string)
				if ports[bus] || m["rombar"] != float64(0) {
					t.Errorf("two devices on one port, or an option ROM: %s", v)
				}
				ports[bus] = true
			}
		})
	}
}

// QEMU has every option that is used: it reads objects and lists the properties
// of devices without the hardware.
func TestThePinnedQEMUKnowsTheOptions(t *testing.T) {
	tools := imagetest.Tools(t)
	run := func(args ...string) string {
		out, err := tools.Command(t.Context(), "qemu-system-x86_64", args...).CombinedOutput()
		if err != nil && len(out) == 0 {
			t.Fatalf("%v: %v", args, err)
		}
		return string(out)
	}
	// All objects are read before the first is made; the last one is refused,
	// so that none is.
	objects := []string{"-machine", "none", "-display", "none"}
	devices := map[string]string{}
	for _, sh := range shapes() {
		_, args := build(t, sh)
		for _, v := range values(args, "-object") {
			objects = append(objects, "-object", v)
		}
		for _, v := range values(args, "-device") {
			if !strings.HasPrefix(v, "{") {
				continue
			}
			m := decode(t, v)
			name := m["driver"].(string)
			if devices[name] == "" {
				devices[name] = run("-device", name+",help")
			}
			for p := range m {
				if p != "driver" && p != "id" && p != "bus" && !regexp.MustCompile(`(?m)^\s*`+regexp.QuoteMeta(p)+`=`).MatchString(devices[name]) {
					t.Errorf("%s of the pinned QEMU has no property %s", name, p)
				}
			}
		}
	}
	if out := run(append(objects, "-object", `{"qom-type":"last","id":"last"}`)...); !strings.Contains(out, "'last'") || strings.Count(out, "\n") != 1 {
		t.Errorf("the pinned QEMU refuses an object: %s", out)
	}
	if len(objects) < 20 || len(devices) < 6 {
		t.Errorf("only %d arguments and %d devices were compared", len(objects), len(devices))
	}
}

func TestTheConfigsHashIsBoundToTheGuest(t *testing.T) {
	for name, want := range map[string]struct {
		property string
		size     int
	}{"tdx": {"mrconfigid", 48}, "snp": {"host-data", 32}} {
		for _, sh := range shapes() {
			if sh.name != name {
				continue
			}
			_, args := build(t, sh)
			m := decode(t, values(args, "-object")[0])
			b, err := base64.StdEncoding.DecodeString(fmt.Sprint(m[want.property]))
			if err != nil || len(b) != want.size || !bytes.HasPrefix(b, bytes.Repeat([]byte{0xab}, 32)) || strings.Trim(string(b[32:]), "\x00") != "" {
				t.Errorf("%s: %s = %x, %v", name, want.property, b, err)
			}
		}
	}
}
