package api_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cocoon/api/hostd/v1/hostdv1connect"
	"cocoon/hostd/accel"
	"cocoon/hostd/api"
	"cocoon/hostd/client"
	"cocoon/hostd/daemon"
	"cocoon/hostd/fetch"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/hostd/vouchers"
	"cocoon/internal/fault"
	"cocoon/internal/needtool"
)

// host has two VMs and does nothing.
type host struct{}

var errNothing = errors.New("does nothing")

func (host) Start(context.Context, *spec.Spec) (*machine.State, error)  { return nil, errNothing }
func (host) Stop(context.Context, string, bool) (*machine.State, error) { return nil, errNothing }
func (host) Get(string) (*machine.State, error)                         { return nil, errNothing }
func (host) Remove(string) error                                        { return errNothing }
func (host) Crashes(string) ([]daemon.Crash, error)                     { return nil, errNothing }
func (host) Paths(string) (string, string, error)                       { return "", "", errNothing }
func (host) CA(string) (*swtpm.CA, error)                               { return nil, errNothing }
func (host) Accel(context.Context, string) (accel.Decision, error) {
	return accel.Decision{}, errNothing
}
func (host) Upgrade(context.Context, *spec.Spec, string, time.Duration) (*machine.State, error) {
	return nil, errNothing
}
func (host) Summary() (*daemon.Summary, error)       { return nil, errNothing }
func (host) Drain(context.Context) ([]string, error) { return nil, errNothing }
func (host) Resume() ([]string, error)               { return nil, errNothing }
func (host) GPUs() ([]daemon.GPU, error)             { return nil, errNothing }
func (host) PrepareGPUs(_ context.Context, mode string, devices []string) error {
	return fault.New(fault.ExitNotReady, "test.prepare", "", "%s %v", mode, devices)
}
func (host) RestoreGPUs(_ context.Context, devices []string) ([]string, error) {
	return devices, nil
}
func (host) Fetch(context.Context, string, fetch.Options) (string, error) {
	return "", errNothing
}
func (host) Vouchers() ([]vouchers.Kept, []error, error) { return nil, nil, errNothing }
func (host) List() ([]*machine.State, error) {
	at := time.Unix(1764000000, 0)
	return []*machine.State{{Name: "a", Phase: machine.Running, Started: at, Restarts: 2, Guest: machine.Guest{State: "serving"}}, {Name: "b", Phase: machine.Failed, Started: at}}, nil
}

// serve returns the socket of a daemon that lets these peers call.
func serve(t *testing.T, p api.Peers) string {
	t.Helper()
	// Not t.TempDir: others must be able to reach the socket.
	dir, err := os.MkdirTemp("", "hostd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o755, socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	srv := &http.Server{Handler: api.Handler(api.Options{Host: host{}, Peers: p, Clock: time.Now, Logger: slog.New(slog.DiscardHandler)}), ConnContext: api.ConnContext, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return socket
}

// ask calls the daemon as a user, by a program of the system's.
func ask(t *testing.T, socket, path string, uid, gid uint32) string {
	t.Helper()
	args := []string{"-s", "--unix-socket", socket, "http://hostd" + path}
	if path != api.PathMetrics {
		args = append(args, "--json", "{}")
	}
	cmd := exec.CommandContext(t.Context(), "curl", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("curl: %v", err)
	}
	return string(out)
}

func TestTheKernelSaysWhoCalls(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to call as somebody else")
	}
	needtool.Find(t, "curl")
	for _, tc := range []struct {
		name     string
		peers    api.Peers
		uid, gid uint32
		ok       bool
	}{
		{"a stranger", api.Peers{}, 65534, 65534, false},
		{"a stranger where others are named", api.Peers{UIDs: []uint32{1000}, GIDs: []uint32{1000}}, 65534, 65534, false},
		{"a user who is named", api.Peers{UIDs: []uint32{65534}}, 65534, 65534, true},
		{"a group that is named", api.Peers{GIDs: []uint32{4242}}, 65534, 4242, true},
		{"root", api.Peers{}, 0, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ask(t, serve(t, tc.peers), hostdv1connect.HostServiceListVMsProcedure, tc.uid, tc.gid)
			if strings.Contains(got, `"name":"a"`) != tc.ok || strings.Contains(got, "hostd.forbidden") == tc.ok {
				t.Errorf("answer %s", got)
			}
			if got := ask(t, serve(t, tc.peers), api.PathMetrics, tc.uid, tc.gid); strings.Contains(got, "cocoon_hostd_vms") != tc.ok {
				t.Errorf("metrics %s", got)
			}
		})
	}
}

func TestACallerOfWhomNothingIsKnownIsRefused(t *testing.T) {
	srv := httptest.NewServer(api.Handler(api.Options{Host: host{}, Clock: time.Now, Logger: slog.New(slog.DiscardHandler)}))
	defer srv.Close()
	for _, path := range []string{hostdv1connect.HostServiceListVMsProcedure, api.PathMetrics, "/"} {
		resp, err := http.Post(srv.URL+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusForbidden || !strings.Contains(string(b), "hostd.forbidden") && path != hostdv1connect.HostServiceListVMsProcedure {
			t.Errorf("over TCP: %s %s, %v", resp.Status, b, err)
		}
	}
}

func TestMetricsCountRequestsAndVMs(t *testing.T) {
	socket := serve(t, api.Peers{})
	c := client.New(socket)
	defer c.Close()
	if _, err := c.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "a"); !fault.Has(err, "hostd.internal") || strings.Contains(err.Error(), errNothing.Error()) {
		t.Errorf("an error without a fault: %v", err)
	}
	if _, err := c.Start(t.Context(), &spec.Spec{}); !fault.Has(err, "vm.spec.invalid") {
		t.Errorf("a spec that is none: %v", err)
	}
	text := ask(t, socket, api.PathMetrics, uint32(os.Geteuid()), uint32(os.Getegid()))
	for _, want := range []string{
		`cocoon_hostd_requests_total{code="ok",method="ListVMs"} 1`,
		`cocoon_hostd_requests_total{code="internal",method="GetVM"} 1`,
		`cocoon_hostd_requests_total{code="invalid_argument",method="StartVM"} 1`,
		`cocoon_hostd_vms{phase="running"} 1`, `cocoon_hostd_vms{phase="failed"} 1`, `cocoon_hostd_vms{phase="starting"} 0`,
		`cocoon_hostd_vm_restarts{vm="a"} 2`, `cocoon_hostd_vm_serving{vm="a"} 1`, `cocoon_hostd_vm_serving{vm="b"} 0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestLookUpPeers(t *testing.T) {
	p, err := api.LookUpPeers([]string{"root"}, []string{"root"})
	if err != nil || len(p.UIDs) != 1 || p.UIDs[0] != 0 || len(p.GIDs) != 1 || !p.Open() {
		t.Errorf("LookUpPeers() = %+v, %v", p, err)
	}
	if _, err := api.LookUpPeers([]string{"no-such-user"}, nil); err == nil || fault.Has(err, "hostd.forbidden") {
		t.Errorf("an unknown user: %v", err)
	}
}

func TestGPUsArePreparedAndRestoredOverTheSocket(t *testing.T) {
	c := client.New(serve(t, api.Peers{}))
	defer c.Close()
	devices := []string{"0000:1b:00.0", "0000:1c:00.0"}
	err := c.PrepareGPUs(t.Context(), "cc", devices)
	if !fault.Has(err, "test.prepare") || !strings.Contains(err.Error(), "cc [0000:1b:00.0 0000:1c:00.0]") {
		t.Errorf("%v, want what the host was asked for", err)
	}
	if got, err := c.RestoreGPUs(t.Context(), devices); err != nil || !slices.Equal(got, devices) {
		t.Errorf("restored %v, %v", got, err)
	}
}
