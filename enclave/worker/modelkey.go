package worker

import (
	"context"
	"crypto/tls"
	"net/http"
	"time"

	"cocoon/enclave/boot"
	"cocoon/enclave/status"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls/modelkey"
	"cocoon/verifier/client"
)

// modelKeyFor is how long a boot waits for the owner of an encrypted model.
const modelKeyFor = 10 * time.Minute

// modelKeyStages get the key of an encrypted model pack, before the pack is
// opened. Evidence is needed for it, and so is the certificate of an attestation
// key.
func (w *Worker) modelKeyStages() []boot.Stage {
	if w.config.Model.KeySHA256 == nil {
		return nil
	}
	return append(w.enrolStages(), boot.Stage{Name: "model-key", Timeout: modelKeyFor, Run: w.askModelKey})
}

// enrolStages is empty where a model's key was asked for: it was done then.
func (w *Worker) enrolStages() []boot.Stage {
	if w.verifier != nil {
		return nil
	}
	return []boot.Stage{{Name: "enrol", Timeout: 2 * time.Minute, Run: w.enrol}}
}

// askModelKey asks the model's owner. The address is the host's word, which
// finds the owner's service at best: what is taken is the key that the measured
// config names.
func (w *Worker) askModelKey(ctx context.Context) error {
	if w.operator.ModelKeys == "" {
		return fault.New(fault.ExitParse, modelkey.CodeNone, "write the URL of the model owner's service into operator.json: model_keys",
			"asking for the model's key: the config names an encrypted model, operator.json no service that has its key")
	}
	config, err := w.config.Hash()
	if err != nil {
		return err
	}
	a := &modelkey.Asker{URL: w.operator.ModelKeys, HTTP: httpClient(client.DefaultTimeout), Receipt: w.keys.Receipt, Config: config,
		Evidence: func(ctx context.Context, challenge digest.SHA256) ([]byte, error) {
			ev, err := w.collector.Collect(ctx, []digest.SHA256{challenge})
			if err != nil {
				return nil, err
			}
			return ev.Marshal()
		}}
	err = patiently(ctx, func(ctx context.Context) error {
		key, err := a.Ask(ctx, w.config.Model.Verity.Root, *w.config.Model.KeySHA256)
		if err != nil {
			w.rep.State(status.Booting, err) // people see what it waits for
			return err
		}
		w.modelKey = key[:] // package pack wipes it
		return nil
	})
	if err != nil {
		return err
	}
	w.rep.State(status.Booting, nil)
	w.log.Info("model key received", "key_sha256", w.config.Model.KeySHA256.String())
	return nil
}

// httpClient reaches a service of the operator's file: by its address, without
// following it elsewhere.
func httpClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: systemRoots()},
			MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
		},
	}
}
