package gpu

import (
	"context"
	"errors"
	"fmt"

	"cocoon/enclave/gpu/wire"
	"cocoon/internal/fault"
)

// ask sends a request to cocoon-nvml within its time.
func (m *Machine) ask(ctx context.Context, r *wire.Request) (*wire.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r.Version = wire.Version
	reply, err := m.o.System.Ask(ctx, r)
	if err == nil {
		return reply, nil
	}
	// A GPU that is gone is the cause, whatever the library calls it.
	if gone := m.alive(); gone != nil {
		return nil, gone
	}
	var e *wire.Error
	switch {
	case errors.As(err, &e) && e.Code == wire.CodeLost:
		return nil, fault.New(fault.ExitNotReady, CodeVanished, "stop the VM and restart the host, or replace the GPU if it happens again; check power and cooling", "asking the GPUs: %w", err)
	case errors.As(err, &e) && e.Code == wire.CodeTimeout, errors.Is(err, context.DeadlineExceeded):
		return nil, fault.New(fault.ExitNotReady, CodeHung, "stop the VM, run cocoon gpu prepare on the host, and start it again", "asking the GPUs: %w", err)
	default:
		return nil, fault.New(fault.ExitNotReady, CodeLibrary, "use an image whose NVIDIA libraries and driver are of one version", "asking the GPUs: %w", err)
	}
}

func (m *Machine) state(ctx context.Context) (*wire.State, error) {
	reply, err := m.ask(ctx, &wire.Request{Op: wire.OpState})
	if err != nil {
		return nil, err
	}
	return reply.State, nil
}

// CheckState holds what the driver says against the config. It is the driver's
// word: it spares an attestation that cannot succeed and says what to change,
// and decides nothing that the attestation does not decide, but for DEVTOOLS
// (DESIGN section 2: refused), which is looked at in both. All that is wrong is
// said at once.
func (m *Machine) CheckState(ctx context.Context) error {
	s, err := m.state(ctx)
	if err != nil {
		return err
	}
	const remedy = "set the mode on the host with cocoon gpu prepare, and start the VM again"
	var errs []error
	errs = append(errs, m.count(len(s.GPUs), m.switches()))
	ppcie := s.MultiGPU == wire.MultiPPCIE
	// In protected PCIe the driver calls the other feature off.
	if !s.CC && !ppcie {
		errs = append(errs, fault.Mismatch(fault.ExitNotReady, CodeCCOff, "the GPUs' confidential computing", "on", "off", remedy))
	}
	if s.DevTools {
		errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeDevtools, "the GPUs' debugging mode", "off", "on: their memory is open to the host", remedy))
	}
	if s.Environment == wire.EnvironmentSimulation {
		errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeMode, "the driver's environment", "production", "simulation", "use NVIDIA's released driver"))
	}
	if want := m.o.Expect.Mode == ModePPCIE; want != ppcie {
		errs = append(errs, fault.Mismatch(fault.ExitNotReady, CodeMode, "the GPUs' mode", m.o.Expect.Mode, modeName(s), remedy+", or change gpus in the config"))
	}
	if s.Ready {
		// Whoever set it could have put work there first.
		errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeReadyEarly, "the GPUs' ready state before attestation", "not ready", "ready", "stop the VM and start it again, so that the GPUs are reset"))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	m.o.Log.Info("GPUs found", "count", len(s.GPUs), "driver", s.Driver, "vbios", s.GPUs[0].VBIOS, "mode", m.o.Expect.Mode)
	return nil
}

func modeName(s *wire.State) string {
	switch s.MultiGPU {
	case wire.MultiPPCIE:
		return ModePPCIE
	case wire.MultiNone, wire.MultiNVLE:
		if s.CC {
			return ModeOn
		}
		return "off"
	}
	return fmt.Sprintf("number %d", s.MultiGPU)
}

// errNotAttested guards the ready state against another order of the steps.
var errNotAttested = errors.New("the GPUs were not attested")

// Ready lets the GPUs take work. It comes after the attestation and after the
// kernel's modules are latched: from here on no other driver can reach them.
func (m *Machine) Ready(ctx context.Context) error {
	if m.attested == nil {
		return fault.New(fault.ExitInternal, CodeReadyEarly, "report this", "setting the GPUs' ready state: %w", errNotAttested)
	}
	if _, err := m.ask(ctx, &wire.Request{Op: wire.OpReady}); err != nil {
		return err
	}
	s, err := m.state(ctx)
	if err != nil {
		return err
	}
	if !s.Ready {
		return fault.Mismatch(fault.ExitNotReady, CodeLibrary, "the GPUs' ready state", "ready", "not ready", "stop the VM and start it again, so that the GPUs are reset")
	}
	return m.count(len(s.GPUs), m.switches())
}

// Describe has the engine's container find the GPUs, once they take work.
func (m *Machine) Describe(ctx context.Context) error {
	if err := m.o.System.Describe(ctx); err != nil {
		return errors.Join(m.alive(), fault.New(fault.ExitNotReady, CodeDescribe, "use an image whose nvidia-ctk knows its driver", "describing the GPUs for containers: %w", err))
	}
	return nil
}
