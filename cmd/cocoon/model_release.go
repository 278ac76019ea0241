package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"

	"cocoon/client/modelowner"
	"cocoon/internal/fault"
	"cocoon/measurements/modelpack"
)

// Limits of the service. Evidence of a machine with many GPUs is megabytes.
const (
	releaseConns        = 256
	releaseReadTimeout  = 60 * time.Second
	releaseWriteTimeout = 120 * time.Second
	releaseShutdown     = 10 * time.Second
)

// keyServiceFlags are the flags of "cocoon model release".
type keyServiceFlags struct {
	ownerTrustFlags
	keys   []string
	log    string
	listen string
	once   bool
}

func newModelReleaseCmd() *cobra.Command { return newKeyServiceCmd(time.Now) }

// newKeyServiceCmd takes the clock that enclaves are judged by.
func newKeyServiceCmd(clock func() time.Time) *cobra.Command {
	f := &keyServiceFlags{ownerTrustFlags: ownerTrustFlags{clock: clock}}
	cmd := &cobra.Command{
		Use:   "release --key FILE --policy FILE --manifest FILE --log FILE",
		Short: "release the keys of encrypted packs to attested enclaves",
		Long: `Serves the keys of encrypted model packs to enclaves that your policy accepts, and
to nobody else. A worker asks for the key while it boots: it answers a challenge
with fresh evidence, which is appraised here as clients appraise it, against your
manifests and policy: trust classes, TCB, debug, and the registry where the policy
names one, which is read anew. Its measured config must name the pack and the key.
The key is encrypted to that boot of that machine; whoever carries it, learns
nothing. Plain HTTP is enough, therefore.

Each release is one line of --log, on disk before the key leaves: which pack, to
which image, receipt key, config and payout address, by which evidence and policy.
Without its log the service releases nothing. "cocoon model releases" reads it.

Where workers' evidence brings no collateral of Intel's, AMD's or NVIDIA's, it is
fetched. Policy and manifest files are read at the start; a manifest that the
registry lists later is taken from --manifests-from.

Exit codes: 0 ended, or released with --once; 1 usage; 4 and 5 policy or manifest;
2 a damaged log; 6 another service writes the log.`,
		Example: `  cocoon model release --key ours.key --policy policy.json --manifest manifest.json --log releases.log --listen 0.0.0.0:8444
  cocoon model release --key a.key --key b.key --policy policy.json --manifests-from https://verifier.example --ton-config global.config.json --log releases.log
  cocoon model release --key ours.key --policy policy.json --manifest manifest.json --log releases.log --once`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runModelRelease(cmd, f) },
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.keys, "key", nil, "key `file` that cocoon model pack --encrypt wrote; may be repeated")
	fs.StringVar(&f.log, "log", "", "log `file` of releases; continued if it exists")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8444", "`address` to listen at, as the hosts of the workers reach it")
	fs.BoolVar(&f.once, "once", false, "end after the first release")
	f.add(cmd)
	need(cmd, "key")
	need(cmd, "log")
	return cmd
}

func runModelRelease(cmd *cobra.Command, f *keyServiceFlags) (err error) {
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	keys, err := f.readKeys()
	if err != nil {
		return err
	}
	defer func() {
		for i := range keys {
			clear(keys[i].Key[:])
		}
	}()
	trust, err := f.open(cmd.Context(), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, trust.Close()) }()
	journal, err := modelowner.OpenJournal(f.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	owner, err := modelowner.New(modelowner.Options{Keys: keys, Appraise: trust.Fresh, Journal: journal, Clock: f.clock, Log: log, Released: func(r modelowner.Release) {
		log.Info("released", "pack", r.Pack, "receipt_key", r.ReceiptKey.String(), "manifest", r.Manifest.String(), "class", r.TrustClass, "from", r.From)
		if f.once {
			cancel() // the answer is written first: Shutdown waits for it
		}
	}})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", f.listen)
	if err != nil {
		return fault.New(fault.ExitInternal, "model.listen", "free the address, or choose another with --listen", "listening on %s: %w", f.listen, err)
	}
	for _, k := range keys {
		fmt.Fprintf(cmd.OutOrStdout(), "releasing %s, key %s\n", k.Pack, k.Key.ID())
	}
	fmt.Fprintf(cmd.OutOrStdout(), "logged    %d releases in %s\n", journal.Count(), plain(f.log))
	if p := trust.policy(); p.Environment != "production" {
		fmt.Fprintf(cmd.OutOrStdout(), "note      policy %s is for %s: whoever owns a machine that it accepts may read the model there\n", plain(p.Name), plain(p.Environment))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "listening http://%s\n", ln.Addr())
	return serveReleases(ctx, ln, owner.Handler(), log)
}

// serveReleases serves until ctx ends, and lets requests under way finish.
func serveReleases(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: releaseReadTimeout, WriteTimeout: releaseWriteTimeout, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		// ctx is over: the shutdown has its own deadline.
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseShutdown)
		defer cancel()
		done <- srv.Shutdown(sctx)
	})
	defer stop()
	if err := srv.Serve(netutil.LimitListener(ln, releaseConns)); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.ExitInternal, "model.listen", "see the cause", "serving: %w", err)
	}
	return <-done
}

func (f *keyServiceFlags) readKeys() ([]modelowner.Held, error) {
	var out []modelowner.Held
	var errs []error
	for _, path := range f.keys {
		b, err := readInput("--key", path, 4<<10)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		k, pack, err := modelpack.ParseKey(b)
		clear(b)
		errs = append(errs, err)
		out = append(out, modelowner.Held{Pack: pack, Key: k})
	}
	return out, errors.Join(errs...)
}
