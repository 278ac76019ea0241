package nvgpu

import (
	"fmt"
	"slices"
	"strings"

	"cocoon/verifier/nvgpu/spdm"
	"cocoon/verifier/result"
)

// Counts of a board in protected PCIe (NVIDIA's topology check).
const (
	ppcieGPUs     = 8
	ppcieSwitches = 4
)

// Verify verifies the devices of one machine. The result is never nil; it has
// a device for each item, in order.
func Verify(items []Item, o *Options) *Machine {
	r := &run{o: o, now: o.now(), roots: o.Roots, cache: o.Cache}
	if r.roots == nil {
		r.roots = NVIDIARoots()
	}
	if r.cache == nil {
		r.cache = NewCache(CacheOptions{})
	}
	m := &Machine{Devices: make([]*Device, 0, len(items)), Topology: Topology{GPUs: []string{}, Switches: []string{}}}
	if len(items) == 0 || len(items) > MaxDevices {
		m.fail("gpu.count", fmt.Sprintf("1 to %d devices", MaxDevices), fmt.Sprint(len(items)), "evidence of no device, or of too many", "give the evidence of one machine")
		return m
	}
	r.rims = openRIMs(o, r.now, r.cache)
	m.Topology.Checks = append(m.Topology.Checks, r.rims.checks...)
	r.ocsp = &ocspSet{raw: o.OCSP, used: make([]bool, len(o.OCSP)), known: map[[2]string]verdict{}}
	if len(o.OCSP) > MaxOCSP {
		r.ocsp.raw = nil
		m.fail("gpu.ocsp.parse", fmt.Sprintf("at most %d", MaxOCSP), fmt.Sprint(len(o.OCSP)), "too many OCSP responses", "give those that the devices need")
	}
	for i := range items {
		d := r.device(&items[i])
		m.Devices = append(m.Devices, d)
		if !d.NotAfter.IsZero() && (m.NotAfter.IsZero() || d.NotAfter.Before(m.NotAfter)) {
			m.NotAfter = d.NotAfter
		}
	}
	if n := len(r.ocsp.raw) - r.ocsp.count(); n > 0 {
		m.skip("gpu.ocsp.unused", fmt.Sprintf("%d OCSP responses are about none of the certificates", n))
	}
	m.count(o)
	m.distinct()
	m.modes()
	m.wiring(o)
	return m
}

func (m *Machine) pass(id, actual string) {
	m.Topology.Checks = append(m.Topology.Checks, result.Check{ID: id, Status: result.Pass, Actual: actual})
}

func (m *Machine) skip(id, reason string) {
	m.Topology.Checks = append(m.Topology.Checks, result.Check{ID: id, Status: result.Skip, Reason: reason})
}

func (m *Machine) fail(id, expected, actual, reason, remedy string) {
	m.Topology.Checks = append(m.Topology.Checks, result.Check{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy})
}

// of returns the devices of a kind.
func (m *Machine) of(k Kind) []*Device {
	var out []*Device
	for _, d := range m.Devices {
		if d.Kind == k {
			out = append(out, d)
		}
	}
	return out
}

// count checks the number of GPUs, as the certificates tell them from
// switches, and that there is no device that they do not tell.
func (m *Machine) count(o *Options) {
	const id = "gpu.count"
	gpus, switches := len(m.of(KindGPU)), len(m.of(KindSwitch))
	actual := fmt.Sprintf("%d GPUs, %d switches", gpus, switches)
	unknown := len(m.Devices) - gpus - switches
	switch {
	case unknown > 0:
		m.fail(id, "a kind for every device", fmt.Sprintf("%s, %d of no known kind", actual, unknown), "a device has no good certificate chain", "give the chain of every device")
	case o.GPUs > 0 && gpus != o.GPUs:
		m.fail(id, fmt.Sprintf("%d GPUs", o.GPUs), actual, "the machine has another number of GPUs than claimed", "check the machine's GPUs")
	case o.GPUs == 0:
		m.skip(id, "no number of GPUs was claimed: "+actual)
	default:
		m.pass(id, actual)
	}
}

// distinct refuses one device that stands for two: by PDI, by leaf
// certificate and by key.
func (m *Machine) distinct() {
	seen := map[string]int{}
	good := 0
	for i, d := range m.Devices {
		if d.chain == nil {
			continue
		}
		good++
		leaf := d.chain.certs[certLeaf]
		for _, key := range []string{"pdi " + d.PDI, "ueid " + d.UEID, "key " + string(leaf.RawSubjectPublicKeyInfo)} {
			if j, ok := seen[key]; ok {
				m.fail("gpu.distinct", "devices of their own", fmt.Sprintf("devices %d and %d are %s", j, i, d.PDI), "one device stands for two", "give the evidence of every device once")
				return
			}
			seen[key] = i
		}
	}
	if good == 0 {
		m.skip("gpu.distinct", "no device has a good certificate chain")
		return
	}
	m.pass("gpu.distinct", fmt.Sprintf("%d devices", good))
}

// modes refuses GPUs of different modes or architectures in one machine.
func (m *Machine) modes() {
	const id = "gpu.modes"
	gpus := m.of(KindGPU)
	var modes []string
	for _, d := range gpus {
		text := string(d.Arch) + " " + string(d.Mode)
		if d.Mode == "" {
			text = string(d.Arch) + " without a mode"
		}
		if !slices.Contains(modes, text) {
			modes = append(modes, text)
		}
	}
	switch {
	case len(gpus) == 0:
		m.skip(id, "there is no GPU")
	case len(modes) > 1:
		m.fail(id, "GPUs of one architecture in one mode", strings.Join(modes, ", "), "the GPUs are in different modes", "set one mode on all GPUs and reset them")
	case gpus[0].Mode == "":
		m.fail(id, "spt, mpt or ppcie", "none", "no GPU states a mode that is known", "use a driver and a mode that this version knows")
	default:
		m.Topology.Mode = gpus[0].Mode
		m.pass(id, modes[0])
	}
}

// wiring checks in protected PCIe that GPUs and switches are those of one
// board: what the reports list must be the devices whose certificates are
// here, each way. NVIDIA's own check compares the reports' lists only.
func (m *Machine) wiring(o *Options) {
	const id = "gpu.topology"
	gpus, switches := m.of(KindGPU), m.of(KindSwitch)
	m.Topology.GPUs, m.Topology.Switches = pdis(gpus), pdis(switches)
	ppcie := slices.ContainsFunc(gpus, func(d *Device) bool { return d.Mode == PPCIE })
	switch {
	case o.Partial:
		m.skip(id, "the devices are not given as a whole machine")
	case len(gpus) == 0:
		m.skip(id, "there is no GPU")
	case !ppcie && len(switches) > 0:
		m.fail(id, "no switches", fmt.Sprintf("%d switches", len(switches)), "switches are beside GPUs that are not in protected PCIe", "set protected PCIe on all GPUs and switches, or leave the switches out")
	case !ppcie:
		m.pass(id, "no switch is trusted")
	default:
		if bad := m.miswired(gpus, switches); bad != "" {
			m.fail(id, "8 GPUs and 4 switches, wired to each other", bad, "the devices are not those of one board", "give the evidence of all GPUs and switches of one machine, each once")
			return
		}
		m.pass(id, fmt.Sprintf("%d GPUs and %d switches, wired to each other", len(gpus), len(switches)))
	}
}

// miswired returns the first thing that is wrong with a board's wiring, or "".
func (m *Machine) miswired(gpus, switches []*Device) string {
	if len(gpus) != ppcieGPUs || len(switches) != ppcieSwitches {
		return fmt.Sprintf("%d GPUs and %d switches", len(gpus), len(switches))
	}
	wantGPUs, wantSwitches := set(m.Topology.GPUs), set(m.Topology.Switches)
	for _, d := range gpus {
		if d.gpu == nil || !slices.Equal(set(texts(d.gpu.Switches)), wantSwitches) {
			return "GPU " + d.PDI + " lists other switches"
		}
	}
	for _, d := range switches {
		if d.sw == nil || len(d.sw.GPUs) != len(wantGPUs) || !slices.Equal(set(texts(d.sw.GPUs)), wantGPUs) {
			return "switch " + d.PDI + " lists other GPUs"
		}
	}
	return ""
}

func pdis(ds []*Device) []string {
	out := make([]string, len(ds))
	for i, d := range ds {
		out[i] = d.PDI
	}
	return out
}

func texts(in []spdm.PDI) []string {
	out := make([]string, len(in))
	for i, p := range in {
		out[i] = p.String()
	}
	return out
}

// set returns the distinct values, sorted.
func set(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}
