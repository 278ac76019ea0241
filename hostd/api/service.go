package api

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	hostdv1 "cocoon/api/hostd/v1"
	"cocoon/hostd/console"
	"cocoon/hostd/fetch"
	"cocoon/hostd/idle"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/wire"
	"cocoon/internal/fault"
)

// Status says what the daemon is doing.
func (s *server) Status(context.Context, *connect.Request[hostdv1.StatusRequest]) (*connect.Response[hostdv1.StatusResponse], error) {
	sum, err := s.o.Host.Summary()
	if err != nil {
		return nil, err
	}
	out := &hostdv1.StatusResponse{Pid: pid(), Version: s.o.Version, Ephemeral: s.o.Ephemeral, Started: timestamppb.New(s.started), Vms: map[string]int32{},
		MemoryGivenMib: int64(sum.MemoryMiB), MemoryAvailableMib: hostMemory(), GpusGiven: int32(sum.GPUs), DiskFreeBytes: int64(min(sum.DiskFree, 1<<62))}
	if sum.Drained != nil {
		out.DrainedSince = timestamppb.New(*sum.Drained)
	}
	for _, vm := range sum.VMs {
		out.Vms[vm.Phase]++
		if vm.Phase == machine.Running && vm.Guest.State == machine.Serving {
			out.Serving++
		}
		if !vm.Over() {
			out.Requests += int32(min(max(vm.Guest.Metrics[idle.InFlight], 0), 1<<20))
		}
	}
	if s.o.Idle != nil {
		last := s.o.Idle().Last
		out.Idle = wire.Decision(&last)
	}
	return connect.NewResponse(out), nil
}

// Accelerator returns the accelerator that VMs get.
func (s *server) Accelerator(ctx context.Context, _ *connect.Request[hostdv1.AcceleratorRequest]) (*connect.Response[hostdv1.AcceleratorResponse], error) {
	d, err := s.o.Host.Accel(ctx, "")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.AcceleratorResponse{Accelerator: d.Accel, Reason: d.Reason, ProbedAt: timestamppb.New(d.At)}), nil
}

// Authority returns a software-TPM authority.
func (s *server) Authority(_ context.Context, in *connect.Request[hostdv1.AuthorityRequest]) (*connect.Response[hostdv1.AuthorityResponse], error) {
	ca, err := s.o.Host.CA(in.Msg.Name)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.AuthorityResponse{Name: ca.Name, RootPem: string(ca.RootPEM())}), nil
}

// ListVMs returns every VM.
func (s *server) ListVMs(context.Context, *connect.Request[hostdv1.ListVMsRequest]) (*connect.Response[hostdv1.ListVMsResponse], error) {
	vms, err := s.o.Host.List()
	if err != nil {
		return nil, err
	}
	out := &hostdv1.ListVMsResponse{}
	for _, vm := range vms {
		out.Vms = append(out.Vms, wire.VM(vm))
	}
	return connect.NewResponse(out), nil
}

// GetVM returns one VM.
func (s *server) GetVM(_ context.Context, in *connect.Request[hostdv1.GetVMRequest]) (*connect.Response[hostdv1.GetVMResponse], error) {
	st, err := s.o.Host.Get(in.Msg.Name)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.GetVMResponse{Vm: wire.VM(st)}), nil
}

// watchEvery is how often a VM that is watched is looked at.
const watchEvery = 100 * time.Millisecond

// WatchVM returns a VM at once and after each change.
func (s *server) WatchVM(ctx context.Context, in *connect.Request[hostdv1.WatchVMRequest], out *connect.ServerStream[hostdv1.WatchVMResponse]) error {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	var last *hostdv1.VM
	for {
		st, err := s.o.Host.Get(in.Msg.Name)
		if err != nil {
			return err
		}
		if vm := wire.VM(st); last == nil || !proto.Equal(last, vm) {
			last = vm
			if err := out.Send(&hostdv1.WatchVMResponse{Vm: vm}); err != nil {
				return err
			}
		}
		// One that is to be started again may still come to what is waited for.
		if st.Over() && st.NextStart == nil && st.Upgrade == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// parse reads a spec from a request.
func parse(b []byte) (*spec.Spec, error) {
	sp, err := spec.Parse(b)
	if err != nil {
		return nil, err
	}
	if err := sp.CheckAbsolute(); err != nil {
		return nil, fault.New(fault.ExitParse, "vm.spec.relative", "send absolute paths: the daemon has no directory of yours", "parsing spec: %w", err)
	}
	return sp, nil
}

// StartVM boots a VM.
func (s *server) StartVM(ctx context.Context, in *connect.Request[hostdv1.StartVMRequest]) (*connect.Response[hostdv1.StartVMResponse], error) {
	sp, err := parse(in.Msg.Spec)
	if err != nil {
		return nil, err
	}
	st, err := s.o.Host.Start(ctx, sp)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.StartVMResponse{Vm: wire.VM(st)}), nil
}

// StopVM drains and stops a VM.
func (s *server) StopVM(ctx context.Context, in *connect.Request[hostdv1.StopVMRequest]) (*connect.Response[hostdv1.StopVMResponse], error) {
	st, err := s.o.Host.Stop(ctx, in.Msg.Name, in.Msg.PowerOff)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.StopVMResponse{Vm: wire.VM(st)}), nil
}

// UpgradeVM replaces a VM by another version of itself.
func (s *server) UpgradeVM(ctx context.Context, in *connect.Request[hostdv1.UpgradeVMRequest]) (*connect.Response[hostdv1.UpgradeVMResponse], error) {
	sp, err := parse(in.Msg.Spec)
	if err != nil {
		return nil, err
	}
	// Its caller may go away; half an upgrade is worse than a whole one.
	st, err := s.o.Host.Upgrade(context.WithoutCancel(ctx), sp, in.Msg.Until, time.Duration(in.Msg.TimeoutS)*time.Second)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.UpgradeVMResponse{Vm: wire.VM(st)}), nil
}

// RemoveVM forgets a VM that has ended.
func (s *server) RemoveVM(_ context.Context, in *connect.Request[hostdv1.RemoveVMRequest]) (*connect.Response[hostdv1.RemoveVMResponse], error) {
	if err := s.o.Host.Remove(in.Msg.Name); err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.RemoveVMResponse{}), nil
}

// Crashes returns the newest failures of a VM.
func (s *server) Crashes(_ context.Context, in *connect.Request[hostdv1.CrashesRequest]) (*connect.Response[hostdv1.CrashesResponse], error) {
	cs, err := s.o.Host.Crashes(in.Msg.Name)
	if err != nil {
		return nil, err
	}
	out := &hostdv1.CrashesResponse{}
	for i := range cs {
		out.Crashes = append(out.Crashes, wire.Crash(&cs[i]))
	}
	return connect.NewResponse(out), nil
}

// Console returns a VM's console.
func (s *server) Console(ctx context.Context, in *connect.Request[hostdv1.ConsoleRequest], out *connect.ServerStream[hostdv1.ConsoleResponse]) error {
	path, _, err := s.o.Host.Paths(in.Msg.Name)
	if err != nil {
		return err
	}
	return s.follow(ctx, in.Msg.Name, path, in.Msg.Follow, func(b []byte) error { return out.Send(&hostdv1.ConsoleResponse{Data: b}) })
}

// StatusLog returns a VM's status lines.
func (s *server) StatusLog(ctx context.Context, in *connect.Request[hostdv1.StatusLogRequest], out *connect.ServerStream[hostdv1.StatusLogResponse]) error {
	_, path, err := s.o.Host.Paths(in.Msg.Name)
	if err != nil {
		return err
	}
	return s.follow(ctx, in.Msg.Name, path, in.Msg.Follow, func(b []byte) error { return out.Send(&hostdv1.StatusLogResponse{Data: b}) })
}

func (s *server) follow(ctx context.Context, name, path string, follow bool, send sender) error {
	var more func() bool
	if follow {
		more = s.running(name)
	}
	return console.Follow(ctx, path, send, more)
}

// Idle says what the idle mode decided last.
func (s *server) Idle(context.Context, *connect.Request[hostdv1.IdleRequest]) (*connect.Response[hostdv1.IdleResponse], error) {
	if s.o.Idle == nil {
		return nil, fault.New(fault.ExitNotReady, "idle.off", `name a policy with "idle" in hostd.json`, "asking for the idle mode: there is none")
	}
	st := s.o.Idle()
	return connect.NewResponse(wire.Idle(&st)), nil
}

// ListGPUs returns the host's GPUs and NVSwitches.
func (s *server) ListGPUs(context.Context, *connect.Request[hostdv1.ListGPUsRequest]) (*connect.Response[hostdv1.ListGPUsResponse], error) {
	list, err := s.o.Host.GPUs()
	if err != nil {
		return nil, err
	}
	out := &hostdv1.ListGPUsResponse{}
	for i := range list {
		out.Gpus = append(out.Gpus, wire.GPU(&list[i]))
	}
	return connect.NewResponse(out), nil
}

// PrepareGPUs makes devices ready for VMs to come. Its caller may go away; the
// devices may not stay halfway.
func (s *server) PrepareGPUs(ctx context.Context, in *connect.Request[hostdv1.PrepareGPUsRequest]) (*connect.Response[hostdv1.PrepareGPUsResponse], error) {
	if err := s.o.Host.PrepareGPUs(context.WithoutCancel(ctx), in.Msg.Mode, in.Msg.Devices); err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.PrepareGPUsResponse{}), nil
}

// RestoreGPUs gives prepared devices back to their drivers.
func (s *server) RestoreGPUs(ctx context.Context, in *connect.Request[hostdv1.RestoreGPUsRequest]) (*connect.Response[hostdv1.RestoreGPUsResponse], error) {
	devices, err := s.o.Host.RestoreGPUs(context.WithoutCancel(ctx), in.Msg.Devices)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.RestoreGPUsResponse{Devices: devices}), nil
}

// FetchFile brings a file of known hash.
func (s *server) FetchFile(ctx context.Context, in *connect.Request[hostdv1.FetchFileRequest], out *connect.ServerStream[hostdv1.FetchFileResponse]) error {
	var lost error
	path, err := s.o.Host.Fetch(ctx, in.Msg.Name, fetch.Options{URL: in.Msg.Url, SHA256: in.Msg.Sha256, Size: in.Msg.Size, Report: func(p fetch.Progress) {
		if p.Phase != fetch.Done && lost == nil {
			lost = out.Send(&hostdv1.FetchFileResponse{Phase: p.Phase, Bytes: p.Bytes, Total: p.Total, Resumed: p.Resumed, Error: p.Error})
		}
	}})
	if err != nil || lost != nil {
		return errors.Join(err, lost)
	}
	return out.Send(&hostdv1.FetchFileResponse{Phase: fetch.Done, Path: path})
}

// Vouchers returns the vouchers that guests have handed over.
func (s *server) Vouchers(_ context.Context, _ *connect.Request[hostdv1.VouchersRequest], out *connect.ServerStream[hostdv1.VouchersResponse]) error {
	kept, damaged, err := s.o.Host.Vouchers()
	if err != nil {
		return err
	}
	for _, k := range kept {
		doc, err := k.Voucher.Marshal()
		if err != nil {
			return err
		}
		if err := out.Send(&hostdv1.VouchersResponse{Vm: filepath.Base(filepath.Dir(k.Path)), Voucher: doc}); err != nil {
			return err
		}
	}
	for _, d := range damaged {
		if err := out.Send(&hostdv1.VouchersResponse{Damaged: d.Error()}); err != nil {
			return err
		}
	}
	return nil
}

// Drain drains and stops every VM.
func (s *server) Drain(ctx context.Context, _ *connect.Request[hostdv1.DrainRequest]) (*connect.Response[hostdv1.DrainResponse], error) {
	names, err := s.o.Host.Drain(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.DrainResponse{Vms: names}), nil
}

// Resume ends a drain.
func (s *server) Resume(context.Context, *connect.Request[hostdv1.ResumeRequest]) (*connect.Response[hostdv1.ResumeResponse], error) {
	names, err := s.o.Host.Resume()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostdv1.ResumeResponse{Vms: names}), nil
}
