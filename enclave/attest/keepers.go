package attest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"

	"cocoon/internal/fault"
	"cocoon/ratls"
	"cocoon/verifier/evidence"
)

// Keepers are the keepers of one machine, one for each of its models. A verdict
// names one model, and so does the job that it releases; two verdicts over one
// evidence that differ in the model are a proof against their verifier
// (docs/contracts.md, "Bonds"). So each model has evidence of its own, with
// claims that name it, a challenge and a quote.
type Keepers struct {
	names []string // of the models, in the config's order
	all   []*Keeper
	// unsure has the keepers whose last submission got no answer: the verifier may
	// have seen the evidence all the same. Of Submit, which is called by one.
	unsure map[*Keeper]bool
}

// NewKeepers returns keepers of the models with nothing in force; opt.OnChange
// is not used, but change, which gets the model's name, too.
func NewKeepers(opt Options, models []evidence.ConfigModel, change func(model string, c Current)) *Keepers {
	k := &Keepers{unsure: map[*Keeper]bool{}}
	for _, m := range models {
		o := opt
		o.Collector = opt.Collector.For(m)
		if change != nil {
			o.OnChange = func(c Current) { change(m.Name, c) }
		}
		k.names, k.all = append(k.names, m.Name), append(k.all, NewKeeper(o))
	}
	return k
}

// Of returns the keeper of a model, that of the first where the name is empty.
func (k *Keepers) Of(model string) (*Keeper, error) {
	for i, name := range k.names {
		if model == name || model == "" {
			return k.all[i], nil
		}
	}
	return nil, fmt.Errorf("looking for model %.64q: %w", model, ratls.ErrNoModel)
}

// Collect returns evidence for each model, in their order.
func (k *Keepers) Collect(ctx context.Context) ([][]byte, error) {
	docs := make([][]byte, len(k.all))
	for i, one := range k.all {
		var err error
		if docs[i], err = one.Collect(ctx); err != nil {
			return nil, fmt.Errorf("model %s: %w", k.names[i], err)
		}
	}
	return docs, nil
}

// Submit has each evidence of Collect judged; what was refused is all returned.
// One for which a verdict is in force already is not sent again: its challenge
// is used up. So may be that of one whose answer was lost: where it is refused when
// it is sent again, new evidence takes its place in docs and is judged.
func (k *Keepers) Submit(ctx context.Context, docs [][]byte) error {
	var errs []error
	for i, one := range k.all {
		if cur, err := one.Current(); err == nil && string(cur.Evidence) == string(docs[i]) {
			continue
		}
		err := one.Submit(ctx, docs[i])
		if err != nil && k.unsure[one] && refusal(err) {
			if docs[i], err = one.Collect(ctx); err == nil {
				err = one.Submit(ctx, docs[i])
			}
		}
		k.unsure[one] = err != nil && fault.ExitCode(err) == fault.ExitNetwork
		if err == nil {
			continue
		}
		err = fmt.Errorf("model %s: %w", k.names[i], err)
		if fault.ExitCode(err) == fault.ExitNetwork {
			if len(errs) == 0 {
				return err // nor would the others be judged now
			}
			break // a refusal stands, whatever comes of the others
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Run renews all until ctx ends.
func (k *Keepers) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, one := range k.all {
		wg.Go(func() { one.Run(ctx) })
	}
	wg.Wait()
}

// Err says why the machine may not serve: a model has no verdict in force. All
// of them say the same of the machine, so that one that was refused means no
// good for the others.
func (k *Keepers) Err() error {
	for _, one := range k.all {
		if _, err := one.Current(); err != nil {
			return err
		}
	}
	return nil
}

// Document returns the evidence and the verdict in force for a model, for
// ratls.Handler.
func (k *Keepers) Document(model string) (ratls.Document, error) {
	one, err := k.Of(model)
	if err != nil {
		return ratls.Document{}, err
	}
	return one.Document()
}

// Certificate returns the TLS certificate with the first model's evidence, for
// ratls.ServerConfig: the TLS key is the same for all, and the model's own
// evidence comes over the connection.
func (k *Keepers) Certificate() (*tls.Certificate, error) { return k.all[0].Certificate() }
