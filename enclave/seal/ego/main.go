// Command cocoon-seal is the SGX enclave that seals the keys of Intel TDs: the
// enclave's half of package enclave/seal/sgx behind a TCP port of the host. It
// keeps nothing. What it takes from its environment is the host's word and
// decides nothing: where to listen, and where to fetch Intel's collateral,
// which Intel signs.
//
// It is built with ego-go, signed with ego sign and run with ego run (README).
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"cocoon/enclave/seal/sgx"
)

const (
	defaultListen = ":4433"
	// maxConns bounds the exchanges that run at a time: each costs a quote.
	maxConns = 8
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("sealing enclave ends", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	fetch, err := collateralFrom(os.Getenv("COCOON_SEAL_PCCS"))
	if err != nil {
		return err
	}
	addr := os.Getenv("COCOON_SEAL_LISTEN")
	if addr == "" {
		addr = defaultListen
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	return serve(l, &sgx.Server{Enclave: sgxEnclave{}, Collateral: fetch}, log)
}

// serve takes exchanges until the listener ends.
func serve(l net.Listener, s *sgx.Server, log *slog.Logger) error {
	slots := make(chan struct{}, maxConns)
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting: %w", err)
		}
		slots <- struct{}{}
		go func() {
			defer func() { c.Close(); <-slots }()
			ctx, cancel := context.WithTimeout(context.Background(), sgx.Timeout)
			defer cancel()
			if err := c.SetDeadline(time.Now().Add(sgx.Timeout)); err != nil {
				return
			}
			if err := s.Serve(c); err != nil && ctx.Err() == nil {
				log.Warn("no key given", "peer", c.RemoteAddr().String(), "err", err)
			}
		}()
	}
}
