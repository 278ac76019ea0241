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
	"cocoon/verifier/evidence"
)

// modelKeyFor is how long a boot waits for the owner of each encrypted model.
const modelKeyFor = 10 * time.Minute

// modelKeyStages get the keys of encrypted model packs, before the packs are
// opened. Evidence is needed for it, and so is the certificate of an attestation
// key.
func (w *Worker) modelKeyStages() []boot.Stage {
	var encrypted time.Duration
	for _, m := range w.config.ServedModels() {
		if m.KeySHA256 != nil {
			encrypted++
		}
	}
	if encrypted == 0 {
		return nil
	}
	return append(w.enrolStages(), boot.Stage{Name: "model-key", Timeout: encrypted * modelKeyFor, Run: w.askModelKeys})
}

// enrolStages is empty where a model's key was asked for: it was done then.
func (w *Worker) enrolStages() []boot.Stage {
	if w.verifier != nil {
		return nil
	}
	return []boot.Stage{{Name: "enrol", Timeout: 2 * time.Minute, Run: w.enrol}}
}

// askModelKeys asks the owner of each encrypted model, who need not be the same.
func (w *Worker) askModelKeys(ctx context.Context) error {
	models := w.config.ServedModels()
	w.modelKeys = make([][]byte, len(models))
	for i, m := range models {
		if m.KeySHA256 == nil {
			continue
		}
		key, err := w.askModelKey(ctx, m)
		if err != nil {
			for _, k := range w.modelKeys {
				clear(k)
			}
			w.modelKeys = nil
			return err
		}
		w.modelKeys[i] = key // package pack wipes it
	}
	return nil
}

// askModelKey asks a model's owner. The address is the host's word, which finds
// the owner's service at best: what is taken is the key that the measured config
// names. The claims of the evidence name the model.
func (w *Worker) askModelKey(ctx context.Context, m evidence.ConfigModel) ([]byte, error) {
	service := w.operator.ModelKeysOf(m.Name)
	if service == "" {
		return nil, fault.New(fault.ExitParse, modelkey.CodeNone, "write the URL of the model owner's service into operator.json: model_keys, of all or of this model",
			"asking for the key of model %s: the config names an encrypted model, operator.json no service that has its key", m.Name)
	}
	config, err := w.config.Hash()
	if err != nil {
		return nil, err
	}
	collector := w.collector.For(m)
	a := &modelkey.Asker{URL: service, HTTP: httpClient(client.DefaultTimeout), Receipt: w.keys.Receipt, Config: config,
		Evidence: func(ctx context.Context, challenge digest.SHA256) ([]byte, error) {
			ev, err := collector.Collect(ctx, []digest.SHA256{challenge})
			if err != nil {
				return nil, err
			}
			return ev.Marshal()
		}}
	ctx, cancel := context.WithTimeout(ctx, modelKeyFor)
	defer cancel()
	var got []byte
	err = patiently(ctx, func(ctx context.Context) error {
		key, err := a.Ask(ctx, m.Verity.Root, *m.KeySHA256)
		if err != nil {
			w.rep.State(status.Booting, err) // people see what it waits for
			return err
		}
		got = key[:]
		return nil
	})
	if err != nil {
		return nil, err
	}
	w.rep.State(status.Booting, nil)
	w.log.Info("model key received", "model", m.Name, "key_sha256", m.KeySHA256.String())
	return got, nil
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
