// Package client calls a host daemon over its UNIX socket.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cocoon/hostd/api"
	"cocoon/hostd/console"
	"cocoon/hostd/idle"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// maxAnswer bounds an answer in bytes; streams have no bound.
const maxAnswer = 32 << 20

// pollEvery is how often Wait asks.
const pollEvery = 100 * time.Millisecond

// Client calls one daemon. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client for the daemon at this socket.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, IdleConnTimeout: 30 * time.Second}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Health asks whether the daemon answers.
func (c *Client) Health(ctx context.Context) (*api.Health, error) {
	var h api.Health
	return &h, c.call(ctx, "GET", api.PathHealth, "", nil, &h)
}

// Accel returns the accelerator that VMs get, and why.
func (c *Client) Accel(ctx context.Context) (*api.Accel, error) {
	var a api.Accel
	return &a, c.call(ctx, "GET", api.PathAccel, "", nil, &a)
}

// CA returns a software-TPM authority, which the daemon makes where it does
// not exist yet. The usual one is daemon.DefaultCA, "default".
func (c *Client) CA(ctx context.Context, name string) (*api.CA, error) {
	var ca api.CA
	return &ca, c.call(ctx, "GET", api.PathCA, name, nil, &ca)
}

// Start boots a VM and returns once QEMU runs. Paths in s must be absolute:
// spec.Load and Spec.Resolve make them so.
func (c *Client) Start(ctx context.Context, s *spec.Spec) (*machine.State, error) {
	var st machine.State
	if err := c.call(ctx, "POST", api.PathVMs, "", s, &st); err != nil {
		return nil, err
	}
	return &st, nil
}

// Stop stops a VM and returns once it has ended; with powerOff at once.
func (c *Client) Stop(ctx context.Context, name string, powerOff bool) (*machine.State, error) {
	var st machine.State
	if err := c.call(ctx, "POST", api.PathStop, name, api.Stop{PowerOff: powerOff}, &st); err != nil {
		return nil, err
	}
	return &st, nil
}

// Upgrade replaces a VM by another version and returns once that has reached
// the stage or guest state; the error says where the old version is back.
func (c *Client) Upgrade(ctx context.Context, u api.Upgrade) (*machine.State, error) {
	var st machine.State
	if err := c.call(ctx, "POST", api.PathUpgrade, u.Spec.Name, u, &st); err != nil {
		return nil, err
	}
	return &st, nil
}

// Crashes returns the newest failures of a VM.
func (c *Client) Crashes(ctx context.Context, name string) (*api.Crashes, error) {
	var cs api.Crashes
	return &cs, c.call(ctx, "GET", api.PathCrashes, name, nil, &cs)
}

// Idle returns what the idle mode last decided, and why.
func (c *Client) Idle(ctx context.Context) (*idle.Status, error) {
	var st idle.Status
	return &st, c.call(ctx, "GET", api.PathIdle, "", nil, &st)
}

// Get returns a VM's state.
func (c *Client) Get(ctx context.Context, name string) (*machine.State, error) {
	var st machine.State
	if err := c.call(ctx, "GET", api.PathVM, name, nil, &st); err != nil {
		return nil, err
	}
	return &st, nil
}

// List returns the state of every VM.
func (c *Client) List(ctx context.Context) ([]*machine.State, error) {
	var l api.VMs
	return l.VMs, c.call(ctx, "GET", api.PathVMs, "", nil, &l)
}

// Remove forgets a VM that has ended, with its logs and its TPM.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", api.PathVM, name, nil, nil)
}

// Wait waits until a VM has passed the stage, or is in that guest state, and
// returns its state. It fails as soon as that cannot happen any more, with
// the guest's own faults and the last state that was seen, if any. on, where not nil, sees each change of a stage.
func (c *Client) Wait(ctx context.Context, name, stage string, on func(machine.Stage)) (*machine.State, error) {
	seen := map[string]string{}
	late := func() error {
		return fault.New(fault.ExitNotReady, "vm.wait.timeout", "read the console: cocoon vm logs "+name, "waiting for stage %s of VM %s: %w", stage, name, ctx.Err())
	}
	var last *machine.State
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		st, err := c.Get(ctx, name)
		if ctx.Err() != nil {
			return last, late()
		}
		if err != nil {
			return last, err
		}
		last = st
		for _, s := range st.Guest.Stages {
			if on != nil && seen[s.Name] != s.Status {
				seen[s.Name] = s.Status
				on(s)
			}
		}
		if ok, err := st.Reached(stage); ok || err != nil {
			return st, err
		}
		select {
		case <-ctx.Done():
			return st, late()
		case <-t.C:
		}
	}
}

// Console copies a VM's console to w; with follow until the VM ends.
func (c *Client) Console(ctx context.Context, name string, w io.Writer, follow bool) error {
	return c.copy(ctx, api.PathConsole, name, w, follow)
}

// StatusLog copies a VM's status lines to w as they came, one JSON object a
// line; with follow until the VM ends.
func (c *Client) StatusLog(ctx context.Context, name string, w io.Writer, follow bool) error {
	return c.copy(ctx, api.PathStatus, name, w, follow)
}

func (c *Client) copy(ctx context.Context, path, name string, w io.Writer, follow bool) error {
	body, err := c.stream(ctx, path, name, follow)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil && ctx.Err() == nil {
		return fmt.Errorf("reading log: %w", err)
	}
	return nil
}

// Lines calls each for the status lines of a VM; with follow until the VM
// ends.
func (c *Client) Lines(ctx context.Context, name string, follow bool, each func(*console.Line)) error {
	body, err := c.stream(ctx, api.PathStatus, name, follow)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := console.Lines(body, each, func(error) {}); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (c *Client) stream(ctx context.Context, path, name string, follow bool) (io.ReadCloser, error) {
	p := expand(path, name)
	if follow {
		p += "?follow=1"
	}
	resp, err := c.do(ctx, "GET", p, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func expand(path, name string) string {
	return strings.Replace(path, "{name}", url.PathEscape(name), 1)
}

// call sends in as JSON where it is not nil, and reads the answer into out.
func (c *Client) call(ctx context.Context, method, path, name string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, expand(path, name), body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fault.New(fault.ExitNetwork, "hostd.unreachable", "start it: cocoon-hostd serve", "reading the host daemon's answer: %w", err)
	}
	if err := jcs.Decode(b, maxAnswer, out); err != nil {
		return fault.New(fault.ExitParse, "hostd.answer", "use the same version of client and daemon", "reading the host daemon's answer: %w", err)
	}
	return nil
}

// do returns a response with a 2xx status; all else becomes an error.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://hostd"+path, body)
	if err != nil {
		return nil, fmt.Errorf("calling host daemon: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("calling host daemon: %w", ctx.Err())
		}
		return nil, fault.New(fault.ExitNetwork, "hostd.unreachable", "start it: cocoon-hostd serve; or name its socket with --hostd", "calling host daemon at %s: %w", c.socket, errors.Unwrap(err))
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the host daemon's answer: %w", err)
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var p api.Problem
	if media != api.MediaProblem || jcs.Decode(b, maxAnswer, &p) != nil {
		return nil, fault.New(fault.ExitNetwork, "hostd.answer", "see whether the socket is a host daemon's", "calling host daemon: HTTP status %d", resp.StatusCode)
	}
	return nil, p.Err()
}
