package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	hostdv1 "cocoon/api/hostd/v1"
	"cocoon/api/hostd/v1/hostdv1connect"
	"cocoon/contracts/receipt"
	"cocoon/hostd/api"
	"cocoon/hostd/console"
	"cocoon/hostd/daemon"
	"cocoon/hostd/fetch"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/hostd/vouchers"
	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

func now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// serve runs a daemon's interface on a socket. before is called on its state
// directory first.
func serve(t *testing.T, before func(dir string)) *Client {
	t.Helper()
	dir := t.TempDir()
	if before != nil {
		before(dir)
	}
	log := slog.New(slog.DiscardHandler)
	d, err := daemon.Open(daemon.Options{Dir: dir, Accel: "tcg", Tools: toolstree.Tree{Dir: dir}, Keeper: []string{"/nonexistent"}, Clock: now, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, SocketFile)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: api.Handler(api.Options{Host: d, Clock: now, Logger: log}), Protocols: protocols, ConnContext: api.ConnContext, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	c := New(socket)
	t.Cleanup(func() {
		c.Close()
		srv.Close()
		<-done
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// withVM puts a VM into a state directory, as if this process kept it.
func withVM(t *testing.T, st machine.State) func(string) {
	return func(dir string) {
		s, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(store.Record{Spec: spec.Spec{Version: 1, Name: st.Name, TEE: spec.TEEVTPM, MemoryMiB: 256, CPUs: 1, Image: "/i"}, Created: now()}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if st.Keeper, err = proc.Self(); err != nil {
			t.Fatal(err)
		}
		vm := filepath.Join(dir, "vms", st.Name)
		if err := os.MkdirAll(vm, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := machine.WriteState(vm, &st); err != nil {
			t.Fatal(err)
		}
		for f, text := range map[string]string{machine.ConsoleFile: "hello\n", machine.StatusFile: `{"type":"stage","stage":"mounts","status":"ok"}` + "\n"} {
			if err := os.WriteFile(filepath.Join(vm, f), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestFaultsKeepTheirCodesAndValuesOverTheSocket(t *testing.T) {
	c := serve(t, nil)
	ctx := t.Context()
	for _, tc := range []struct {
		name string
		code string
		exit int
		do   func() error
	}{
		{"an unknown VM", "vm.unknown", fault.ExitNotReady, func() error { _, err := c.Get(ctx, "nobody"); return err }},
		{"a name that is a path", "vm.unknown", fault.ExitNotReady, func() error { _, err := c.Stop(ctx, "../../etc", false); return err }},
		{"removing nobody", "vm.unknown", fault.ExitNotReady, func() error { return c.Remove(ctx, "nobody") }},
		{"the console of nobody", "vm.unknown", fault.ExitNotReady, func() error { return c.Console(ctx, "nobody", io.Discard, true) }},
		{"a spec that is invalid", "vm.spec.invalid", fault.ExitParse, func() error { _, err := c.Start(ctx, &spec.Spec{Version: 1}); return err }},
		{"a spec with relative paths", "vm.spec.relative", fault.ExitParse, func() error {
			_, err := c.Start(ctx, &spec.Spec{Version: 1, Name: "a", TEE: "vtpm", MemoryMiB: 256, CPUs: 1, Image: "i"})
			return err
		}},
		{"a spec without its files", "vm.file.missing", fault.ExitNotReady, func() error {
			_, err := c.Start(ctx, &spec.Spec{Version: 1, Name: "a", TEE: "vtpm", MemoryMiB: 256, CPUs: 1, Image: "/nonexistent"})
			return err
		}},
		{"a CA with a bad name", "vm.tpm.ca_name", fault.ExitParse, func() error { _, err := c.CA(ctx, "A B"); return err }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.do()
			if !fault.Has(err, tc.code) || fault.ExitCode(err) != tc.exit {
				t.Errorf("%v (exit %d), want %s (exit %d)", err, fault.ExitCode(err), tc.code, tc.exit)
			}
		})
	}
}

// What is no message of the service is refused with a status of its own, and
// what is too large is not read to its end.
func TestMalformedCallsAreRefused(t *testing.T) {
	c := serve(t, nil)
	for body, want := range map[string]string{
		strings.Repeat(" ", 2*api.MaxMessage): "resource_exhausted",
		`{"name":1}`:                          "invalid_argument",
		`[]`:                                  "invalid_argument",
		`{"name":"nobody"}`:                   "not_found",
	} {
		resp, err := c.http.Post("http://hostd"+hostdv1connect.HostServiceGetVMProcedure, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Code    string `json:"code"`
			Details []struct {
				Type  string `json:"type"`
				Debug any    `json:"debug"`
			} `json:"details"`
		}
		err = json.NewDecoder(resp.Body).Decode(&e)
		resp.Body.Close()
		if err != nil || e.Code != want {
			t.Errorf("a body of %d bytes: %s %+v, %v, want %s", len(body), resp.Status, e, err, want)
		}
		if want == "not_found" && (len(e.Details) != 1 || e.Details[0].Type != "cocoon.hostd.v1.Faults") {
			t.Errorf("the faults are not in the error's details: %+v", e)
		}
	}
	resp, err := c.http.Get("http://hostd/v1/vms")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 404 || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("nothing there: %s %s", resp.Status, resp.Header.Get("Content-Type"))
	}
}

// gRPC clients are answered on the socket, too.
func TestTheSocketSpeaksGRPC(t *testing.T) {
	c := serve(t, withVM(t, machine.State{Name: "a", Phase: machine.Stopped, Started: now(), Guest: machine.Guest{Stages: []machine.Stage{}}}))
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", c.at)
	}}
	defer tr.CloseIdleConnections()
	g := hostdv1connect.NewHostServiceClient(&http.Client{Transport: tr}, "http://hostd", connect.WithGRPC())
	r, err := g.GetVM(t.Context(), connect.NewRequest(&hostdv1.GetVMRequest{Name: "a"}))
	if err != nil || r.Msg.Vm.Phase != machine.Stopped {
		t.Errorf("GetVM over gRPC = %v, %v", r, err)
	}
	if _, err := g.GetVM(t.Context(), connect.NewRequest(&hostdv1.GetVMRequest{Name: "b"})); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("GetVM of nobody over gRPC = %v", err)
	}
}

func TestWaitReportsStagesAndGivesUpWithTheLastState(t *testing.T) {
	c := serve(t, withVM(t, machine.State{Name: "a", Phase: machine.Running, Started: now(),
		Guest: machine.Guest{Stages: []machine.Stage{{Name: "mounts", Status: "ok"}, {Name: "engine", Status: "running"}}}}))
	var seen []string
	st, err := c.Wait(t.Context(), "a", "mounts", func(s machine.Stage) { seen = append(seen, s.Name) })
	if err != nil || st.Phase != machine.Running || strings.Join(seen, " ") != "mounts engine" {
		t.Errorf("Wait() = %+v, %v, saw %v", st, err, seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	st, err = c.Wait(ctx, "a", "engine", func(machine.Stage) { cancel() })
	if !fault.Has(err, "vm.wait.timeout") {
		t.Errorf("Wait that is given up = %+v, %v", st, err)
	}
}

// late is a daemon whose clock ends a call before the caller's does.
type late struct {
	hostdv1connect.UnimplementedHostServiceHandler
}

func (late) WatchVM(context.Context, *connect.Request[hostdv1.WatchVMRequest], *connect.ServerStream[hostdv1.WatchVMResponse]) error {
	return connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded)
}

func TestAWaitThatTheDaemonEndsIsOver(t *testing.T) {
	_, h := hostdv1connect.NewHostServiceHandler(late{})
	srv := httptest.NewServer(h)
	defer srv.Close()
	c := open(srv.URL, srv.URL, &http.Transport{})
	defer c.Close()
	if st, err := c.Wait(t.Context(), "a", "engine", nil); st != nil || !fault.Has(err, "vm.wait.timeout") {
		t.Errorf("Wait() = %+v, %v", st, err)
	}
}

func TestLogsAreCopiedAndFollowed(t *testing.T) {
	c := serve(t, withVM(t, machine.State{Name: "a", Phase: machine.Stopped, Started: now(), Guest: machine.Guest{Stages: []machine.Stage{}}}))
	for _, follow := range []bool{false, true} { // a VM that has ended ends a follower
		var b bytes.Buffer
		if err := c.Console(t.Context(), "a", &b, follow); err != nil || b.String() != "hello\n" {
			t.Errorf("Console() = %q, %v", b.String(), err)
		}
		var lines []string
		if err := c.Lines(t.Context(), "a", follow, func(l *console.Line) { lines = append(lines, l.Stage) }); err != nil || len(lines) != 1 || lines[0] != "mounts" {
			t.Errorf("Lines() = %v, %v", lines, err)
		}
	}
	vms, err := c.List(t.Context())
	if err != nil || len(vms) != 1 || vms[0].Name != "a" {
		t.Errorf("List() = %v, %v", vms, err)
	}
}

func TestAnAbsentDaemonIsANetworkFaultWithAHint(t *testing.T) {
	c := New(filepath.Join(t.TempDir(), "none.sock"))
	if _, err := c.Status(t.Context()); !fault.Has(err, "hostd.unreachable") || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("Status() = %v", err)
	}
	if _, err := Launch(t.Context(), LaunchOptions{Program: "/bin/false", State: t.TempDir()}); !fault.Has(err, "hostd.launch") {
		t.Errorf("Launch of a program that ends = %v", err)
	}
}

// The daemon brings a file and tells how far it is; a wrong hash is refused
// under its own code.
func TestTheDaemonBringsAFile(t *testing.T) {
	c := serve(t, nil)
	content := bytes.Repeat([]byte("a model"), 1000)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", now(), bytes.NewReader(content))
	}))
	defer h.Close()
	hash := fmt.Sprintf("%x", sha256.Sum256(content))
	var last fetch.Progress
	path, err := c.Fetch(t.Context(), "chat.img", h.URL, hash, 0, func(p fetch.Progress) { last = p })
	if err != nil || last.Phase != fetch.Done {
		t.Fatalf("Fetch() = %v, progress %+v", err, last)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, content) {
		t.Errorf("%s has %d bytes, %v", path, len(b), err)
	}
	if _, err := c.Fetch(t.Context(), "other.img", h.URL, strings.Repeat("0", 64), 0, func(fetch.Progress) {}); !fault.Has(err, "fetch.hash") || fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("with another hash Fetch() = %v", err)
	}
	for _, name := range []string{"", "../x", "a/b", "x.part"} {
		if _, err := c.Fetch(t.Context(), name, h.URL, hash, 0, func(fetch.Progress) {}); !fault.Has(err, "fetch.name") {
			t.Errorf("as %q Fetch() = %v", name, err)
		}
	}
}

func TestVouchersOfTheHostAreBrought(t *testing.T) {
	v, err := receipt.Voucher{GlobalID: -3, Seq: 7, Amount: 1, ReceiptCount: 1}.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	c := serve(t, func(dir string) {
		if _, err := (vouchers.Book{Dir: filepath.Join(dir, "vouchers", "worker-1")}).Keep(v); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "vouchers", "worker-1", "x.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	var got []string
	bad := 0
	err = c.Vouchers(t.Context(), func(vm string, v *receipt.SignedVoucher) error {
		got = append(got, fmt.Sprint(vm, v.Voucher.Seq))
		return nil
	}, func(string) { bad++ })
	if err != nil || strings.Join(got, " ") != "worker-17" || bad != 1 {
		t.Errorf("Vouchers() = %v, %d damaged, %v", got, bad, err)
	}
}
