package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/log"
	"cocoon/measurements/log/witness"
)

// Bounds of the witness's server. Logs ask about once a second each.
const (
	witnessHeaders  = 5 * time.Second
	witnessRequest  = 15 * time.Second
	witnessIdle     = 2 * time.Minute
	witnessShutdown = 10 * time.Second
)

// witnessFlags are the flags of "cocoon log witness".
type witnessFlags struct {
	name, key, listen string
	logs              []string
}

func newLogWitnessCmd() *cobra.Command {
	f := &witnessFlags{}
	cmd := &cobra.Command{
		Use:   "witness DIR --name NAME --key FILE --log KEY",
		Short: "cosign the checkpoints of logs, each with one history",
		Long: `Serves POST /add-checkpoint (C2SP tlog-witness): a checkpoint of a log that
--log names is cosigned if it has every entry of the last one that was. What was
cosigned last is kept in DIR, which only one process uses, and is on disk before
a cosignature leaves. It prints its verifier key for the policy of whoever wants
its cosignatures: "witness NAME KEY URL".

A witness whose DIR is lost would cosign another history: give its successor
another key. Put a proxy with TLS before it. Exit codes: 0 ended by a signal; 1
usage, or a state that cannot be read.`,
		Example: `  cocoon log witness state --name witness.example.org/w1 --key witness.key --log verifier.example/log+1f2e…+A… --listen 127.0.0.1:8480`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runWitness(cmd, args[0], f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.name, "name", "", "`name` of the witness: host/path, without a scheme")
	fs.StringVar(&f.key, "key", "", "the witness's Ed25519 key `file`")
	fs.StringArrayVar(&f.logs, "log", nil, "verifier `key` of a log; may be repeated")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:0", "serve on this `address`; port 0 takes any")
	need(cmd, "name")
	need(cmd, "key")
	need(cmd, "log")
	return cmd
}

func runWitness(cmd *cobra.Command, dir string, f *witnessFlags) error {
	key, err := keyfile.ReadEd25519(f.key)
	if err != nil {
		return fault.New(fault.ExitInternal, "log.key", "make one with cocoon manifest key", "%w", err)
	}
	o := witness.Options{Dir: dir, Name: f.name, Key: ed25519.PrivateKey(key)}
	for _, s := range f.logs {
		k, err := log.ParseKey(s)
		if err != nil {
			return logFault(err)
		}
		o.Logs = append(o.Logs, k)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w, err := witness.Open(o)
	if err != nil {
		return fault.New(fault.ExitInternal, "log.witness", "see that no other witness uses the directory; one whose state is damaged needs another key", "%w", err)
	}
	defer func() { _ = w.Close() }() // what counts is on disk
	ln, err := net.Listen("tcp", f.listen)
	if err != nil {
		return fault.New(fault.ExitInternal, "log.witness", "give another --listen", "listening: %w", err)
	}
	logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	srv := &http.Server{Handler: w.Handler(logger), ReadHeaderTimeout: witnessHeaders, ReadTimeout: witnessRequest, WriteTimeout: witnessRequest,
		IdleTimeout: witnessIdle, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug)}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), witnessShutdown)
		defer cancel()
		ended <- srv.Shutdown(end)
	}()
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "witness %s %s http://%s\n", f.name, w.Key(), ln.Addr()); err != nil {
		return err
	}
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.ExitInternal, "log.witness", "start it again", "serving: %w", err)
	}
	return <-ended
}
