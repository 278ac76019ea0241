// Package wire turns the host daemon's values into the messages of
// api/hostd/v1/hostd.proto and back. What comes out of a message is as
// untrusted as the message.
package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hostdv1 "cocoon/api/hostd/v1"
	"cocoon/hostd/console"
	"cocoon/hostd/daemon"
	"cocoon/hostd/idle"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/vfio"
)

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil || t.IsZero() {
		return nil
	}
	return timestamppb.New(*t)
}

func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil || t.CheckValid() != nil {
		return nil
	}
	v := t.AsTime()
	return &v
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func process(id proc.ID) *hostdv1.Process {
	if id == (proc.ID{}) {
		return nil
	}
	return &hostdv1.Process{Pid: int32(id.PID), Start: id.Start}
}

func readProcess(p *hostdv1.Process) proc.ID {
	return proc.ID{PID: int(p.GetPid()), Start: p.GetStart()}
}

func problems(ps []machine.Problem) []*hostdv1.Fault {
	var out []*hostdv1.Fault
	for _, p := range ps {
		out = append(out, &hostdv1.Fault{Code: p.Code, Exit: int32(p.Exit), Message: p.Message, Expected: p.Expected, Actual: p.Actual, Remedy: p.Remedy})
	}
	return out
}

func readProblems(fs []*hostdv1.Fault) []machine.Problem {
	var out []machine.Problem
	for _, f := range fs {
		out = append(out, machine.Problem{Code: f.GetCode(), Exit: int(f.GetExit()), Message: f.GetMessage(), Expected: f.GetExpected(), Actual: f.GetActual(), Remedy: f.GetRemedy()})
	}
	return out
}

func guestFaults(fs []console.GuestFault) []*hostdv1.Fault {
	var out []*hostdv1.Fault
	for _, f := range fs {
		out = append(out, &hostdv1.Fault{Code: f.Code, Message: f.Message, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy})
	}
	return out
}

func readGuestFaults(fs []*hostdv1.Fault) []console.GuestFault {
	var out []console.GuestFault
	for _, f := range fs {
		out = append(out, console.GuestFault{Code: f.GetCode(), Message: f.GetMessage(), Expected: f.GetExpected(), Actual: f.GetActual(), Remedy: f.GetRemedy()})
	}
	return out
}

func guest(g *machine.Guest) *hostdv1.Guest {
	out := &hostdv1.Guest{State: g.State, Faults: guestFaults(g.Faults), Panic: g.Panic, Metrics: g.Metrics}
	if d := g.Drain; d != nil {
		out.Drain = &hostdv1.GuestDrain{Order: d.Order, Phase: d.Phase, Running: int64(d.Running), Waiting: int64(d.Waiting), Cut: int64(d.Cut), LeftMs: d.LeftMS}
	}
	for _, s := range g.Stages {
		out.Stages = append(out.Stages, &hostdv1.Stage{Name: s.Name, Status: s.Status, Ms: s.MS, UptimeMs: s.UptimeMS, HostMs: s.HostMS, Faults: guestFaults(s.Faults)})
	}
	return out
}

func readGuest(g *hostdv1.Guest) machine.Guest {
	out := machine.Guest{State: g.GetState(), Stages: []machine.Stage{}, Faults: readGuestFaults(g.GetFaults()), Panic: g.GetPanic(), Metrics: g.GetMetrics()}
	if d := g.GetDrain(); d != nil {
		out.Drain = &console.Drain{Order: d.Order, Phase: d.Phase, Running: int(d.Running), Waiting: int(d.Waiting), Cut: int(d.Cut), LeftMS: d.LeftMs}
	}
	for _, s := range g.GetStages() {
		out.Stages = append(out.Stages, machine.Stage{Name: s.GetName(), Status: s.GetStatus(), MS: s.GetMs(), UptimeMS: s.GetUptimeMs(), HostMS: s.GetHostMs(), Faults: readGuestFaults(s.GetFaults())})
	}
	return out
}

// VM returns a state as a message.
func VM(s *machine.State) *hostdv1.VM {
	return &hostdv1.VM{
		Name: s.Name, Phase: s.Phase, Accelerator: s.Accel, AcceleratorReason: s.AccelWhy, Tee: s.TEE, Transport: s.Transport, TransportReason: s.TransportWhy,
		Keeper: process(s.Keeper), Qemu: process(s.QEMU), Swtpm: process(s.SWTPM), Started: stamp(&s.Started), Ended: stamp(s.Ended), Reason: s.Reason,
		Faults: problems(s.Faults), EkCertificateSha256: s.EKSHA256, Guest: guest(&s.Guest), BadStatusLines: int32(s.BadLines),
		Restarts: int32(s.Restarts), NextStart: stamp(s.NextStart), StartError: s.StartError, Upgrade: s.Upgrade,
	}
}

// ReadVM returns the state in a message.
func ReadVM(v *hostdv1.VM) *machine.State {
	return &machine.State{
		Name: v.GetName(), Phase: v.GetPhase(), Accel: v.GetAccelerator(), AccelWhy: v.GetAcceleratorReason(), TEE: v.GetTee(), Transport: v.GetTransport(), TransportWhy: v.GetTransportReason(),
		Keeper: readProcess(v.GetKeeper()), QEMU: readProcess(v.GetQemu()), SWTPM: readProcess(v.GetSwtpm()), Started: orZero(moment(v.GetStarted())), Ended: moment(v.GetEnded()), Reason: v.GetReason(),
		Faults: readProblems(v.GetFaults()), EKSHA256: v.GetEkCertificateSha256(), Guest: readGuest(v.GetGuest()), BadLines: int(v.GetBadStatusLines()),
		Restarts: int(v.GetRestarts()), NextStart: moment(v.GetNextStart()), StartError: v.GetStartError(), Upgrade: v.GetUpgrade(),
	}
}

// Crash returns a crash report as a message.
func Crash(c *daemon.Crash) *hostdv1.Crash {
	return &hostdv1.Crash{Vm: c.VM, Ended: stamp(&c.Ended), RanSeconds: c.Ran, Reason: c.Reason, Faults: problems(c.Faults), Guest: guest(&c.Guest), Console: c.Console, Log: c.Log}
}

// ReadCrash returns the crash report in a message.
func ReadCrash(c *hostdv1.Crash) daemon.Crash {
	return daemon.Crash{VM: c.GetVm(), Ended: orZero(moment(c.GetEnded())), Ran: c.GetRanSeconds(), Reason: c.GetReason(), Faults: readProblems(c.GetFaults()), Guest: readGuest(c.GetGuest()), Console: c.GetConsole(), Log: c.GetLog()}
}

// Decision returns a decision of the idle mode as a message.
func Decision(d *idle.Decision) *hostdv1.Decision {
	return &hostdv1.Decision{Time: stamp(&d.Time), Mode: d.Mode, Order: d.Order, Reasons: d.Reasons, Until: stamp(d.Until)}
}

// ReadDecision returns the decision in a message.
func ReadDecision(d *hostdv1.Decision) idle.Decision {
	return idle.Decision{Time: orZero(moment(d.GetTime())), Mode: d.GetMode(), Order: d.GetOrder(), Reasons: d.GetReasons(), Until: moment(d.GetUntil())}
}

func narrow(n *int) *int32 {
	if n == nil {
		return nil
	}
	v := int32(min(max(*n, -1<<31), 1<<31-1))
	return &v
}

func widen(n *int32) *int {
	if n == nil {
		return nil
	}
	v := int(*n)
	return &v
}

// Idle returns the status of the idle mode as a message.
func Idle(s *idle.Status) *hostdv1.IdleResponse {
	out := &hostdv1.IdleResponse{Policy: s.Policy, Vm: s.VM, Last: Decision(&s.Last), Error: s.Error}
	if o := s.Seen; o != nil {
		out.Seen = &hostdv1.Observation{Time: stamp(&o.Time), Load: o.Load, GpuPercent: narrow(o.GPU), GpuPrograms: narrow(o.GPUPrograms), TouchedS: narrow(o.Touched),
			Mains: o.Mains, Price: o.Price, Running: o.Running, Requests: int32(o.Requests)}
	}
	for i := range s.Changes {
		out.Changes = append(out.Changes, Decision(&s.Changes[i]))
	}
	return out
}

// ReadIdle returns the status of the idle mode in a message.
func ReadIdle(m *hostdv1.IdleResponse) *idle.Status {
	s := &idle.Status{Policy: m.GetPolicy(), VM: m.GetVm(), Last: ReadDecision(m.GetLast()), Error: m.GetError(), Changes: []idle.Decision{}}
	if o := m.Seen; o != nil {
		s.Seen = &idle.Observation{Time: orZero(moment(o.Time)), Load: o.Load, GPU: widen(o.GpuPercent), GPUPrograms: widen(o.GpuPrograms), Touched: widen(o.TouchedS),
			Mains: o.Mains, Price: o.Price, Running: o.Running, Requests: int(o.Requests)}
	}
	for _, d := range m.Changes {
		s.Changes = append(s.Changes, ReadDecision(d))
	}
	return s
}

// GPU returns a device as a message.
func GPU(g *daemon.GPU) *hostdv1.GPU {
	d := &g.Device
	return &hostdv1.GPU{Bdf: d.BDF, Id: d.ID, Kind: d.Kind, Model: d.Model, Arch: d.Arch, Driver: d.Driver, Numa: int32(d.NUMA), IommuGroup: int32(d.Group), PowerControl: d.Power,
		CanReset: d.CanReset, MaxBarBytes: d.MaxBAR, SharedWith: d.Shared, Functions: d.Functions, Mode: string(g.Mode), ModeError: g.ModeErr, Vm: g.VM}
}

// ReadGPU returns the device in a message.
func ReadGPU(m *hostdv1.GPU) daemon.GPU {
	g := daemon.GPU{Mode: vfio.Mode(m.GetMode()), ModeErr: m.GetModeError(), VM: m.GetVm()}
	d := &g.Device
	d.BDF, d.ID, d.Kind, d.Model, d.Arch, d.Driver = m.GetBdf(), m.GetId(), m.GetKind(), m.GetModel(), m.GetArch(), m.GetDriver()
	d.NUMA, d.Group, d.Power, d.CanReset = int(m.GetNuma()), int(m.GetIommuGroup()), m.GetPowerControl(), m.GetCanReset()
	d.MaxBAR, d.Shared, d.Functions = m.GetMaxBarBytes(), m.GetSharedWith(), m.GetFunctions()
	return g
}
