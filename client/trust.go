package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// Trust is what a client holds workers against: its own policy, and the
// published measurements that the policy, or the registry that it names,
// accepts.
type Trust struct {
	Policy    *policy.Policy
	Manifests []manifest.Published // from anywhere
	// Registry returns the proven state of the registry that the policy
	// names; it may be nil where the policy names none.
	Registry func(context.Context) (*appraise.Registry, error)
	Clock    func() time.Time
	// CPUs and GPUs appraise; nil: under the makers' roots, without asking
	// anybody for what evidence does not bring.
	CPUs map[string]appraise.CPU
	GPUs appraise.GPU
}

// Result appraises evidence in full; spki is nil where no TLS connection is at
// hand.
func (t *Trust) Result(ctx context.Context, ev *evidence.Evidence, spki *digest.SHA256) (*result.Result, error) {
	o, err := t.options(ctx)
	if err != nil {
		return nil, err
	}
	o.TLSSPKI = spki
	return appraise.Appraise(ev, o), nil
}

// Fresh appraises evidence in full that must answer a challenge of the caller's,
// and fetches what it does not bring where the appraisers can. hash is the
// evidence's (evidence.ParseHashed).
func (t *Trust) Fresh(ctx context.Context, ev *evidence.Evidence, hash, challenge digest.SHA256) (*result.Result, error) {
	o, err := t.options(ctx)
	if err != nil {
		return nil, err
	}
	o.EvidenceSHA256, o.Challenges, o.RequireChallenge = hash, []digest.SHA256{challenge}, true
	prepared := appraise.Prepare(ctx, ev, *o)
	return appraise.Appraise(ev, &prepared), nil
}

func (t *Trust) options(ctx context.Context) (*appraise.Options, error) {
	clock := t.Clock
	if clock == nil {
		clock = time.Now
	}
	// An envelope that cannot be opened is as good as absent, as long as
	// another one can: evidence then says which it meets.
	ms, err := appraise.OpenManifests(t.Policy, t.Manifests)
	if err != nil && len(ms) == 0 {
		return nil, fmt.Errorf("opening manifests: %w", err)
	}
	o := &appraise.Options{Policy: t.Policy, Manifests: ms, Now: clock(), CPUs: t.CPUs, GPUs: t.GPUs}
	if o.CPUs == nil {
		o.CPUs = tee.CPUs(tee.Options{})
	}
	if o.GPUs == nil {
		o.GPUs = gpus.New(gpus.Options{})
	}
	if t.Policy.Manifests.Registry != nil && t.Registry != nil {
		if o.Registry, err = t.Registry(ctx); err != nil {
			return nil, fmt.Errorf("asking the registry: %w", err)
		}
	}
	return o, nil
}

// Appraise is the function that Options wants.
func (t *Trust) Appraise(ev *evidence.Evidence, spki digest.SHA256) error {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	r, err := t.Result(ctx, ev, &spki)
	if err != nil {
		return err
	}
	if err := r.Err(); err != nil {
		return err
	}
	if !r.Accepted {
		return errors.New("appraising evidence: not accepted")
	}
	return nil
}
