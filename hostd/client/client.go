// Package client calls a host daemon over its UNIX socket, or over TLS.
package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	hostdv1 "cocoon/api/hostd/v1"
	"cocoon/api/hostd/v1/hostdv1connect"
	"cocoon/contracts/receipt"
	"cocoon/hostd/console"
	"cocoon/hostd/daemon"
	"cocoon/hostd/fetch"
	"cocoon/hostd/idle"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/wire"
	"cocoon/internal/fault"
)

// maxAnswer bounds one message of an answer in bytes; streams have any number.
const maxAnswer = 32 << 20

// Client calls one daemon. It is safe for concurrent use.
type Client struct {
	at   string // for people
	http *http.Client
	rpc  hostdv1connect.HostServiceClient
}

// New returns a client for the daemon at this socket.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return open(socket, "http://hostd", &http.Transport{DialContext: dial, IdleConnTimeout: 30 * time.Second})
}

// NewTLS returns a client for the daemon that listens at HOST:PORT; cfg has the
// daemon's authority and the caller's certificate.
func NewTLS(addr string, cfg *tls.Config) *Client {
	return open(addr, "https://"+addr, &http.Transport{TLSClientConfig: cfg, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true})
}

func open(at, url string, tr *http.Transport) *Client {
	c := &Client{at: at, http: &http.Client{Transport: tr}}
	c.rpc = hostdv1connect.NewHostServiceClient(c.http, url, connect.WithReadMaxBytes(maxAnswer))
	return c
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// fail turns what a call ended with into faults.
func (c *Client) fail(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var ce *connect.Error
	if errors.As(err, &ce) {
		if faults := wire.Faults(ce); faults != nil {
			return faults
		}
	}
	cause := ctx.Err()
	if cause == nil && ce != nil && ce.Code() == connect.CodeDeadlineExceeded {
		cause = context.DeadlineExceeded // the daemon's clock was first: calls carry their deadline
	}
	if cause != nil {
		return fmt.Errorf("calling host daemon: %w", cause)
	}
	if ce == nil || ce.Code() == connect.CodeUnavailable || ce.Code() == connect.CodeCanceled && !connect.IsWireError(ce) {
		return fault.New(fault.ExitNetwork, "hostd.unreachable", "start it: cocoon-hostd serve; or name its socket with --hostd", "calling host daemon at %s: %w", c.at, err)
	}
	if ce.Code() == connect.CodeInternal && connect.IsWireError(ce) {
		return fault.New(fault.ExitInternal, "hostd.internal", "read the daemon's log", "calling host daemon: %s", ce.Message())
	}
	return fault.New(fault.ExitNetwork, "hostd.answer", "see whether the address is a host daemon's, of the same version", "calling host daemon: %w", err)
}

// Status asks what the daemon is doing.
func (c *Client) Status(ctx context.Context) (*hostdv1.StatusResponse, error) {
	r, err := c.rpc.Status(ctx, connect.NewRequest(&hostdv1.StatusRequest{}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return r.Msg, nil
}

// Accel returns the accelerator that VMs get, and why.
func (c *Client) Accel(ctx context.Context) (*hostdv1.AcceleratorResponse, error) {
	r, err := c.rpc.Accelerator(ctx, connect.NewRequest(&hostdv1.AcceleratorRequest{}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return r.Msg, nil
}

// CA is a software-TPM authority.
type CA struct {
	Name    string `json:"name"`
	RootPEM string `json:"root_pem"`
}

// CA returns a software-TPM authority, which the daemon makes where it does
// not exist yet. The usual one is daemon.DefaultCA, "default".
func (c *Client) CA(ctx context.Context, name string) (*CA, error) {
	r, err := c.rpc.Authority(ctx, connect.NewRequest(&hostdv1.AuthorityRequest{Name: name}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return &CA{Name: r.Msg.Name, RootPEM: r.Msg.RootPem}, nil
}

// Start boots a VM and returns once QEMU runs. Paths in s must be absolute:
// spec.Load and Spec.Resolve make them so.
func (c *Client) Start(ctx context.Context, s *spec.Spec) (*machine.State, error) {
	b, err := s.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding spec: %w", err)
	}
	r, err := c.rpc.StartVM(ctx, connect.NewRequest(&hostdv1.StartVMRequest{Spec: b}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return wire.ReadVM(r.Msg.Vm), nil
}

// Stop drains and stops a VM and returns once it has ended; with powerOff at
// once.
func (c *Client) Stop(ctx context.Context, name string, powerOff bool) (*machine.State, error) {
	r, err := c.rpc.StopVM(ctx, connect.NewRequest(&hostdv1.StopVMRequest{Name: name, PowerOff: powerOff}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return wire.ReadVM(r.Msg.Vm), nil
}

// Upgrade replaces a VM by another version and returns once that has reached
// the stage or guest state (empty: serving) in time (0: ten minutes); the error
// says where the old version is back.
func (c *Client) Upgrade(ctx context.Context, s *spec.Spec, until string, within time.Duration) (*machine.State, error) {
	b, err := s.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding spec: %w", err)
	}
	r, err := c.rpc.UpgradeVM(ctx, connect.NewRequest(&hostdv1.UpgradeVMRequest{Spec: b, Until: until, TimeoutS: int32(min(within, daemon.MaxVerify+time.Second) / time.Second)}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return wire.ReadVM(r.Msg.Vm), nil
}

// Crashes returns the newest failures of a VM.
func (c *Client) Crashes(ctx context.Context, name string) ([]daemon.Crash, error) {
	r, err := c.rpc.Crashes(ctx, connect.NewRequest(&hostdv1.CrashesRequest{Name: name}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	out := []daemon.Crash{}
	for _, x := range r.Msg.Crashes {
		out = append(out, wire.ReadCrash(x))
	}
	return out, nil
}

// Idle returns what the idle mode last decided, and why.
func (c *Client) Idle(ctx context.Context) (*idle.Status, error) {
	r, err := c.rpc.Idle(ctx, connect.NewRequest(&hostdv1.IdleRequest{}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return wire.ReadIdle(r.Msg), nil
}

// GPUs returns the host's GPUs and NVSwitches, and which VM has each.
func (c *Client) GPUs(ctx context.Context) ([]daemon.GPU, error) {
	r, err := c.rpc.ListGPUs(ctx, connect.NewRequest(&hostdv1.ListGPUsRequest{}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	out := []daemon.GPU{}
	for _, g := range r.Msg.Gpus {
		out = append(out, wire.ReadGPU(g))
	}
	return out, nil
}

// PrepareGPUs has the daemon make devices ready for VMs to come, in a mode.
func (c *Client) PrepareGPUs(ctx context.Context, mode string, devices []string) error {
	if _, err := c.rpc.PrepareGPUs(ctx, connect.NewRequest(&hostdv1.PrepareGPUsRequest{Mode: mode, Devices: devices})); err != nil {
		return c.fail(ctx, err)
	}
	return nil
}

// RestoreGPUs has the daemon give prepared devices back to their drivers, all
// where none is named, and returns which.
func (c *Client) RestoreGPUs(ctx context.Context, devices []string) ([]string, error) {
	r, err := c.rpc.RestoreGPUs(ctx, connect.NewRequest(&hostdv1.RestoreGPUsRequest{Devices: devices}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return r.Msg.Devices, nil
}

// Fetch brings a file of known hash into the daemon's directory, where its name
// is this, and returns its path there.
func (c *Client) Fetch(ctx context.Context, name, url, sha256 string, size int64, report func(fetch.Progress)) (string, error) {
	st, err := c.rpc.FetchFile(ctx, connect.NewRequest(&hostdv1.FetchFileRequest{Name: name, Url: url, Sha256: sha256, Size: size}))
	if err != nil {
		return "", c.fail(ctx, err)
	}
	defer st.Close()
	path, last := "", fetch.Progress{Name: name}
	for st.Receive() {
		m := st.Msg()
		if m.Phase == fetch.Done {
			path, last.Phase = m.Path, fetch.Done
		} else {
			last = fetch.Progress{Name: name, Phase: m.Phase, Bytes: m.Bytes, Total: m.Total, Resumed: m.Resumed, Error: m.Error}
		}
		report(last)
	}
	if err := st.Err(); err != nil {
		return "", c.fail(ctx, err)
	}
	return path, nil
}

// Vouchers calls each for every voucher that guests have handed over, with the
// VM's name, and damaged for what on the host's disk is none.
func (c *Client) Vouchers(ctx context.Context, each func(vm string, v *receipt.SignedVoucher) error, damaged func(why string)) error {
	st, err := c.rpc.Vouchers(ctx, connect.NewRequest(&hostdv1.VouchersRequest{}))
	if err != nil {
		return c.fail(ctx, err)
	}
	defer st.Close()
	for st.Receive() {
		m := st.Msg()
		if m.Damaged != "" {
			damaged(m.Damaged)
			continue
		}
		v, err := receipt.ParseVoucher(m.Voucher)
		if err == nil && !spec.ValidName(m.Vm) {
			err = fault.New(fault.ExitParse, "hostd.answer", "use the same version of client and daemon", "reading the host daemon's answer: %.80q is no VM", m.Vm)
		}
		if err != nil {
			return err
		}
		if err := each(m.Vm, v); err != nil {
			return err
		}
	}
	return c.fail(ctx, st.Err())
}

// Drain stops every VM and lets none start; it returns once all have ended.
func (c *Client) Drain(ctx context.Context) ([]string, error) {
	r, err := c.rpc.Drain(ctx, connect.NewRequest(&hostdv1.DrainRequest{}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return r.Msg.Vms, nil
}

// Resume ends a drain and returns the VMs that are being started.
func (c *Client) Resume(ctx context.Context) ([]string, error) {
	r, err := c.rpc.Resume(ctx, connect.NewRequest(&hostdv1.ResumeRequest{}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return r.Msg.Vms, nil
}

// Get returns a VM's state.
func (c *Client) Get(ctx context.Context, name string) (*machine.State, error) {
	r, err := c.rpc.GetVM(ctx, connect.NewRequest(&hostdv1.GetVMRequest{Name: name}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return wire.ReadVM(r.Msg.Vm), nil
}

// List returns the state of every VM.
func (c *Client) List(ctx context.Context) ([]*machine.State, error) {
	r, err := c.rpc.ListVMs(ctx, connect.NewRequest(&hostdv1.ListVMsRequest{}))
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	out := []*machine.State{}
	for _, v := range r.Msg.Vms {
		out = append(out, wire.ReadVM(v))
	}
	return out, nil
}

// Remove forgets a VM that has ended, with its logs and its TPM.
func (c *Client) Remove(ctx context.Context, name string) error {
	_, err := c.rpc.RemoveVM(ctx, connect.NewRequest(&hostdv1.RemoveVMRequest{Name: name}))
	return c.fail(ctx, err)
}

// Watch calls each for a VM at once and after each change, until it has ended
// or each returns false.
func (c *Client) Watch(ctx context.Context, name string, each func(*machine.State) bool) error {
	st, err := c.rpc.WatchVM(ctx, connect.NewRequest(&hostdv1.WatchVMRequest{Name: name}))
	if err != nil {
		return c.fail(ctx, err)
	}
	defer st.Close()
	for st.Receive() {
		if !each(wire.ReadVM(st.Msg().Vm)) {
			return nil
		}
	}
	return c.fail(ctx, st.Err())
}

// Wait waits until a VM has passed the stage, or is in that guest state, and
// returns its state. It fails as soon as that cannot happen any more, with
// the guest's own faults and the last state that was seen, if any. on, where
// not nil, sees each change of a stage.
func (c *Client) Wait(ctx context.Context, name, stage string, on func(machine.Stage)) (*machine.State, error) {
	seen := map[string]string{}
	var last *machine.State
	var outcome error
	reached := false
	err := c.Watch(ctx, name, func(st *machine.State) bool {
		last = st
		for _, s := range st.Guest.Stages {
			if on != nil && seen[s.Name] != s.Status {
				seen[s.Name] = s.Status
				on(s)
			}
		}
		reached, outcome = st.Reached(stage)
		return !reached && outcome == nil && ctx.Err() == nil
	})
	switch {
	case reached || outcome != nil:
		return last, outcome
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		return last, fault.New(fault.ExitNotReady, "vm.wait.timeout", "read the console: cocoon vm logs "+name, "waiting for stage %s of VM %s: %w", stage, name, cmp.Or(ctx.Err(), context.DeadlineExceeded))
	case err != nil:
		return last, err
	}
	return last, fault.New(fault.ExitNetwork, "hostd.answer", "try again", "waiting for stage %s of VM %s: the daemon stopped watching", stage, name)
}

// Console copies a VM's console to w; with follow until the VM ends.
func (c *Client) Console(ctx context.Context, name string, w io.Writer, follow bool) error {
	st, err := c.rpc.Console(ctx, connect.NewRequest(&hostdv1.ConsoleRequest{Name: name, Follow: follow}))
	if err != nil {
		return c.fail(ctx, err)
	}
	return c.copy(ctx, w, st.Receive, func() []byte { return st.Msg().Data }, st.Err, st.Close)
}

// StatusLog copies a VM's status lines to w as they came, one JSON object a
// line; with follow until the VM ends.
func (c *Client) StatusLog(ctx context.Context, name string, w io.Writer, follow bool) error {
	st, err := c.rpc.StatusLog(ctx, connect.NewRequest(&hostdv1.StatusLogRequest{Name: name, Follow: follow}))
	if err != nil {
		return c.fail(ctx, err)
	}
	return c.copy(ctx, w, st.Receive, func() []byte { return st.Msg().Data }, st.Err, st.Close)
}

// copy writes the pieces of a stream; a caller who gives up is no error.
func (c *Client) copy(ctx context.Context, w io.Writer, receive func() bool, data func() []byte, failed, end func() error) (err error) {
	defer func() { _ = end() }() // what matters of it has been said by failed
	for receive() {
		if _, err := w.Write(data()); err != nil {
			return fmt.Errorf("copying log: %w", err)
		}
	}
	if err := failed(); err != nil && ctx.Err() == nil {
		return c.fail(ctx, err)
	}
	return nil
}

// Lines calls each for the status lines of a VM; with follow until the VM
// ends.
func (c *Client) Lines(ctx context.Context, name string, follow bool, each func(*console.Line)) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := c.StatusLog(ctx, name, w, follow)
		w.CloseWithError(err)
		done <- err
	}()
	lerr := console.Lines(r, each, func(error) {})
	r.Close()
	if err := <-done; err != nil {
		return err
	}
	if lerr != nil && ctx.Err() == nil {
		return lerr
	}
	return nil
}
