package server

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"connectrpc.com/connect"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/maa"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

// attestTDX serves POST /attest/TdxVm: a TD's quote in the call shape of Azure
// Attestation. It is admitted, bounded and logged as an appraisal is.
func (s *Server) attestTDX(w http.ResponseWriter, r *http.Request) {
	s.metrics.requests.WithLabelValues(wire.PathMAA).Inc()
	if !s.admit(r) {
		s.metrics.turned.WithLabelValues(turnedRate).Inc()
		s.attestFailed(w, r, errTooManyRequests, nil)
		return
	}
	if !s.enter(r) {
		s.metrics.turned.WithLabelValues(turnedQueue).Inc()
		s.attestFailed(w, r, errBusy, nil)
		return
	}
	defer s.admission.leave()
	end, ok := s.receive(w, r)
	if !ok {
		s.metrics.turned.WithLabelValues(turnedRate).Inc()
		s.attestFailed(w, r, errTooManyRequests, nil)
		return
	}
	defer end()
	if typ, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || typ != "application/json" {
		s.attestFailed(w, r, errMediaType, nil)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maa.MaxRequest))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			err = errTooLarge
		} else {
			err = fault.New(fault.ExitParse, codeBody, "send the request again", "reading request: %w", err)
		}
		s.attestFailed(w, r, err, nil)
		return
	}
	given, refused, err := s.attest(r.Context(), body)
	if err != nil || refused != nil {
		s.attestFailed(w, r, err, refused)
		return
	}
	if p := given.Logged.Promise; p != "" {
		w.Header().Set(wire.HeaderPromise, base64.StdEncoding.EncodeToString([]byte(p)))
	}
	writeJSON(w, map[string]string{"token": given.EAR})
}

const codeBody = "request.body"

var (
	errMediaType = fault.New(fault.ExitParse, "request.content_type", "send application/json", "reading request: not JSON")
	errTooLarge  = fault.New(fault.ExitParse, codeTooLarge, "send at most 4 MiB", "reading request: too large")
)

// attest decides on a request. The challenge is used up by the attempt.
func (s *Server) attest(ctx context.Context, body []byte) (given *Given, refused *result.Result, err error) {
	req, doc, t, p, err := s.judgePlatform(ctx, body)
	if err != nil {
		return nil, nil, err
	}
	res := p.Result
	if !p.Good {
		s.refused(ctx, doc, res, answered(p))
		return nil, res, nil
	}
	key, err := t.signer(res.Time)
	if err != nil {
		return nil, nil, err
	}
	start := time.Now()
	g := &Given{EvidenceSHA256: res.EvidenceSHA256, PolicySHA256: res.PolicySHA256, KeyID: digest.Sum256(key.public), Issued: res.Time, NotAfter: res.NotAfter}
	if g.EAR, err = req.Token(p, res.EvidenceSHA256, key, s.o.Build); err != nil {
		return nil, nil, err
	}
	g.EARSHA256 = digest.Sum256([]byte(g.EAR))
	s.metrics.signing.Observe(time.Since(start).Seconds())
	if err := s.keep(ctx, doc, res, g); err != nil {
		return nil, nil, err
	}
	s.log.InfoContext(ctx, "platform attested", "evidence_sha256", g.EvidenceSHA256.String(), "trust_class", res.TrustClass, "not_after", g.NotAfter)
	return g, nil, nil
}

// judgePlatform reads a request and holds its quote against the policy, in a slot.
func (s *Server) judgePlatform(ctx context.Context, body []byte) (*maa.Request, []byte, *material, *appraise.Platform, error) {
	fail := func(err error) (*maa.Request, []byte, *material, *appraise.Platform, error) {
		return nil, nil, nil, nil, err
	}
	place, ctx, err := s.slot(ctx)
	if err != nil {
		return fail(err)
	}
	defer place.free()
	t := s.trust.Load()
	req, err := maa.Parse(body)
	if err != nil {
		return fail(err)
	}
	doc, err := req.Document()
	if err != nil {
		return fail(fault.New(fault.ExitParse, codeBody, "send JSON that RFC 8785 can encode", "encoding request: %w", err))
	}
	ev := req.Evidence()
	o := appraise.PrepareForeign(ctx, ev, appraise.Options{Policy: t.Policy, PolicySHA256: t.policyHash, Now: s.o.Clock(), Rules: t.rules, CPUs: t.CPUs, RequireChallenge: true})
	if place.err != nil {
		return fail(place.err)
	}
	start := time.Now()
	ours, why, err := s.challenges.Take(ctx, verifierv1.Purpose_PURPOSE_ATTEST_TDX, []digest.SHA256{req.Challenge()})
	if err != nil {
		return fail(fault.New(fault.ExitNetwork, codeChallenges, "try again", "looking up challenge: %w", err))
	}
	o.Now, o.Challenges, o.NoChallenge = s.o.Clock(), ours, why
	p := appraise.AppraisePlatform(ev, &o, req.Bind)
	p.Result.EvidenceSHA256 = digest.Sum256(doc)
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	return req, doc, t, p, nil
}

// answered reports whether a challenge of ours was answered.
func answered(p *appraise.Platform) bool {
	for _, c := range p.Result.Checks() {
		if c.ID == "nonce.challenge" {
			return c.Status == result.Pass
		}
	}
	return false
}

// attestFailed answers with a problem (RFC 9457): an error, or every check of a
// quote that was refused.
func (s *Server) attestFailed(w http.ResponseWriter, r *http.Request, err error, refused *result.Result) {
	if refused != nil {
		err = refused.Err()
	}
	status := http.StatusInternalServerError
	switch {
	case fault.Has(err, errTooLarge.Code):
		status = http.StatusRequestEntityTooLarge
	case fault.Has(err, errMediaType.Code):
		status = http.StatusUnsupportedMediaType
	default:
		switch wire.Error(err).Code() {
		case connect.CodeInvalidArgument, connect.CodeFailedPrecondition:
			status = http.StatusBadRequest
		case connect.CodeResourceExhausted:
			status = http.StatusTooManyRequests
		case connect.CodeUnavailable:
			status = http.StatusServiceUnavailable
		}
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	code := "internal"
	if all := fault.All(err); len(all) > 0 {
		code = all[0].Code
	}
	s.metrics.refused(wire.PathMAA, code)
	s.writeProblemOf(w, r, status, err, refused)
}
