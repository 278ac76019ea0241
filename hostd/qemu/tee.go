package qemu

import (
	"encoding/base64"
	"fmt"
	"strconv"

	"cocoon/hostd/spec"
	"cocoon/hostd/vsock"
	"cocoon/internal/fault"
)

// The sizes of what a TEE binds to a guest: MRCONFIGID (Intel, TDX Module Base
// Architecture, "TDINFO_STRUCT") and HOST_DATA (AMD 56860, SNP_LAUNCH_FINISH).
const (
	sizeMRConfigID = 48
	sizeHostData   = 32
)

// checkTEE refuses what a TEE cannot be combined with. Definitions of the
// options: QEMU 11, qapi/qom.json ("TdxGuestProperties",
// "SevSnpGuestProperties") and docs/system/i386/.
func checkTEE(s *spec.Spec, o Options) error {
	if !s.Confidential() {
		return nil
	}
	if o.Accel != AccelKVM {
		return fault.New(fault.ExitNotReady, "vm.tee.accelerator", `set "accelerator" to auto or kvm in hostd.json`,
			"building arguments for a %s guest: it cannot be emulated, and the accelerator is %s", s.TEE, o.Accel)
	}
	if o.Transport == vsock.User {
		return fault.New(fault.ExitNotReady, "vm.tee.transport", `set "transport" to vhost-vsock or virtio-serial in hostd.json`,
			"building arguments for a %s guest: %s needs memory that another process reads", s.TEE, o.Transport)
	}
	if o.ConfigSHA256 != nil && len(o.ConfigSHA256) != 32 {
		return fmt.Errorf("building arguments: a config hash of %d bytes", len(o.ConfigSHA256))
	}
	return nil
}

// cpuModel is what the guest sees. An SNP launch measures it, so that it is
// one with a known signature.
func cpuModel(s *spec.Spec) string {
	if s.TEE != spec.TEESNP {
		return "host"
	}
	if s.SNP != nil && s.SNP.VCPUType != "" {
		return s.SNP.VCPUType
	}
	return spec.DefaultVCPUType
}

// tee adds the object that launches a confidential guest and returns what the
// machine has to say about it. The config's hash goes where the guest and
// every verifier can compare it (DESIGN section 4): MRCONFIGID with zeros
// behind it, HOST_DATA.
func (a *args) tee(s *spec.Spec, o Options) string {
	switch s.TEE {
	case spec.TEETDX:
		socket := spec.DefaultQuoteSocket
		if s.TDX != nil && s.TDX.QuoteSocket != "" {
			socket = s.TDX.QuoteSocket
		}
		obj := map[string]any{"qom-type": "tdx-guest", "id": "tee", "quote-generation-socket": map[string]any{"type": "unix", "path": socket}}
		if o.ConfigSHA256 != nil {
			obj["mrconfigid"] = padded(o.ConfigSHA256, sizeMRConfigID)
		}
		a.json("-object", obj)
		return ",kernel-irqchip=split,confidential-guest-support=tee"
	case spec.TEESNP:
		cbit := 51
		if s.SNP != nil && s.SNP.CBitPos != 0 {
			cbit = s.SNP.CBitPos
		}
		// Without kernel-hashes the firmware would run any kernel under the
		// same measurement.
		obj := map[string]any{"qom-type": "sev-snp-guest", "id": "tee", "cbitpos": cbit, "reduced-phys-bits": 1,
			"policy": s.SNPPolicy(), "kernel-hashes": true}
		if o.ConfigSHA256 != nil {
			obj["host-data"] = padded(o.ConfigSHA256, sizeHostData)
		}
		if o.IDBlock != nil {
			obj["id-block"] = base64.StdEncoding.EncodeToString(o.IDBlock)
			obj["id-auth"] = base64.StdEncoding.EncodeToString(o.IDAuth)
			obj["author-key-enabled"] = authored(o.IDAuth)
		}
		a.json("-object", obj)
		return ",confidential-guest-support=tee"
	}
	return ""
}

func padded(b []byte, size int) string {
	out := make([]byte, size)
	copy(out, b)
	return base64.StdEncoding.EncodeToString(out)
}

// authored says whether an ID authentication has an author key: its key field
// (AMD 56860, "ID Authentication Information Structure", 880h) is not zero.
func authored(auth []byte) bool {
	for _, c := range auth[min(0x880, len(auth)):] {
		if c != 0 {
			return true
		}
	}
	return false
}

// memory adds the guest's memory where it is not QEMU's own, and returns what
// the machine has to say about it. A TEE's private pages come from
// guest_memfd, which KVM makes beside it; this is what the host may see.
func (a *args) memory(s *spec.Spec, o Options) string {
	if len(s.NUMA) > 0 {
		for i, n := range s.NUMA {
			m := a.backend(s, fmt.Sprintf("ram%d", i), n.MemoryMiB)
			m["host-nodes"], m["policy"] = []int{n.HostNode}, "bind"
			a.json("-object", m)
		}
		return ""
	}
	// Over vhost-user the device is another process, which reads and writes
	// the queues.
	if !s.Confidential() && s.Hugepages == "" && o.Transport != vsock.User {
		return ""
	}
	a.json("-object", a.backend(s, "ram", s.MemoryMiB))
	return ",memory-backend=ram"
}

func (a *args) backend(s *spec.Spec, id string, mib int) map[string]any {
	m := map[string]any{"qom-type": "memory-backend-memfd", "id": id, "size": int64(mib) << 20, "share": true}
	switch s.Hugepages {
	case "2M":
		m["hugetlb"], m["hugetlbsize"], m["prealloc"] = true, 2<<20, true
	case "1G":
		m["hugetlb"], m["hugetlbsize"], m["prealloc"] = true, 1<<30, true
	}
	return m
}

// numa gives the guest its nodes; processors go to them in order.
func (a *args) numa(s *spec.Spec) {
	first := 0
	for i, n := range s.NUMA {
		a.add("-numa", fmt.Sprintf("node,nodeid=%d,cpus=%d-%d,memdev=ram%d", i, first, first+n.CPUs-1, i))
		first += n.CPUs
	}
}

// devices gives the guest its GPUs: one root port each, because of two devices
// on one port the guest sees one only; no option ROM, which would be measured.
// With several NUMA nodes the ports hang on a bridge of the device's node.
func (a *args) devices(s *spec.Spec, o Options) {
	if s.GPUs == nil {
		return
	}
	a.json("-object", map[string]any{"qom-type": "iommufd", "id": "iommufd"})
	bus := make([]string, len(s.GPUs.Devices))
	bridge := map[int]string{}
	for i, d := range s.GPUs.Devices {
		bus[i] = "pcie.0"
		host, known := o.DeviceNode[d]
		if len(s.NUMA) < 2 || !known {
			continue
		}
		for node, n := range s.NUMA {
			if n.HostNode != host {
				continue
			}
			if bridge[node] == "" {
				bridge[node] = fmt.Sprintf("pxb%d", node)
				a.json("-device", map[string]any{"driver": "pxb-pcie", "id": bridge[node], "bus": "pcie.0", "bus_nr": 32 * (len(bridge) + 1), "numa_node": node})
			}
			bus[i] = bridge[node]
		}
	}
	for i, d := range s.GPUs.Devices {
		port := fmt.Sprintf("port%d", i)
		a.json("-device", map[string]any{"driver": "pcie-root-port", "id": port, "bus": bus[i], "chassis": i + 1})
		a.json("-device", map[string]any{"driver": "vfio-pci", "id": fmt.Sprintf("gpu%d", i), "host": d, "bus": port, "iommufd": "iommufd", "rombar": 0})
	}
	if s.MMIO64MiB > 0 {
		a.add("-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string="+strconv.Itoa(s.MMIO64MiB))
	}
}
