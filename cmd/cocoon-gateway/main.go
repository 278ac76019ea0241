// Command cocoon-gateway runs the blind relay between clients and workers.
//
//	cocoon-gateway --config FILE
//
// The config is one strict JSON document: see Config. It exits 0 on SIGTERM
// or SIGINT.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cocoon/gateway"
	"cocoon/internal/fault"
	"cocoon/internal/strictyaml"
)

// Config is the service's configuration file.
type Config struct {
	Listen      string `json:"listen"`                // host:port, TLS
	Certificate string `json:"certificate,omitempty"` // PEM chain; without it the gateway signs its own
	Key         string `json:"key,omitempty"`         // PEM key of Certificate
	MaxWorkers  int    `json:"max_workers,omitempty"`
	MaxStreams  int    `json:"max_streams_per_worker,omitempty"`
	IdleSeconds int    `json:"idle_seconds,omitempty"` // of a relayed stream
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fault.Print(os.Stderr, err)
		os.Exit(fault.ExitCode(err))
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("cocoon-gateway", flag.ContinueOnError)
	path := fs.String("config", "", "configuration file (JSON)")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return fault.New(fault.ExitInternal, "usage", "", "parsing flags: %w", err)
	}
	cfg, err := readConfig(*path)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	opt := gateway.Options{
		MaxWorkers: cfg.MaxWorkers, MaxStreamsPerWorker: cfg.MaxStreams,
		IdleTimeout: time.Duration(cfg.IdleSeconds) * time.Second, Log: log,
	}
	if cfg.Certificate == "" {
		opt.Certificate, err = gateway.SelfSigned(time.Now())
	} else {
		opt.Certificate, err = tls.LoadX509KeyPair(cfg.Certificate, cfg.Key)
	}
	if err != nil {
		return fault.New(fault.ExitInternal, "gateway.certificate", "check certificate and key in the config", "loading certificate: %w", err)
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fault.New(fault.ExitInternal, "gateway.listen", "free the address, or choose another in the config", "listening on %s: %w", cfg.Listen, err)
	}
	log.Info("gateway ready", "listen", ln.Addr().String())
	return gateway.New(opt).Serve(ctx, ln)
}

func readConfig(path string) (*Config, error) {
	if path == "" {
		return nil, fault.New(fault.ExitInternal, "usage", "run cocoon-gateway --config FILE", "no config given")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "gateway.config", "", "reading config: %w", err)
	}
	var cfg Config
	if err := strictyaml.Decode(b, 64<<10, &cfg); err != nil {
		return nil, fault.New(fault.ExitParse, "gateway.config", "see docs/operators.md for the fields", "reading config %s: %w", path, err)
	}
	if cfg.Listen == "" || cfg.MaxWorkers < 0 || cfg.MaxStreams < 0 || cfg.IdleSeconds < 0 || (cfg.Certificate == "") != (cfg.Key == "") {
		return nil, fault.New(fault.ExitParse, "gateway.config", "give listen; certificate and key together; no negative limits",
			"%s", fmt.Sprintf("reading config %s: a field is missing or out of range", path))
	}
	return &cfg, nil
}
