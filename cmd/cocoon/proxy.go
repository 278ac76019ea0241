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

	"cocoon/client"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/policy"
)

// workerFlags say which worker to use and what to hold it against.
type workerFlags struct {
	gateway   string
	worker    string
	model     string
	policy    string
	manifests []string
}

func (f *workerFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.gateway, "gateway", "", "gateway, host:port")
	fl.StringVar(&f.worker, "worker", "", "receipt key of the worker, hex; default: the first of the gateway's that passes")
	fl.StringVar(&f.model, "model", "", "only workers that serve this model")
	fl.StringVar(&f.policy, "policy", "", "appraisal policy (docs/verifier-api.md)")
	fl.StringArrayVar(&f.manifests, "manifest", nil, "manifest envelope (DSSE); may be repeated")
	for _, name := range []string{"gateway", "policy", "manifest"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
}

// connect builds the client; nothing is dialed yet.
func (f *workerFlags) connect(log *slog.Logger) (*client.Client, error) {
	trust, err := loadTrust(f.policy, f.manifests)
	if err != nil {
		return nil, err
	}
	opt := client.Options{Gateway: f.gateway, Model: f.model, Appraise: trust.Appraise, Log: log}
	if f.worker != "" {
		if opt.Worker, err = digest.Parse256(f.worker); err != nil {
			return nil, fault.New(fault.ExitInternal, "usage", "give the worker's receipt key as 64 lower-case hex digits", "reading --worker: %w", err)
		}
	}
	return client.New(opt)
}

func loadTrust(policyFile string, manifestFiles []string) (*client.Trust, error) {
	b, err := readInput("--policy", policyFile, policy.MaxSize)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "policy.parse", "see docs/verifier-api.md for the fields", "reading %s: %w", policyFile, err)
	}
	t := &client.Trust{Policy: p}
	for _, name := range manifestFiles {
		env, err := readInput("--manifest", name, manifest.MaxEnvelope)
		if err != nil {
			return nil, err
		}
		t.Envelopes = append(t.Envelopes, env)
	}
	return t, nil
}

func newProxyCmd() *cobra.Command {
	var f workerFlags
	var listen string
	cmd := &cobra.Command{
		Use:   "proxy --gateway ADDR --policy FILE --manifest FILE",
		Short: "serve an OpenAI-compatible endpoint that reaches only verified workers",
		Long: `Serves an OpenAI-compatible endpoint on this machine. Every connection to a
worker is verified here, by the policy and manifests given, before a byte of a
request is sent; TLS ends inside the enclave. Point any OpenAI client at the
address that is printed. GET /cocoon/worker shows the worker and its evidence.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			c, err := f.connect(log)
			if err != nil {
				return err
			}
			return serveProxy(cmd.Context(), c, listen, log, func(addr string) {
				fmt.Fprintf(cmd.OutOrStdout(), "cocoon proxy: OpenAI endpoint at http://%s/v1\n", addr)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:10000", "address on this machine, 127.0.0.1 or localhost")
	return cmd
}

// serveProxy serves until ctx ends; ready is told the address.
func serveProxy(ctx context.Context, c *client.Client, listen string, log *slog.Logger, ready func(addr string)) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil || (host != "127.0.0.1" && host != "localhost" && host != "::1") {
		return fault.New(fault.ExitInternal, "usage", "listen on 127.0.0.1:PORT: prompts leave this machine encrypted only",
			"listening on %q: it is no address of this machine alone", listen)
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return fault.New(fault.ExitInternal, "proxy.listen", "free the port, or choose another with --listen", "listening on %s: %w", listen, err)
	}
	srv := &http.Server{
		Handler:           client.NewProxy(c, c.Transport(), log),
		ReadHeaderTimeout: 15 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	ready(ln.Addr().String())
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.ExitInternal, "proxy.serve", "", "serving: %w", err)
	}
	return nil
}
