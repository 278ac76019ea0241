package server

import (
	"context"
	"errors"
	"time"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

// appraise decides on evidence. A challenge is used up by the attempt, whatever
// its outcome. What cannot be decided is an error; refused evidence is an
// answer.
func (s *Server) appraise(ctx context.Context, body []byte) (*verifierv1.AppraiseResponse, error) {
	done, err := s.admission.run(ctx)
	if err != nil {
		return nil, err
	}
	out, given, err := s.decide(ctx, body)
	done()
	if err != nil || given == nil {
		return out, err
	}
	// Not under the slot: waiting for the disk is no work of a CPU.
	if err := s.journal.Append(ctx, *given); err != nil {
		return nil, fault.New(fault.ExitNetwork, "verifier.journal", "try again; the verifier's operator has to look at its journal", "keeping verdict: %w", err)
	}
	s.metrics.verdicts.WithLabelValues(out.Result.TrustClass).Inc()
	return out, nil
}

// decide appraises and, where nothing failed, signs. The verdict that it
// returns is not yet to be handed out.
func (s *Server) decide(ctx context.Context, body []byte) (*verifierv1.AppraiseResponse, *Given, error) {
	t := s.trust.Load()
	ev, err := evidence.Parse(body)
	if err != nil {
		return nil, nil, fault.New(fault.ExitParse, "evidence.parse", "send evidence of profile "+evidence.Profile, "reading evidence: %w", err)
	}
	var registry *appraise.Registry
	if t.Policy.Manifests.Registry != nil {
		if registry, err = t.Registry(ctx); err != nil {
			return nil, nil, fault.New(fault.ExitNetwork, "registry.unreachable", "try again; the verifier's operator checks the lite-servers", "reading registry: %w", err)
		}
	}
	start := time.Now()
	now := s.o.Clock()
	ours, why, err := s.challenges.take(ctx, verifierv1.Purpose_PURPOSE_APPRAISE, ev.NonceInputs, now)
	if err != nil {
		return nil, nil, fault.New(fault.ExitNetwork, "verifier.challenges", "try again", "looking up challenge: %w", err)
	}
	res := appraise.Appraise(ev, &appraise.Options{
		Policy: t.Policy, PolicySHA256: t.policyHash, Manifests: t.Manifests, Registry: registry, Now: now, Rules: t.rules, CPUs: t.CPUs, GPUs: t.GPUs,
		Challenges: ours, RequireChallenge: true, NoChallenge: why,
	})
	defer func() { s.metrics.seconds.Observe(time.Since(start).Seconds()) }()
	out := &verifierv1.AppraiseResponse{Result: wire.Result(res)}
	if !res.Accepted {
		s.refused(ctx, body, res, len(ours) > 0)
		return out, nil, nil
	}
	out.Accepted = true
	if out.Ear, err = result.SignEAR(res, t.Signer, s.o.Build); err != nil {
		return nil, nil, err
	}
	if out.Cell, err = verdictCell(ev, res, t.Signer); err != nil {
		return nil, nil, err
	}
	if s.archive != nil {
		// A verdict that no auditor can look into later is not given.
		if err := s.archive.store(body, res, out.Ear); err != nil {
			return nil, nil, fault.New(fault.ExitNetwork, "verifier.archive", "the verifier's operator has to make room", "keeping evidence: %w", err)
		}
	}
	s.log.InfoContext(ctx, "verdict given", "evidence_sha256", res.EvidenceSHA256.String(),
		"trust_class", res.TrustClass, "manifest", res.Manifest.SHA256.String(), "not_after", res.NotAfter)
	return out, &Given{EvidenceSHA256: res.EvidenceSHA256, PolicySHA256: res.PolicySHA256, ManifestSHA256: res.Manifest.SHA256,
		KeyID: digest.Sum256(t.keys[0]), EAR: out.Ear, Cell: out.Cell, Issued: res.Time, NotAfter: res.NotAfter}, nil
}

// refused counts, keeps and logs a refusal. Only evidence that answers a
// challenge is kept: anyone can send other.
func (s *Server) refused(ctx context.Context, body []byte, res *result.Result, answered bool) {
	for _, c := range res.Failed() {
		s.metrics.refusals.WithLabelValues(c.ID).Inc()
	}
	if s.archive != nil && answered {
		if err := s.archive.store(body, res, ""); err != nil && !errors.Is(err, errArchiveFull) {
			s.log.ErrorContext(ctx, "archiving refused evidence failed", "error", err)
		}
	}
	s.log.InfoContext(ctx, "evidence refused", "evidence_sha256", res.EvidenceSHA256.String(), "failed", failed(res))
}

// foreign appraises recorded evidence. Nothing of it is signed, kept or
// counted as a verdict.
func (s *Server) foreign(ctx context.Context, in *verifierv1.AppraiseRequest) (*verifierv1.AppraiseResponse, error) {
	done, err := s.admission.run(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	t := s.trust.Load()
	ev, err := evidence.ParseForeign(in.Evidence)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "evidence.parse", "send evidence of profile "+evidence.ProfileForeign, "reading evidence: %w", err)
	}
	now := s.o.Clock()
	if in.At != nil {
		if err := in.At.CheckValid(); err != nil {
			return nil, fault.New(fault.ExitParse, "request.at", "send an RFC 3339 time", "reading time: %w", err)
		}
		now = in.At.AsTime()
	}
	res := appraise.AppraiseForeign(ev, &appraise.Options{Policy: t.Policy, PolicySHA256: t.policyHash, Now: now, CPUs: t.CPUs})
	return &verifierv1.AppraiseResponse{Result: wire.Result(res)}, nil
}

func failed(r *result.Result) []string {
	var out []string
	for _, c := range r.Failed() {
		out = append(out, c.ID)
	}
	return out
}
