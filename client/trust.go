package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// ManifestHashes names the manifests that are in force now, by the SHA-256 of
// their DSSE payload. A registry on the ledger is one source.
type ManifestHashes func(ctx context.Context) ([]digest.SHA256, error)

// Trust is what a client holds workers against: its own policy, and the
// published measurements that the policy, or a registry, accepts.
type Trust struct {
	Policy    *policy.Policy
	Envelopes [][]byte // DSSE envelopes of manifests, from anywhere
	// Registered, where set, replaces the policy's list of manifests and
	// keys: a manifest is accepted if its hash is registered and the policy
	// has not revoked it.
	Registered ManifestHashes
	Clock      func() time.Time
}

// Result appraises evidence in full; spki is nil where no TLS connection is at
// hand.
func (t *Trust) Result(ctx context.Context, ev *evidence.Evidence, spki *digest.SHA256) (*result.Result, error) {
	clock := t.Clock
	if clock == nil {
		clock = time.Now
	}
	ms, p, err := t.manifests(ctx)
	if err != nil {
		return nil, err
	}
	return appraise.Appraise(ev, &appraise.Options{Policy: p, Manifests: ms, Now: clock(), TLSSPKI: spki}), nil
}

func (t *Trust) manifests(ctx context.Context) ([]*manifest.Verified, *policy.Policy, error) {
	p := t.Policy
	if t.Registered != nil {
		hashes, err := t.Registered(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("asking the registry: %w", err)
		}
		if len(hashes) == 0 {
			return nil, p, nil
		}
		own := *t.Policy
		own.Manifests = policy.Manifests{Hashes: hashes, Keys: []digest.SHA256{}, Revoked: t.Policy.Manifests.Revoked}
		p = &own
	}
	// An envelope that the rules do not accept is as good as absent, as long
	// as another one is accepted: evidence then says which it meets.
	ms, err := appraise.OpenManifests(p, t.Envelopes)
	if err != nil && len(ms) == 0 {
		return nil, nil, fmt.Errorf("opening manifests: %w", err)
	}
	return ms, t.Policy, nil
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
