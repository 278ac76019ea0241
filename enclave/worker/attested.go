package worker

import (
	"context"
	"net/http"
	"time"

	"cocoon/enclave/attest"
	"cocoon/enclave/engine"
	"cocoon/enclave/platform"
	"cocoon/enclave/serve"
	"cocoon/enclave/status"
	"cocoon/internal/fault"
	"cocoon/ratls"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
)

var (
	errNoTunnel   = fault.New(fault.ExitNetwork, "serve.no_tunnel", "check the gateways in operator.json and that they run", "connecting to gateways: none is connected")
	errEngineDown = fault.New(fault.ExitNotReady, "engine.down", "wait until the engine is up again", "looking for the engine: it is down")
	errDaemon     = fault.New(fault.ExitNotReady, "containerd.exited", "wait until it is up again; if it ends again and again, see the log", "watching containerd: it ended")
)

// retryPause is between attempts to reach a verifier that is not there yet.
const retryPause = 2 * time.Second

// patiently repeats f while it fails for the network's sake alone, until ctx
// ends: host services may come up after the machine.
func patiently(ctx context.Context, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil || fault.ExitCode(err) != fault.ExitNetwork {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryPause):
		}
	}
}

// enrol reaches the verifier and, where the machine's attestation key needs it,
// has the key certified.
func (w *Worker) enrol(ctx context.Context) error {
	v, err := client.New(client.Options{BaseURL: w.operator.Verifier, HTTP: httpClient(client.DefaultTimeout)})
	if err != nil {
		return fault.New(fault.ExitParse, "config.parse", "set the verifier's URL in operator.json", "%w", err)
	}
	w.verifier = v
	w.collector = w.newCollector()
	e, ok := w.machine.(platform.Enroller)
	if !ok {
		return nil
	}
	return patiently(ctx, func(ctx context.Context) error { return e.Enrol(ctx, w.verifier) })
}

func (w *Worker) newCollector() *attest.Collector {
	return &attest.Collector{
		Identity: attest.Identity{Config: w.config, SPKI: w.keys.SPKI, ReceiptKey: w.keys.ReceiptPublic(), Payout: w.operator.Payout},
		Provider: w.machine, GPUs: w.gpuEvidence(), Queue: &attest.Queue{Interval: attest.MinInterval},
		Stages: func() *evidence.Stages { return stageRecord(w.rep.Stages()) },
	}
}

// stageRecord returns what evidence says of the boot's stages.
func stageRecord(lines []status.Line) *evidence.Stages {
	record := &evidence.Stages{Version: evidence.StagesVersion, List: []evidence.Stage{}}
	for _, l := range lines {
		s := evidence.Stage{Name: l.Stage, Status: l.Status, MS: l.MS}
		if l.Status == status.Failed && len(l.Faults) > 0 {
			s.Code = l.Faults[0].Code
		}
		record.List = append(record.List, s)
	}
	return record
}

func (w *Worker) collect(ctx context.Context) error {
	w.keepers = attest.NewKeepers(attest.Options{
		Collector: w.collector, Verifier: w.verifier, TLSKey: w.keys.TLS, Clock: time.Now, Log: w.log,
	}, w.config.ServedModels(), func(model string, c attest.Current) {
		if len(w.config.Models) == 0 {
			model = ""
		}
		w.rep.Report(status.Line{Type: status.TypeVerdict, Verdict: &status.Verdict{
			Model: model, Status: c.Status, TrustClass: c.Class, EvidenceSHA256: c.Hash.String(), SHA256: c.VerdictHash().String(), Expires: c.Expires,
		}})
	})
	err := patiently(ctx, func(ctx context.Context) error {
		var err error
		w.evidence, err = w.keepers.Collect(ctx)
		return err
	})
	if err != nil {
		return err
	}
	// Public by nature; the host keeps it for whoever wants to look at a machine
	// that is refused. All that may refuse it is in each model's.
	w.rep.Report(status.Line{Type: status.TypeEvidence, Evidence: w.evidence[0]})
	return nil
}

func (w *Worker) judge(ctx, background context.Context) error {
	if err := patiently(ctx, func(ctx context.Context) error { return w.keepers.Submit(ctx, w.evidence) }); err != nil {
		return err
	}
	w.evidence = nil
	w.goBackground(func() { w.keepers.Run(background) })
	return nil
}

// endpoints are those of the OpenAI surface that a kind of engine has.
func endpoints(kind string) ([]string, error) {
	adapter, err := engine.AdapterFor(kind)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, path := range []string{serve.PathChat, serve.PathCompletions, serve.PathEmbeddings} {
		if adapter.Serves(http.MethodPost, path) {
			out = append(out, path)
		}
	}
	return out, nil
}

// serve connects to the gateways and waits for the first.
func (w *Worker) serve(ctx, background context.Context) error {
	if len(w.operator.Gateways) == 0 {
		return fault.New(fault.ExitParse, "serve.no_gateway", "name at least one gateway in operator.json", "connecting to gateways: none is configured")
	}
	var ledger serve.Ledger // stays nil without a registry
	if w.ledger != nil {
		ledger = w.ledger
	}
	endpoints, err := endpoints(w.config.Engine.Kind)
	if err != nil {
		return err
	}
	adapter, err := engine.AdapterFor(w.config.Engine.Kind)
	if err != nil {
		return err
	}
	var further []serve.Model
	for _, s := range w.models[1:] {
		further = append(further, serve.Model{Name: s.config.Name, Engine: s.engine.API()})
	}
	w.server, err = serve.New(serve.Options{
		Model: w.config.Model.Name, Created: time.Now(), Engine: w.models[0].engine.API(), Further: further, Endpoints: endpoints, Private: adapter.Private(),
		Attestation: ratls.Handler(w.keepers.Document, w.keys.Receipt),
		Gate:        w.gate, Ledger: ledger, MaxRequests: w.operator.Limits.MaxRequests,
		MaxWaiting: w.operator.Limits.MaxWaiting, MaxPerJob: w.operator.Limits.MaxPerJob,
		Meter: &w.meter, Log: w.log,
	})
	if err != nil {
		return err
	}
	w.drainer.Attach(w.server)
	w.giveOver(background)
	for _, gw := range w.operator.Gateways {
		w.goBackground(func() { w.tunnel(background, gw) })
	}
	if err := w.tunnels.await(ctx); err != nil {
		return errNoTunnel
	}
	return nil
}
