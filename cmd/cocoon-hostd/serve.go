package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"cocoon/enclave/handover"
	"cocoon/hostd/api"
	"cocoon/hostd/client"
	"cocoon/hostd/daemon"
	"cocoon/hostd/gpumode"
	"cocoon/hostd/vsock"
	"cocoon/internal/fault"
	"cocoon/internal/strictyaml"
	"cocoon/internal/toolstree"
)

// config is the daemon's configuration file (docs/hostd.md). Paths in it are
// relative to its directory.
type config struct {
	State       string `json:"state_dir,omitempty"`   // state directory
	Socket      string `json:"socket,omitempty"`      // default: hostd.sock in the state directory
	Tools       string `json:"tools,omitempty"`       // tools tree; default: as toolstree finds it
	Accelerator string `json:"accelerator,omitempty"` // auto, kvm or tcg
	Transport   string `json:"transport,omitempty"`   // auto, vhost-vsock, vhost-user-vsock or virtio-serial
	Ephemeral   bool   `json:"ephemeral,omitempty"`   // VMs end with the daemon
	// Idle is the idle policy; without it nothing starts on its own.
	Idle string `json:"idle,omitempty"`
	// AllowUsers and AllowGroups may call the daemon, besides root and its user.
	AllowUsers  []string `json:"allow_users,omitempty"`
	AllowGroups []string `json:"allow_groups,omitempty"`
	// GPUTool is NVIDIA's tool that sets a GPU's mode; without it a GPU in
	// another mode is refused.
	GPUTool *gpumode.Tool `json:"gpu_tool,omitempty"`
	// TLS serves the interface over TCP too; without it only the socket does.
	TLS *tlsListener `json:"tls,omitempty"`
	// GPUCache serves NVIDIA's RIM and OCSP answers to guests; without it the
	// daemon does not.
	GPUCache *gpuCache `json:"gpu_cache,omitempty"`
}

const (
	maxConfig    = 64 << 10
	defaultState = "/var/lib/cocoon-hostd"
	// shutdownTime is how long running requests have when the daemon ends.
	shutdownTime = 5 * time.Second
)

func newServeCmd() *cobra.Command {
	var file string
	var c config
	var withStdin, check bool
	cmd := &cobra.Command{
		Use:   "serve [--config FILE]",
		Short: "run the host daemon",
		Long:  "Run the host daemon. Flags override the configuration file (docs/hostd.md).",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(cmd, file); err != nil {
				return err
			}
			if check {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "configuration is good")
				return err
			}
			ctx := cmd.Context()
			if withStdin {
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				defer cancel()
				go func() {
					_, _ = io.Copy(io.Discard, cmd.InOrStdin())
					cancel()
				}()
			}
			return serve(ctx, c, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "configuration `file`")
	f.StringVar(&c.State, "state", defaultState, "state `directory`")
	f.StringVar(&c.Socket, "socket", "", "`path` of the UNIX socket; default: hostd.sock in the state directory")
	f.StringVar(&c.Tools, "tools", "", "tools tree `directory`; default: $COCOON_TOOLS, or build/tools of the repository")
	f.StringVar(&c.Accelerator, "accelerator", "auto", "auto, kvm or tcg")
	f.StringVar(&c.Transport, "transport", "auto", "auto, vhost-vsock, vhost-user-vsock or virtio-serial")
	f.BoolVar(&c.Ephemeral, "ephemeral", false, "end all VMs with the daemon, also when it is killed")
	f.BoolVar(&withStdin, "exit-with-stdin", false, "end when standard input ends")
	f.BoolVar(&check, "check", false, "read the configuration and do nothing else")
	return cmd
}

// load reads the file and lets flags that are set override it.
func (c *config) load(cmd *cobra.Command, file string) error {
	flags := *c
	if file != "" {
		const hint = "docs/hostd.md lists every field"
		b, err := os.ReadFile(file)
		if err != nil {
			return fault.New(fault.ExitParse, "hostd.config.unreadable", hint, "reading configuration: %w", err)
		}
		var read config
		if err := strictyaml.Decode(b, maxConfig, &read); err != nil {
			return fault.New(fault.ExitParse, "hostd.config.malformed", hint, "reading configuration: %w", err)
		}
		for _, p := range []*string{&read.State, &read.Socket, &read.Tools, &read.Idle} {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(filepath.Dir(file), *p)
			}
		}
		for name, set := range map[string]func(){
			"state":       func() { read.State = flags.State },
			"socket":      func() { read.Socket = flags.Socket },
			"tools":       func() { read.Tools = flags.Tools },
			"accelerator": func() { read.Accelerator = flags.Accelerator },
			"transport":   func() { read.Transport = flags.Transport },
			"ephemeral":   func() { read.Ephemeral = flags.Ephemeral },
		} {
			if cmd.Flags().Changed(name) {
				set()
			}
		}
		if t := read.GPUTool; t != nil {
			if err := t.Validate(); err != nil {
				return fault.New(fault.ExitParse, "hostd.config.malformed", "cocoon gpu tool DIR prints the section", "reading gpu_tool: %w", err)
			}
			if !filepath.IsAbs(t.Dir) {
				t.Dir = filepath.Join(filepath.Dir(file), t.Dir)
			}
		}
		if err := read.TLS.resolve(filepath.Dir(file)); err != nil {
			return err
		}
		if g := read.GPUCache; g != nil {
			if err := g.resolve(filepath.Dir(file)); err != nil {
				return err
			}
		}
		*c = read
	}
	if c.State == "" {
		c.State = defaultState
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.State, client.SocketFile)
	}
	for _, p := range []*string{&c.State, &c.Socket} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("resolving path: %w", err)
		}
		*p = abs
	}
	switch c.Accelerator {
	case "", "auto", "kvm", "tcg":
	default:
		return fault.New(fault.ExitParse, "hostd.config.malformed", "use auto, kvm or tcg", "reading configuration: accelerator %.16q is unknown", c.Accelerator)
	}
	if c.Transport != "" && !vsock.Known(c.Transport) {
		return fault.New(fault.ExitParse, "hostd.config.malformed", "use auto, vhost-vsock, vhost-user-vsock or virtio-serial", "reading configuration: transport %.32q is unknown", c.Transport)
	}
	// sockaddr_un has 108 bytes for the path (unix(7)).
	if len(c.Socket) > 107 {
		return fault.New(fault.ExitParse, "hostd.config.socket", "choose a shorter path with --socket", "reading configuration: the socket's path has %d bytes, at most 107", len(c.Socket))
	}
	return nil
}

// carry lets the guests' own protocol carry a hand-over.
func carry(ctx context.Context, l net.Listener, m daemon.Material, met func(role string)) ([]byte, error) {
	return handover.Carry(ctx, l, handover.Material{Own: m.Own, Peer: m.Peer, OwnCollateral: m.OwnCollateral, PeerCollateral: m.PeerCollateral}, met)
}

func serve(ctx context.Context, c config, log *slog.Logger) (err error) {
	tree, err := openTree(c.Tools)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own program: %w", err)
	}
	d, err := daemon.Open(daemon.Options{Dir: c.State, Tools: tree, Accel: c.Accelerator, Transport: c.Transport, Keeper: []string{self, "keep"}, GPUTool: c.GPUTool,
		Carry: carry, Ephemeral: c.Ephemeral, Clock: time.Now, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	peers, err := api.LookUpPeers(c.AllowUsers, c.AllowGroups)
	if err != nil {
		return fault.New(fault.ExitParse, "hostd.config.peer", "correct allow_users and allow_groups", "reading configuration: %w", err)
	}
	l, err := listen(c.Socket)
	if err != nil {
		return err
	}
	if peers.Open() {
		// Whoever connects is asked for by the kernel's word.
		if err := os.Chmod(c.Socket, 0o666); err != nil {
			return errors.Join(fmt.Errorf("opening socket: %w", err), l.Close())
		}
	}
	endCache, err := c.GPUCache.serve(ctx, log)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, endCache()) }()
	idler, err := openIdle(c.Idle, d, log)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC over the socket
	srv := &http.Server{Handler: api.Handler(api.Options{Host: d, Ephemeral: c.Ephemeral, Peers: peers, Idle: idler.status(), Version: version(), Clock: time.Now, Logger: log}), ConnContext: api.ConnContext,
		Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	remote, reload, err := c.TLS.open(log)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	supervised := make(chan struct{})
	go func() {
		defer close(supervised)
		var wg sync.WaitGroup
		wg.Go(func() { d.Supervise(base) })
		// Before somebody waits for it: a probe takes seconds where KVM hangs.
		wg.Go(func() {
			if _, err := d.Accel(base, ""); err != nil && base.Err() == nil {
				log.Warn("probing the accelerator", "err", err)
			}
		})
		if idler != nil {
			wg.Go(func() { idler.Run(base) })
		}
		wg.Wait()
	}()
	// Before the store is closed.
	defer func() { cut(); <-supervised }()
	log.Info("serving", "socket", c.Socket, "state", c.State, "ephemeral", c.Ephemeral)
	hups := make(chan os.Signal, 1)
	signal.Notify(hups, syscall.SIGHUP)
	defer signal.Stop(hups)
	failed := make(chan error, 2)
	go func() { failed <- srv.Serve(l) }()
	if remote != nil {
		go func() { failed <- srv.Serve(remote) }()
	}
	// Without systemd this does nothing.
	if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
		log.Warn("telling systemd", "err", err)
	}
	for running := true; running; {
		select {
		case err := <-failed:
			return fmt.Errorf("serving: %w", err)
		case <-hups:
			onHangup(reload, log)
		case <-ctx.Done():
			running = false
		}
	}
	log.Info("ending")
	if _, err := sd.SdNotify(false, sd.SdNotifyStopping); err != nil {
		log.Warn("telling systemd", "err", err)
	}
	// Ends streams and starts that are under way; the latter are undone.
	cut()
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := srv.Shutdown(sctx); err != nil {
		return errors.Join(err, srv.Close())
	}
	return nil
}

// onHangup reads the TLS files again and says what came of it.
func onHangup(reload func() error, log *slog.Logger) {
	if err := reload(); err != nil {
		log.Error("reading the TLS files again; those from before stay", "err", err)
	} else {
		log.Info("read the TLS files again")
	}
}

func openTree(dir string) (toolstree.Tree, error) {
	if dir != "" {
		return toolstree.At(dir)
	}
	return toolstree.Find()
}

// listen opens the socket for its owner alone. The state directory's lock is
// held, so a socket that is there is a leftover, unless it is another
// program's: then something answers.
func listen(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fault.New(fault.ExitNotReady, "hostd.socket.busy", "stop the program that listens there, or choose another path with --socket",
			"opening socket: something answers at %s", path)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket == 0 {
		return nil, fault.New(fault.ExitNotReady, "hostd.socket.busy", "choose another path with --socket", "opening socket: %s exists and is no socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening socket: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("opening socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "hostd.socket", "choose a path that this user can create with --socket", "opening socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("opening socket: %w", err)
	}
	return l, nil
}
