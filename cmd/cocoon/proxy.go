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
	"cocoon/internal/registrysource"
	"cocoon/internal/toncell"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	verifierclient "cocoon/verifier/client"
	"cocoon/verifier/policy"
)

// workerFlags say which worker to use and what to hold it against.
type workerFlags struct {
	gateway   string
	worker    string
	model     string
	policy    string
	manifests []string
	verifiers []string
	ton       string
	job       string
	key       string
	receipts  string
}

// add adds every flag: those of addWorker, and those of a job that pays.
func (f *workerFlags) add(cmd *cobra.Command) {
	f.addWorker(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.model, "model", "", "`name` of the model that the worker must serve and show evidence for; default: the worker's first")
	fl.StringVar(&f.job, "job", "", "TON `address` of the job that pays")
	fl.StringVar(&f.key, "client-key", "", "the Ed25519 seed that signs vouchers, 64 hex digits in a `file`")
	fl.StringVar(&f.receipts, "receipts", "", "log `file` of receipts and vouchers of the job; continued if it exists")
	cmd.MarkFlagsRequiredTogether("job", "client-key", "receipts")
}

// addWorker adds the flags that name a worker and what it is held against.
func (f *workerFlags) addWorker(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.gateway, "gateway", "", "gateway, `host:port`")
	fl.StringVar(&f.worker, "worker", "", "receipt `key` of the worker, hex; default: the first of the gateway's that passes")
	fl.StringVar(&f.policy, "policy", "", "appraisal policy `file` (docs/verifier-api.md)")
	fl.StringArrayVar(&f.manifests, "manifest", nil, "manifest envelope (DSSE) `file`; may be repeated")
	fl.StringArrayVar(&f.verifiers, "manifests-from", nil, "verifier, `URL`, to fetch the manifests from that the policy's registry lists; may be repeated")
	fl.StringVar(&f.ton, "ton-config", "", "the network's global.config.json `file`; needed where the policy names a registry")
	need(cmd, "gateway")
	need(cmd, "policy")
	cmd.MarkFlagsOneRequired("manifest", "manifests-from")
}

// session is a client with what it needs beside: the ledger, and the payment
// once the worker is known.
type session struct {
	client  *client.Client
	trust   *client.Trust
	source  *registrysource.Source // nil without a ledger
	payment *client.Payment        // nil without a job
}

// settleTime is how long a session that ends waits for receipts.
const settleTime = 15 * time.Second

func (s *session) close() error {
	var errs []error
	if s.payment != nil {
		ctx, cancel := context.WithTimeout(context.Background(), settleTime)
		defer cancel()
		errs = append(errs, s.payment.Wait(ctx), s.payment.Close())
	}
	if s.source != nil {
		errs = append(errs, s.source.Close())
	}
	return errors.Join(errs...)
}

// transport carries requests to the worker, paid where there is a job.
func (s *session) transport() http.RoundTripper {
	if s.payment != nil {
		return s.payment
	}
	return s.client.Transport()
}

// open builds the client; where a job pays, it also connects and verifies the
// worker, since the job is released to one receipt key.
func (f *workerFlags) open(ctx context.Context, log *slog.Logger) (*session, error) {
	s := &session{}
	err := f.openInto(ctx, s, log)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (f *workerFlags) openInto(ctx context.Context, s *session, log *slog.Logger) (err error) {
	if s.trust, err = loadTrust(f.policy, f.manifests); err != nil {
		return err
	}
	if reg := s.trust.Policy.Manifests.Registry; reg != nil {
		if f.ton == "" {
			return fault.New(fault.ExitInternal, "usage", "give the network's global.config.json with --ton-config", "the policy names a registry on a ledger")
		}
		if s.source, err = registrysource.Open(f.ton, reg, nil); err != nil {
			return err
		}
		s.trust.Registry = s.source.State
		if s.trust.Manifests, err = listedManifests(ctx, s.trust.Policy, s.source, s.trust.Manifests, f.verifiers); err != nil {
			return err
		}
	} else if len(f.verifiers) > 0 {
		return fault.New(fault.ExitInternal, "usage", "name the registry in the policy (manifests.registry), or give files with --manifest", "only a registry says which manifests to fetch")
	} else if f.job != "" {
		return fault.New(fault.ExitInternal, "usage", "name the registry in the policy (manifests.registry)", "a job can pay only under a policy that names its registry")
	}
	opt := client.Options{Gateway: f.gateway, Model: f.model, Appraise: s.trust.Appraise, Log: log}
	if reg := s.trust.Policy.Manifests.Registry; reg != nil {
		v := &client.Verifiers{Registry: s.source.Address(), NetworkID: reg.NetworkID, State: s.source.Proven}
		opt.Verdict = v.Check
	}
	if f.worker != "" {
		if opt.Worker, err = digest.Parse256(f.worker); err != nil {
			return fault.New(fault.ExitInternal, "usage", "give the worker's receipt key as 64 lower-case hex digits", "reading --worker: %w", err)
		}
	}
	if s.client, err = client.New(opt); err != nil || f.job == "" {
		return err
	}
	return f.openPayment(ctx, s, log)
}

func (f *workerFlags) openPayment(ctx context.Context, s *session, log *slog.Logger) error {
	peer, err := s.client.Connect(ctx)
	if err != nil {
		return err
	}
	s.client.Pin() // the job is released to this worker's receipt key
	res, err := s.trust.Result(ctx, peer.Evidence, &peer.SPKI)
	if err != nil {
		return err
	}
	if res.Manifest == nil {
		return res.Err()
	}
	addr, err := toncell.ParseAddress(f.job)
	if err != nil {
		return err
	}
	key, err := seedFile(f.key)
	if err != nil {
		return err
	}
	s.payment, err = client.OpenPayment(ctx, client.PaymentOptions{
		Ledger: s.source.Ledger(), GlobalID: s.trust.Policy.Manifests.Registry.NetworkID, Job: addr, Key: key, Path: f.receipts, Log: log,
	}, peer, res.Manifest.SHA256, s.client.Transport())
	return err
}

// listedManifests adds to manifests what the registry lists beside them, from
// the verifiers at urls; without any, what files give is all.
func listedManifests(ctx context.Context, p *policy.Policy, source *registrysource.Source, manifests []manifest.Published, urls []string) ([]manifest.Published, error) {
	if len(urls) == 0 {
		return manifests, nil
	}
	from, err := fetchers(urls)
	if err != nil {
		return nil, err
	}
	state, err := source.State(ctx)
	if err != nil {
		return nil, err
	}
	out, err := registrysource.Manifests(ctx, p, state, manifests, from)
	if len(out) > 0 {
		return out, nil // what could not be had is as good as not listed
	}
	return nil, err
}

// fetchers are the verifiers at these URLs.
func fetchers(urls []string) ([]registrysource.Fetcher, error) {
	var from []registrysource.Fetcher
	for _, u := range urls {
		c, err := verifierclient.New(verifierclient.Options{BaseURL: u})
		if err != nil {
			return nil, fault.New(fault.ExitInternal, "usage", "give the URL of a verifier", "%w", err)
		}
		from = append(from, c)
	}
	return from, nil
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
		m, err := readManifest(name, p)
		if err != nil {
			return nil, err
		}
		t.Manifests = append(t.Manifests, m)
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
request is sent; where the policy names a registry, its verifiers' verdict on the
worker is checked too, under the keys of its proven state; TLS ends inside the enclave. Point any OpenAI client at the
address that is printed. GET /cocoon/worker shows the worker and its evidence.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			s, err := f.open(cmd.Context(), log)
			if err != nil {
				return err
			}
			err = serveProxy(cmd.Context(), s, listen, log, func(addr string) {
				fmt.Fprintf(cmd.OutOrStdout(), "cocoon proxy: OpenAI endpoint at http://%s/v1\n", addr)
			})
			return errors.Join(err, s.close())
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:10000", "address on this machine, 127.0.0.1 or localhost")
	return cmd
}

// serveProxy serves until ctx ends; ready is told the address.
func serveProxy(ctx context.Context, s *session, listen string, log *slog.Logger, ready func(addr string)) error {
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
		Handler:           client.NewProxy(s.client, s.transport(), log),
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
