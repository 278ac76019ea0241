package server

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/collateral"
	"cocoon/verifier/pck"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/tpm"
	"cocoon/verifier/wire"
)

// Trust is what a Server decides by and signs with. It is replaced as a whole
// by Reload and never written to.
type Trust struct {
	Policy    *policy.Policy
	Manifests []*manifest.Verified    // opened under the policy
	Signer    crypto.Signer           // Ed25519: signs verdicts, at any time
	Signers   []SigningKey            // instead of Signer: keys that follow one another
	Enroller  *tpm.Enroller           // nil: no enrolment
	AKRoots   [][]byte                // DER; shown to clients
	CPUs      map[string]appraise.CPU // further CPU types
	GPUs      appraise.GPU
	// Registry returns the proven state of the registry that the policy names;
	// needed where it names one. It is asked at every appraisal.
	Registry func(context.Context) (*appraise.Registry, error)
	// DCAPRoots and Collateral are for TCBStatus; nil: Intel's, and the
	// collateral that a request brings.
	DCAPRoots  *pck.Roots
	Collateral func(ctx context.Context, quote []byte) (*collateral.Set, error)
}

// material is a Trust with what is derived from it once.
type material struct {
	Trust
	rules      *rules.Set
	policyHash digest.SHA256
	policyDoc  []byte
	keys       []ring // in the order in which they sign
	testRoots  []string
}

func newMaterial(t Trust, now time.Time) (*material, error) {
	if t.Policy == nil {
		return nil, errors.New("a policy is needed")
	}
	keys, err := newRing(t.Signer, t.Signers)
	if err != nil {
		return nil, err
	}
	if err := t.Policy.Validate(); err != nil {
		return nil, err
	}
	if t.Policy.Manifests.Registry != nil && t.Registry == nil {
		return nil, errors.New("the policy names a registry, and there is no ledger to read it from")
	}
	m := &material{Trust: t, keys: keys, testRoots: appraise.TestRoots(t.CPUs, t.GPUs)}
	if _, err := m.signer(now); err != nil {
		return nil, err
	}
	if m.policyDoc, err = t.Policy.Marshal(); err != nil {
		return nil, err
	}
	m.policyHash = digest.Sum256(m.policyDoc)
	if m.rules, err = rules.Compile(t.Policy.Rules); err != nil {
		return nil, err
	}
	return m, nil
}

// CheckTrust reports what New and Reload would find wrong with a Trust.
func CheckTrust(t Trust, now time.Time) error {
	_, err := newMaterial(t, now)
	return err
}

// Reload replaces what the server decides by. Requests under way end under what
// they began with. An error leaves everything as it was.
func (s *Server) Reload(t Trust) error {
	m, err := newMaterial(t, s.o.Clock())
	if err != nil {
		s.ReloadFailed()
		return fmt.Errorf("reloading: %w", err)
	}
	if err := s.logManifests(context.Background(), m); err != nil {
		s.ReloadFailed()
		return fmt.Errorf("reloading: %w", err)
	}
	s.trust.Store(m)
	s.metrics.reloads.WithLabelValues(reloadOK).Inc()
	return nil
}

// TakeIn puts manifests into the log, under the policy in force, and returns a
// function that has the server decide by them in place of those it has. That one
// writes nothing, and reports false where a Reload has come between. So manifests
// are in the log before they count, and no Reload waits for the log's disk.
func (s *Server) TakeIn(ctx context.Context, ms []*manifest.Verified) (use func() bool, err error) {
	old := s.trust.Load()
	m := *old
	m.Manifests = ms
	if err := s.logManifests(ctx, &m); err != nil {
		return nil, fmt.Errorf("taking in manifests: %w", err)
	}
	return func() bool { return s.trust.CompareAndSwap(old, &m) }, nil
}

// ReloadFailed counts a reload that came to nothing before there was a Trust.
func (s *Server) ReloadFailed() { s.metrics.reloads.WithLabelValues(reloadFailed).Inc() }

func (m *material) info(build string, now time.Time) wire.Info {
	out := wire.Info{Build: build, AKRoots: m.AKRoots, TestRoots: m.testRoots, JWKS: wire.PathJWKS, OpenAPI: wire.PathOpenAPI,
		Policies: []wire.PolicyRef{{SHA256: m.policyHash, Name: m.Policy.Name}}}
	if out.AKRoots == nil {
		out.AKRoots = [][]byte{}
	}
	if out.TestRoots == nil {
		out.TestRoots = []string{}
	}
	for _, k := range m.published(now) {
		out.Keys = append(out.Keys, wire.Key{KeyID: digest.Sum256(k.public).String(), Public: digest.SHA256(k.public),
			State: k.state(now), NotBefore: text(k.begin), RetireAt: text(k.end)})
	}
	return out
}
