package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

// appraise decides on evidence and, where nothing failed, gives a verdict. A
// challenge is used up by the attempt, whatever its outcome. What cannot be
// decided is an error; refused evidence is an answer.
//
// Reading evidence takes a slot; what comes after it, signing, archive and
// journal, takes none: however much there is to read, who has been judged goes
// on.
func (s *Server) appraise(ctx context.Context, body []byte) (*verifierv1.AppraiseResponse, error) {
	if err := checkSize(body); err != nil {
		return nil, err
	}
	j, err := s.judge(ctx, body)
	if err != nil {
		return nil, err
	}
	if !j.result.Accepted {
		s.refused(ctx, body, j.result, j.answered)
		return &verifierv1.AppraiseResponse{Result: wire.Result(j.result)}, nil
	}
	given, err := s.sign(j)
	if err != nil {
		return nil, err
	}
	if err := s.keep(ctx, body, j.result, given); err != nil {
		return nil, err
	}
	s.log.DebugContext(ctx, "verdict given", "evidence_sha256", given.EvidenceSHA256.String(),
		"trust_class", j.result.TrustClass, "manifest", given.ManifestSHA256.String(), "not_after", given.NotAfter)
	return &verifierv1.AppraiseResponse{Accepted: true, Ear: given.EAR, Checks: given.Checks, Cell: given.Cell, Result: wire.Accepted(j.result), Promise: given.Logged.Promise}, nil
}

func checkSize(body []byte) error {
	if len(body) > evidence.MaxEvidence {
		return fault.New(fault.ExitParse, codeBody, "send at most 8 MiB of evidence", "reading evidence: %d bytes", len(body)).
			Expect(fmt.Sprintf("at most %d bytes", evidence.MaxEvidence)).Found(fmt.Sprintf("%d bytes", len(body)))
	}
	return nil
}

// keep puts what was signed into archive and journal. It is handed out after
// that alone.
func (s *Server) keep(ctx context.Context, body []byte, res *result.Result, g *Given) error {
	if s.archive != nil {
		// A verdict that no auditor can look into later is not given.
		if err := s.archive.store(body, res, g.EAR, g.Checks); err != nil {
			return fault.New(fault.ExitNetwork, "verifier.archive", "the verifier's operator has to make room", "keeping evidence: %w", err)
		}
	}
	if err := s.journal.Append(ctx, g); err != nil {
		return fault.New(fault.ExitNetwork, "verifier.journal", "try again; the verifier's operator has to look at its journal", "keeping verdict: %w", err)
	}
	s.share(ctx, g)
	s.metrics.verdicts.WithLabelValues(res.TrustClass).Inc()
	return nil
}

// judgement is what was found of evidence, under the material of its time.
type judgement struct {
	evidence *evidence.Evidence
	result   *result.Result
	material *material
	answered bool // a challenge of ours
}

// slot is a place among the appraisals under way. Who waits for a network gives
// it back meanwhile: a service of a maker's that is slow takes nobody's turn.
type slot struct {
	s    *Server
	ctx  context.Context
	done func()
	err  error // it could not be had again
}

func (s *Server) slot(ctx context.Context) (*slot, context.Context, error) {
	done, err := s.admission.run(ctx)
	if err != nil {
		return nil, nil, err
	}
	l := &slot{s: s, ctx: ctx, done: done}
	return l, appraise.WithBlocking(ctx, l.aside), nil
}

func (l *slot) aside(wait func()) {
	l.free()
	wait()
	if l.err == nil {
		l.done, l.err = l.s.admission.run(l.ctx)
	}
}

func (l *slot) free() {
	if l.done != nil {
		l.done()
		l.done = nil
	}
}

// judge reads evidence and holds it against the policy, in a slot. What its
// appraisal needs of a network is fetched before, without one.
func (s *Server) judge(ctx context.Context, body []byte) (*judgement, error) {
	place, ctx, err := s.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer place.free()
	t := s.trust.Load()
	ev, hash, err := evidence.ParseHashed(body)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "evidence.parse", "send evidence of profile "+evidence.Profile, "reading evidence: %w", err).Expect("a JSON document of profile " + evidence.Profile)
	}
	var registry *appraise.Registry
	if t.Policy.Manifests.Registry != nil {
		appraise.Blocking(ctx, func() { registry, err = t.Registry(ctx) })
		if err != nil {
			return nil, fault.New(fault.ExitNetwork, "registry.unreachable", "try again; the verifier's operator checks the lite-servers", "reading registry: %w", err)
		}
	}
	o := appraise.Prepare(ctx, ev, appraise.Options{
		Policy: t.Policy, PolicySHA256: t.policyHash, EvidenceSHA256: hash, Manifests: t.Manifests, Registry: registry, Now: s.o.Clock(), Rules: t.rules, CPUs: t.CPUs, GPUs: t.GPUs,
		RequireChallenge: true,
	})
	if place.err != nil {
		return nil, place.err
	}
	start := time.Now()
	ours, why, err := s.challenges.Take(ctx, verifierv1.Purpose_PURPOSE_APPRAISE, ev.NonceInputs)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, codeChallenges, "try again", "looking up challenge: %w", err)
	}
	o.Now, o.Challenges, o.NoChallenge = s.o.Clock(), ours, why
	res := appraise.Appraise(ev, &o)
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	return &judgement{evidence: ev, result: res, material: t, answered: len(ours) > 0}, nil
}

// sign makes the verdict on accepted evidence. It is not yet to be handed out.
func (s *Server) sign(j *judgement) (*Given, error) {
	res := j.result
	key, err := j.material.signer(res.Time)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	g := &Given{EvidenceSHA256: res.EvidenceSHA256, PolicySHA256: res.PolicySHA256, ManifestSHA256: res.Manifest.SHA256,
		KeyID: digest.Sum256(key.public), Issued: res.Time, NotAfter: res.NotAfter}
	v, err := result.Sign(res, key, s.o.Build)
	if err != nil {
		return nil, err
	}
	g.EAR, g.EARSHA256, g.Checks = v.Token, v.SHA256, v.Checks
	if g.Cell, err = verdictCell(j.evidence, res, key); err != nil {
		return nil, err
	}
	s.metrics.signing.Observe(time.Since(start).Seconds())
	return g, nil
}

// refused counts, keeps and logs a refusal. Only evidence that answers a
// challenge is kept: anyone can send other.
func (s *Server) refused(ctx context.Context, body []byte, res *result.Result, answered bool) {
	for _, c := range res.Failed() {
		s.metrics.refusals.WithLabelValues(c.ID).Inc()
	}
	if s.archive != nil && answered {
		if err := s.archive.store(body, res, "", nil); err != nil && !errors.Is(err, errArchiveFull) {
			s.log.ErrorContext(ctx, "archiving refused evidence failed", "error", err)
		}
	}
	s.log.InfoContext(ctx, "evidence refused", "evidence_sha256", res.EvidenceSHA256.String(), "failed", failed(res))
}

// foreign appraises recorded evidence. Nothing of it is signed, kept or
// counted as a verdict.
func (s *Server) foreign(ctx context.Context, in *verifierv1.AppraiseRequest) (*verifierv1.AppraiseResponse, error) {
	if err := checkSize(in.Evidence); err != nil {
		return nil, err
	}
	place, ctx, err := s.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer place.free()
	t := s.trust.Load()
	ev, err := evidence.ParseForeign(in.Evidence)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "evidence.parse", "send evidence of profile "+evidence.ProfileForeign, "reading evidence: %w", err).Expect("a JSON document of profile " + evidence.ProfileForeign)
	}
	now := s.o.Clock()
	if in.At != nil {
		if err := in.At.CheckValid(); err != nil {
			return nil, fault.New(fault.ExitParse, "request.at", "send an RFC 3339 time", "reading time: %w", err).Expect("a time from year 1 to 9999")
		}
		now = in.At.AsTime()
	}
	o := appraise.PrepareForeign(ctx, ev, appraise.Options{Policy: t.Policy, PolicySHA256: t.policyHash, Now: now, CPUs: t.CPUs, GPUs: t.GPUs})
	if place.err != nil {
		return nil, place.err
	}
	res := appraise.AppraiseForeign(ev, &o)
	return &verifierv1.AppraiseResponse{Result: wire.Result(res)}, nil
}

func failed(r *result.Result) []string {
	var out []string
	for _, c := range r.Failed() {
		out = append(out, c.ID)
	}
	return out
}
