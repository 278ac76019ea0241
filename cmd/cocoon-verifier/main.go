// Command cocoon-verifier appraises evidence and signs verdicts.
//
//	cocoon-verifier --config FILE          run the service (docs/verifier-api.md)
//	cocoon-verifier --config FILE --check  check config and what it names; run nothing
//	cocoon-verifier keygen --dir DIR       make its keys
//	cocoon-verifier fsck DIR               check its journal of verdicts
//
// The config is one strict YAML document, and so JSON too: see Config. SIGHUP
// reloads policy, manifests and keys. The service exits 0 on SIGTERM or SIGINT.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
	"cocoon/verifier/server"
)

// Limits of the HTTP server.
const (
	readTimeout     = 60 * time.Second // evidence of 8 MiB over a slow link
	writeTimeout    = 90 * time.Second
	shutdownTimeout = 10 * time.Second
	maxHeader       = 16 << 10
)

// What the collector is told. A verdict leaves some ten kilobytes of garbage
// beside few megabytes that live: without ballast, which is never touched and so
// takes no memory, it would run for every hundred verdicts. Most of what lives
// under load are the texts of the latest verdicts, which have nothing to follow: a
// cycle costs little, and half as much garbage as usual bounds the memory.
const (
	ballastBytes = 64 << 20
	gcPercent    = 50
)

// processorsEach is how many of Go's processors there are for one CPU. A thread that
// waits for the disk holds one until the runtime's monitor takes it, up to ten
// milliseconds later, and there are hundreds of writes a second; and with no more
// than CPUs, who comes back from the disk stands behind all that is ready to run. It
// is set once: a quota of CPUs that changes later is not followed.
const processorsEach = 2

// patience is how long a client may take.
type patience struct{ header, read, write, idle time.Duration }

var defaultPatience = patience{header: 5 * time.Second, read: readTimeout, write: writeTimeout, idle: 60 * time.Second}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processorsEach * runtime.GOMAXPROCS(0))
	}
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fault.Print(os.Stderr, err)
		os.Exit(fault.ExitCode(err))
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "keygen":
			return keygen(args[1:], stdout, stderr)
		case "fsck":
			return fsck(args[1:], stdout)
		}
	}
	fs := flag.NewFlagSet("cocoon-verifier", flag.ContinueOnError)
	fs.SetOutput(stderr)
	path := fs.String("config", "", "configuration `file` (YAML)")
	check := fs.Bool("check", false, "read the config and everything that it names, say what is wrong, and exit")
	if err := parseFlags(fs, args); err != nil {
		return ignoreHelp(err)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if *check {
		return checkConfig(*path, log, stdout)
	}
	return serve(ctx, *path, log)
}

func parseFlags(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fault.New(fault.ExitInternal, "usage", "see --help", "parsing flags: %w", err)
	}
	if fs.NArg() != 0 {
		return fault.New(fault.ExitInternal, "usage", "see --help", "unexpected argument %q", fs.Arg(0))
	}
	return nil
}

func ignoreHelp(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}

// checkConfig does what a reload would, beside a running service too: it opens
// neither journal nor store, and makes no key.
func checkConfig(path string, log *slog.Logger, stdout io.Writer) error {
	cfg, err := readConfig(path)
	if err != nil {
		return err
	}
	s := &service{log: log, keys: &keystore{}, clock: time.Now}
	l, err := s.load(cfg, nil)
	if err == nil {
		err = errors.Join(server.CheckTrust(l.trust, time.Now()), closeAll(l.made))
	}
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "ok")
	return nil
}

// serve runs the service until the context ends.
func serve(ctx context.Context, path string, log *slog.Logger) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ballast := make([]byte, ballastBytes)
	defer runtime.KeepAlive(ballast)
	s, err := newService(path, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ln, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fault.New(fault.ExitInternal, "verifier.listen", "free the address, or choose another in the config", "listening on %s: %w", s.cfg.Listen, err)
	}
	ln = server.Listen(ln)
	srv := httpServer(s, defaultPatience, log)
	hups := make(chan os.Signal, 1)
	signal.Notify(hups, syscall.SIGHUP)
	defer signal.Stop(hups)
	done := make(chan error, 1)
	archive := time.NewTicker(server.ArchiveLook)
	defer archive.Stop()
	go func() {
		for {
			select {
			case <-hups:
				s.onHangup()
				continue
			case <-archive.C:
				if err := s.server.RemoveOldEvidence(); err != nil {
					log.Error("removing old evidence", "error", err)
				}
				continue
			case <-ctx.Done():
			}
			break
		}
		notify(log, daemon.SdNotifyStopping)
		s.server.Drain()
		// The parent context is over: the shutdown has its own deadline.
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		done <- srv.Shutdown(sctx)
	}()
	scheme := "http"
	if s.cfg.TLS != nil {
		scheme = "https"
	}
	log.Info("verifier ready", "listen", ln.Addr().String(), "url", scheme+"://"+ln.Addr().String())
	notify(log, daemon.SdNotifyReady)
	if s.cfg.TLS != nil {
		err = srv.ServeTLS(ln, "", "")
	} else {
		err = srv.Serve(ln)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return <-done
}

// httpServer bounds what one connection can hold: a client that is slow with
// headers or body is cut off.
func httpServer(s *service, p patience, log *slog.Logger) *http.Server {
	// gRPC needs HTTP/2; without TLS a client says from the start that it speaks it.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: s, Protocols: protocols, ReadHeaderTimeout: p.header, ReadTimeout: p.read, WriteTimeout: p.write,
		IdleTimeout: p.idle, MaxHeaderBytes: maxHeader, ConnContext: server.ConnContext, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate},
	}
}

// onHangup reloads, and says so to the log and to systemd.
func (s *service) onHangup() {
	notify(s.log, daemon.SdNotifyReloading+"\n"+monotonic())
	if err := s.reload(); err != nil {
		s.log.Error("reload failed, everything is as before", "error", err)
		notify(s.log, daemon.SdNotifyReady+"\nSTATUS=reload failed, everything is as before")
		return
	}
	s.log.Info("reloaded")
	notify(s.log, daemon.SdNotifyReady+"\nSTATUS=reloaded")
}

// notify tells systemd, where it runs the service (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("telling systemd", "error", err)
	}
}

// monotonic is the time that a reload began, which Type=notify-reload wants.
func monotonic() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return ""
	}
	return fmt.Sprintf("MONOTONIC_USEC=%d", ts.Nano()/1000)
}
