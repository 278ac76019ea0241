package registrysource

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
)

// Fetcher returns the envelope of the manifest with a hash. It checks the
// hash; *verifier/client.Client is one.
type Fetcher interface {
	Manifest(ctx context.Context, hash digest.SHA256) ([]byte, error)
}

// Manifests returns the envelopes of every manifest that the registry lists:
// those in have, and the rest from the first fetcher that has them. Trust lies
// in the registry's proven state alone: the hash names the content. A manifest
// that nobody has is an error beside those that were found.
func Manifests(ctx context.Context, reg *appraise.Registry, have [][]byte, from []Fetcher) ([][]byte, error) {
	known := map[digest.SHA256]bool{}
	for _, env := range have {
		if v, err := manifest.Read(env, nil); err == nil {
			known[v.SHA256] = true
		}
	}
	var missing []digest.SHA256
	for hash, m := range reg.Manifests {
		if m.Listed && !known[hash] {
			missing = append(missing, hash)
		}
	}
	slices.SortFunc(missing, func(a, b digest.SHA256) int { return slices.Compare(a[:], b[:]) })
	out := slices.Clone(have)
	var errs []error
	for _, hash := range missing {
		env, err := fetch(ctx, hash, from)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, env)
	}
	return out, errors.Join(errs...)
}

func fetch(ctx context.Context, hash digest.SHA256, from []Fetcher) ([]byte, error) {
	errs := []error{fault.New(fault.ExitNetwork, "manifest.unavailable", "name a verifier that has it, or give its file",
		"fetching manifest %s, which the registry lists", hash)}
	for _, f := range from {
		env, err := f.Manifest(ctx, hash)
		if err == nil {
			return env, nil
		}
		errs = append(errs, fmt.Errorf("asking a verifier: %w", err))
	}
	return nil, errors.Join(errs...)
}
