// Package gpu takes NVIDIA's GPUs, and the NVSwitches of a board in protected
// PCIe, from their reset to taking work: reset, driver, persistence, fabric,
// state, attestation, and, after the kernel's modules are latched, the ready
// state. What the measured config expects comes in; a GPU that vanished, hangs,
// is in another mode or in DEVTOOLS, or cannot be vouched for is a fault at its
// step, and nothing after that step runs.
//
// The order is the one of NVIDIA's deployment guides for confidential
// computing: the first attach after a function-level reset is the one that
// opens the SPDM session, the persistence daemon holds it, and no GPU takes
// work before it is attested.
package gpu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"cocoon/enclave/gpu/wire"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/rim"
)

// Modes of a config.
const (
	ModeOn    = evidence.GPUModeOn
	ModePPCIE = evidence.GPUModePPCIE
)

// Codes of faults. What attestation refuses has the codes of package
// verifier/nvgpu's checks.
const (
	CodeCount       = "gpu.count"
	CodeReset       = "gpu.reset"
	CodeHung        = "gpu.hung"
	CodeVanished    = "gpu.vanished"
	CodeDriver      = "gpu.driver"
	CodeNodes       = "gpu.nodes"
	CodePersistence = "gpu.persistence"
	CodeFabric      = "gpu.fabric"
	CodeCCOff       = "gpu.cc_off"
	CodeDevtools    = "gpu.devtools"
	CodeMode        = "gpu.mode"
	CodeReadyEarly  = "gpu.ready_early"
	CodeLibrary     = "gpu.nvml"
	CodeCollateral  = "gpu.collateral"
	CodeIncomplete  = "gpu.incomplete"
	CodeDescribe    = "gpu.describe"
	CodeChanged     = "gpu.changed"
)

// Function is a PCI function of NVIDIA's.
type Function struct {
	Address string // such as 0000:01:00.0
	Kind    string // wire.KindGPU, wire.KindSwitch, or empty for another, such as a sound device
}

// System is what this package asks of the machine. Linux is the real one; tests
// have one that plays GPUs.
type System interface {
	// Functions lists NVIDIA's PCI functions.
	Functions() ([]Function, error)
	// Reset resets a function; false where it has no reset of its own.
	Reset(ctx context.Context, address string) (bool, error)
	// Alive says whether a function still answers on the bus.
	Alive(address string) bool
	// LoadModule loads a kernel module of the image with its parameters.
	LoadModule(name, parameters string) error
	// MakeNodes makes the driver's device nodes.
	MakeNodes() error
	// Persist starts the persistence daemon and returns when it holds the GPUs.
	Persist(ctx context.Context) error
	// Fabric starts the fabric manager, which goes on.
	Fabric(ctx context.Context) error
	// Describe writes down which devices and files a container needs that is to
	// compute on the GPUs.
	Describe(ctx context.Context) error
	// Ask runs cocoon-nvml for one request.
	Ask(ctx context.Context, r *wire.Request) (*wire.Reply, error)
}

// Options of a Machine.
type Options struct {
	Expect     evidence.ConfigGPUs // of the measured config
	System     System
	Collateral []byte       // bundle of RIMs and OCSP responses; untrusted, verified here
	Roots      *nvgpu.Roots // nil: NVIDIA's
	RIMRoots   *rim.Roots   // nil: NVIDIA's
	Clock      func() time.Time
	Rand       io.Reader // nil: crypto/rand
	Log        *slog.Logger
	Poll       time.Duration // between looks at the fabric; 0 for a second
}

// Machine is the GPUs of this boot. Its methods are called one at a time, in
// the order of Steps.
type Machine struct {
	o         Options
	functions []Function
	attested  []string // who was attested at boot, sorted; nil before
	cache     *nvgpu.Cache
}

// New returns a Machine that nothing was done to yet.
func New(o Options) *Machine {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Poll == 0 {
		o.Poll = time.Second
	}
	return &Machine{o: o, cache: nvgpu.NewCache(nvgpu.CacheOptions{})}
}

// Step is one step with the time that it may take.
type Step struct {
	Name    string
	Timeout time.Duration
	Run     func(ctx context.Context) error
}

// Time limits. NVIDIA's own tools allow five seconds a call.
const (
	resetTimeout = 30 * time.Second
	driverTime   = 3 * time.Minute // the first attach starts the GPU's firmware
	fabricTime   = 5 * time.Minute
	attestTime   = 3 * time.Minute
	askTime      = 90 * time.Second // a request to cocoon-nvml, for up to 16 devices
)

// Before returns the steps up to the attestation with a random nonce: all that
// come before the kernel's modules are latched. Ready comes after it.
func (m *Machine) Before() []Step {
	steps := []Step{
		{"gpu-reset", resetTimeout + 5*time.Second, m.Reset},
		{"gpu-driver", driverTime, m.Load},
		{"gpu-persistence", driverTime, m.Persist},
	}
	if m.o.Expect.Mode == ModePPCIE {
		steps = append(steps, Step{"gpu-fabric", fabricTime, m.Fabric})
	}
	return append(steps,
		Step{"gpu-state", askTime + 5*time.Second, m.CheckState},
		Step{"gpu-attest", attestTime, m.Attest})
}

// Reset counts the devices and resets each, before any driver looks at them.
func (m *Machine) Reset(ctx context.Context) error {
	fs, err := m.o.System.Functions()
	if err != nil {
		return fault.New(fault.ExitNotReady, CodeCount, "report this", "listing GPUs: %w", err)
	}
	m.functions = fs
	if err := m.count(len(m.of(wire.KindGPU)), len(m.of(wire.KindSwitch))); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, resetTimeout)
	defer cancel()
	for _, f := range fs {
		done, err := m.o.System.Reset(ctx, f.Address)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return fault.New(fault.ExitNotReady, CodeHung, "stop the VM, run cocoon gpu prepare on the host, and start it again; if it hangs again, restart the host",
				"resetting %s: it did not end in %s", f.Address, resetTimeout)
		case err != nil:
			return fault.New(fault.ExitNotReady, CodeReset, "run cocoon gpu prepare on the host and start the VM again", "resetting %s: %w", f.Address, err)
		case !m.o.System.Alive(f.Address):
			return m.vanished(f.Address)
		case !done:
			m.o.Log.Warn("a device has no reset of its own; the host's must do", "device", f.Address)
		}
	}
	return nil
}

func (m *Machine) of(kind string) (out []Function) {
	for _, f := range m.functions {
		if f.Kind == kind {
			out = append(out, f)
		}
	}
	return out
}

// switches returns how many NVSwitches the mode demands.
func (m *Machine) switches() int { return m.o.Expect.Switches() }

// count holds a number of devices against the config.
func (m *Machine) count(gpus, switches int) error {
	want := fmt.Sprintf("%d GPUs", m.o.Expect.Count)
	got := fmt.Sprintf("%d GPUs", gpus)
	good := gpus == m.o.Expect.Count
	if n := m.switches(); n > 0 || switches > 0 {
		want, got = fmt.Sprintf("%s and %d NVSwitches", want, n), fmt.Sprintf("%s and %d NVSwitches", got, switches)
		// Switches in a machine that is not in protected PCIe are the host's
		// mistake, and nothing here would attest them.
		good = good && switches == n
	}
	if good {
		return nil
	}
	return fault.Mismatch(fault.ExitNotReady, CodeCount, "the machine's devices", want, got,
		"give the VM the devices that its config names, or change gpus in the config; a GPU that is missing may have failed: look at the host's log")
}

func (m *Machine) vanished(address string) error {
	return fault.New(fault.ExitNotReady, CodeVanished, "stop the VM and restart the host, or replace the GPU if it happens again; check power and cooling",
		"looking at %s: it no longer answers on the bus", address)
}

// alive says which device fell off the bus, if one did.
func (m *Machine) alive() error {
	for _, f := range m.functions {
		if !m.o.System.Alive(f.Address) {
			return m.vanished(f.Address)
		}
	}
	return nil
}

// protectedPCIe is the driver's switch for it (NVIDIA's deployment guide for
// protected PCIe).
const protectedPCIe = `NVreg_RegistryDwords="RmEnableProtectedPcie=0x1"`

// Load loads the driver and makes its device nodes.
func (m *Machine) Load(context.Context) error {
	parameters := ""
	if m.o.Expect.Mode == ModePPCIE {
		parameters = protectedPCIe
	}
	for _, mod := range []struct{ name, parameters string }{{"nvidia", parameters}, {"nvidia-uvm", ""}} {
		if err := m.o.System.LoadModule(mod.name, mod.parameters); err != nil {
			return errors.Join(m.alive(), fault.New(fault.ExitNotReady, CodeDriver,
				"use an image whose driver knows this GPU and is signed for its kernel", "loading the driver %s: %w", mod.name, err))
		}
	}
	if err := m.o.System.MakeNodes(); err != nil {
		return errors.Join(m.alive(), fault.New(fault.ExitNotReady, CodeNodes, "use an image whose driver knows this GPU", "making the driver's device nodes: %w", err))
	}
	return nil
}

// Persist has the persistence daemon hold the GPUs: without it the SPDM
// session ends with the first program that closes the device.
func (m *Machine) Persist(ctx context.Context) error {
	if err := m.o.System.Persist(ctx); err != nil {
		return errors.Join(m.alive(), fault.New(fault.ExitNotReady, CodePersistence, "look at the console for what it says", "starting nvidia-persistenced: %w", err))
	}
	return nil
}

// Fabric starts the fabric manager and waits until every GPU is part of the
// fabric.
func (m *Machine) Fabric(ctx context.Context) error {
	broken := func(err error) error {
		return errors.Join(m.alive(), fault.New(fault.ExitNotReady, CodeFabric, "check that the fabric manager is of the driver's version, and the NVSwitches on the host", "starting the fabric: %w", err))
	}
	if err := m.o.System.Fabric(ctx); err != nil {
		return broken(err)
	}
	for {
		s, err := m.state(ctx)
		if err != nil {
			return broken(err)
		}
		waiting := 0
		for _, g := range s.GPUs {
			if !g.Fabric {
				waiting++
			}
		}
		if waiting == 0 && len(s.GPUs) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return broken(fmt.Errorf("%d of %d GPUs are not part of it: %w", waiting, len(s.GPUs), ctx.Err()))
		case <-time.After(m.o.Poll):
		}
	}
}
