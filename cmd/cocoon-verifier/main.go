// Command cocoon-verifier appraises evidence and signs verdicts.
//
//	cocoon-verifier --config FILE     run the service (docs/verifier-api.md)
//	cocoon-verifier keygen --dir DIR  make its keys
//	cocoon-verifier fsck DIR          check its journal of verdicts
//
// The config is one strict YAML document, and so JSON too: see Config. The service exits 0 on
// SIGTERM or SIGINT.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cocoon/internal/fault"
)

// Limits of the HTTP server.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 60 * time.Second // evidence of 8 MiB over a slow link
	writeTimeout      = 90 * time.Second
	idleTimeout       = 60 * time.Second
	shutdownTimeout   = 10 * time.Second
	maxHeader         = 16 << 10
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
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
	if err := parseFlags(fs, args); err != nil {
		return ignoreHelp(err)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	cfg, err := readConfig(*path)
	if err != nil {
		return err
	}
	return serve(ctx, cfg, log)
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

// serve runs the service until the context ends.
func serve(ctx context.Context, cfg *Config, log *slog.Logger) (err error) {
	handler, end, err := cfg.handler(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fault.New(fault.ExitInternal, "verifier.listen", "free the address, or choose another in the config", "listening on %s: %w", cfg.Listen, err)
	}
	// gRPC needs HTTP/2; without TLS a client says from the start that it speaks it.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: handler, Protocols: protocols, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		// The parent context is over: the shutdown has its own deadline.
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		done <- srv.Shutdown(sctx)
	}()
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	log.Info("verifier ready", "listen", ln.Addr().String(), "url", scheme+"://"+ln.Addr().String())
	if cfg.TLS != nil {
		err = srv.ServeTLS(ln, cfg.path(cfg.TLS.Certificate), cfg.path(cfg.TLS.Key))
	} else {
		err = srv.Serve(ln)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return <-done
}
