package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/forecast"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
	"cocoon/verifier/tpm"
	"cocoon/verifier/wire"
)

// Bounds of requests: evidence in base64, as JSON carries it, and everything
// else, of which an enrolment with its certificates is the largest.
const (
	maxMessage = evidence.MaxEvidence/3*4 + 1<<10
	maxSmall   = 64 << 10
	maxTCB     = 4 << 20 // a quote and two sets of collateral
)

var (
	errNoManifest      = fault.New(fault.ExitNetwork, wire.CodeNoManifest, "ask another verifier, or whoever published it", "this verifier does not have the manifest")
	errNoVerdict       = fault.New(fault.ExitNetwork, wire.CodeNoVerdict, "ask for a new verdict", "this verifier has no such verdict in force")
	errNoEnrolment     = fault.New(fault.ExitPolicy, "tpm.enroll.unsupported", "enrol with a verifier that certifies TPM keys", "this verifier enrols no TPM keys")
	errTooManyRequests = fault.New(fault.ExitNetwork, wire.CodeRateLimited, "wait a second and try again", "too many requests of this client")
)

// codeChallenges is the fault of challenges that can be neither made nor taken.
const codeChallenges = "verifier.challenges"

// service implements the methods of the API.
type service struct{ *Server }

var _ verifierv1connect.VerifierServiceHandler = (*service)(nil)

// rpc goes before every method: it counts, holds callers to their rate, and
// lets evidence in only where there is a place for it.
func (s *Server) rpc(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.metrics.requests.WithLabelValues(method(r.URL.Path)).Inc()
		if !s.admit(r) {
			s.turnAway(w, r, turnedRate, s.slow)
			return
		}
		limit := int64(maxSmall)
		switch r.URL.Path {
		case verifierv1connect.VerifierServiceAppraiseProcedure:
			limit = maxMessage
		case verifierv1connect.VerifierServiceTCBStatusProcedure:
			limit = maxTCB
		}
		if r.ContentLength > limit {
			w = bound(w, r, limit)
			s.metrics.refused(method(r.URL.Path), codeTooLarge)
			_ = s.errors.Write(w, r, tooLarge(limit)) // an error here is the peer's hang-up
			return
		}
		if limit > maxSmall { // what takes a slot
			if !s.enter(r) {
				s.turnAway(w, r, turnedQueue, s.busy)
				return
			}
			defer s.admission.leave()
			end, ok := s.receive(w, r)
			if !ok {
				s.turnAway(w, r, turnedRate, s.slow)
				return
			}
			defer end()
		}
		if !plainAppraise(r) { // that has said how much comes, and it is less
			w = bound(w, r, limit)
		}
		next.ServeHTTP(w, r)
	})
}

// answer turns a method's outcome into a response.
func answer[T any](ctx context.Context, s *Server, procedure string, msg *T, err error) (*connect.Response[T], error) {
	if err == nil {
		return connect.NewResponse(msg), nil
	}
	code := "internal"
	if all := fault.All(err); len(all) > 0 {
		code = all[0].Code
	} else {
		s.log.ErrorContext(ctx, "request failed", "method", procedure, "error", err)
	}
	s.metrics.refused(method(procedure), code)
	return nil, wire.Error(err)
}

// Challenge issues a contribution to the nonce of evidence.
func (s *service) Challenge(ctx context.Context, in *connect.Request[verifierv1.ChallengeRequest]) (*connect.Response[verifierv1.ChallengeResponse], error) {
	purpose := in.Msg.Purpose
	if purpose == verifierv1.Purpose_PURPOSE_UNSPECIFIED {
		purpose = verifierv1.Purpose_PURPOSE_APPRAISE
	}
	if _, known := verifierv1.Purpose_name[int32(purpose)]; !known {
		err := fault.New(fault.ExitParse, "request.purpose", "ask for a purpose that the API names", "challenge for purpose %d", purpose)
		return answer[verifierv1.ChallengeResponse](ctx, s.Server, in.Spec().Procedure, nil, err)
	}
	// Before it is made: the caller is told no more than it lives.
	expires := s.o.Clock().Add(s.o.ChallengeTTL).Truncate(time.Second)
	c, err := s.challenges.Issue(ctx, purpose, s.o.ChallengeTTL)
	if err != nil {
		err = fault.New(fault.ExitNetwork, codeChallenges, "try again", "making challenge: %w", err)
	}
	return answer(ctx, s.Server, in.Spec().Procedure, &verifierv1.ChallengeResponse{Challenge: c.String(), ExpiresAt: timestamppb.New(expires)}, err)
}

// Enroll starts the enrolment of an attestation key.
func (s *service) Enroll(ctx context.Context, in *connect.Request[verifierv1.EnrollRequest]) (*connect.Response[verifierv1.EnrollResponse], error) {
	out := &verifierv1.EnrollResponse{}
	err := func() error {
		e := s.trust.Load().Enroller
		if e == nil {
			return errNoEnrolment
		}
		r, err := e.Begin(ctx, &tpm.EnrollRequest{EKChain: in.Msg.EkChain, EKPublic: in.Msg.EkPublic, AKPublic: in.Msg.AkPublic})
		if err != nil {
			return err
		}
		out.Session, out.CredentialBlob, out.Secret, out.ExpiresAt = r.Session.String(), r.CredentialBlob, r.Secret, timestamppb.New(r.ExpiresAt)
		return nil
	}()
	return answer(ctx, s.Server, in.Spec().Procedure, out, err)
}

// Activate ends an enrolment.
func (s *service) Activate(ctx context.Context, in *connect.Request[verifierv1.ActivateRequest]) (*connect.Response[verifierv1.ActivateResponse], error) {
	out := &verifierv1.ActivateResponse{}
	err := func() error {
		e := s.trust.Load().Enroller
		if e == nil {
			return errNoEnrolment
		}
		session, err := parseHash("session", in.Msg.Session)
		if err != nil {
			return err
		}
		r, err := e.Finish(ctx, &tpm.ActivateRequest{Session: session, Credential: in.Msg.Credential})
		if err != nil {
			return err
		}
		out.CertChain = r.CertChain
		return nil
	}()
	return answer(ctx, s.Server, in.Spec().Procedure, out, err)
}

// Appraise decides on evidence.
func (s *service) Appraise(ctx context.Context, in *connect.Request[verifierv1.AppraiseRequest]) (*connect.Response[verifierv1.AppraiseResponse], error) {
	var out *verifierv1.AppraiseResponse
	var err error
	switch m := in.Msg; {
	case !m.Foreign && m.At != nil:
		err = fault.New(fault.ExitParse, "request.at", "leave the time out, or ask for an appraisal as foreign", "a time is for foreign evidence alone")
	case m.Foreign:
		out, err = s.foreign(ctx, m)
	default:
		out, err = s.appraise(ctx, m.Evidence)
	}
	return answer(ctx, s.Server, in.Spec().Procedure, out, err)
}

// GetVerdict returns a verdict in force again.
func (s *service) GetVerdict(ctx context.Context, in *connect.Request[verifierv1.GetVerdictRequest]) (*connect.Response[verifierv1.GetVerdictResponse], error) {
	out := &verifierv1.GetVerdictResponse{}
	err := func() error {
		hash, err := parseHash("evidence_sha256", in.Msg.EvidenceSha256)
		if err != nil {
			return err
		}
		g, own, ok, err := s.stored(ctx, hash)
		if err != nil {
			return fault.New(fault.ExitNetwork, "verifier.journal", "try again", "looking up verdict: %w", err)
		}
		if !ok || !s.o.Clock().Before(g.NotAfter) {
			return errNoVerdict
		}
		out.Ear, out.Checks, out.Cell, out.NotAfter, out.Promise = g.EAR, g.Checks, g.Cell, timestamppb.New(g.NotAfter), g.Logged.Promise
		switch {
		case in.Msg.Inclusion && !own:
			return elsewhere(&g)
		case in.Msg.Inclusion:
			out.Inclusion, err = s.prove(ctx, &g.Logged)
		}
		return err
	}()
	return answer(ctx, s.Server, in.Spec().Procedure, out, err)
}

// Policies lists the policies in force.
func (s *service) Policies(ctx context.Context, in *connect.Request[verifierv1.PoliciesRequest]) (*connect.Response[verifierv1.PoliciesResponse], error) {
	t := s.trust.Load()
	p := &verifierv1.Policy{Sha256: t.policyHash.String(), Name: t.Policy.Name, Environment: t.Policy.Environment, TrustClasses: t.Policy.TrustClasses, Document: t.policyDoc}
	return answer(ctx, s.Server, in.Spec().Procedure, &verifierv1.PoliciesResponse{Policies: []*verifierv1.Policy{p}}, nil)
}

// Manifests lists the manifests that are accepted.
func (s *service) Manifests(ctx context.Context, in *connect.Request[verifierv1.ManifestsRequest]) (*connect.Response[verifierv1.ManifestsResponse], error) {
	out := &verifierv1.ManifestsResponse{}
	for _, m := range s.trust.Load().Manifests {
		out.Manifests = append(out.Manifests, wire.Manifest(&result.ManifestRef{SHA256: m.SHA256, Name: m.Manifest.Image.Name, Version: m.Manifest.Image.Version}))
	}
	return answer(ctx, s.Server, in.Spec().Procedure, out, nil)
}

// GetManifest returns the envelope of an accepted manifest. Whoever asks checks
// its hash: it names the content.
func (s *service) GetManifest(ctx context.Context, in *connect.Request[verifierv1.GetManifestRequest]) (*connect.Response[verifierv1.GetManifestResponse], error) {
	for _, m := range s.trust.Load().Manifests {
		if m.SHA256.String() == in.Msg.Sha256 {
			return answer(ctx, s.Server, in.Spec().Procedure, &verifierv1.GetManifestResponse{Envelope: m.Envelope, Inclusion: m.Inclusion}, nil)
		}
	}
	return answer[verifierv1.GetManifestResponse](ctx, s.Server, in.Spec().Procedure, nil, errNoManifest)
}

// TCBStatus judges a platform by a quote.
func (s *service) TCBStatus(ctx context.Context, in *connect.Request[verifierv1.TCBStatusRequest]) (*connect.Response[verifierv1.TCBStatusResponse], error) {
	out, err := s.tcbStatus(ctx, in.Msg)
	return answer(ctx, s.Server, in.Spec().Procedure, out, err)
}

func (s *Server) tcbStatus(ctx context.Context, in *verifierv1.TCBStatusRequest) (*verifierv1.TCBStatusResponse, error) {
	place, ctx, err := s.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer place.free()
	t := s.trust.Load()
	f := &forecast.Input{Quote: in.Quote, AllowZeroPadding: true, Roots: t.DCAPRoots, Now: s.o.Clock()}
	switch {
	case len(in.Collateral) > 0:
		f.Collateral, err = openCollateral(in.Collateral, f)
	case t.Collateral != nil:
		appraise.Blocking(ctx, func() { f.Collateral, err = t.Collateral(ctx, in.Quote) })
		err = errors.Join(err, place.err)
	default:
		err = fault.New(fault.ExitParse, "request.collateral", "send the platform's collateral", "this verifier fetches no collateral")
	}
	if err == nil && len(in.EarlyCollateral) > 0 {
		f.Early, err = openCollateral(in.EarlyCollateral, f)
	}
	if err != nil {
		return nil, err
	}
	if f.Collateral == nil {
		return nil, fault.New(fault.ExitParse, "dcap.quote.parse", "send one whole raw quote", "reading quote: it names no platform")
	}
	rep, err := forecast.Make(f)
	if err != nil {
		return nil, err
	}
	out := &verifierv1.TCBStatusResponse{Tee: rep.TEE, Current: evaluation(&rep.Current, f.Collateral)}
	if rep.Next != nil {
		out.Next = evaluation(rep.Next, f.Early)
	}
	return out, nil
}

func openCollateral(doc []byte, f *forecast.Input) (*collateral.Set, error) {
	raw, err := collateral.ParseJSON(doc)
	if err != nil {
		return nil, err
	}
	return collateral.Open(raw, f.Roots)
}

func evaluation(st *forecast.Status, set *collateral.Set) *verifierv1.TCBEvaluation {
	out := &verifierv1.TCBEvaluation{Status: string(st.Status), Evaluation: uint32(st.Evaluation), Advisories: st.Advisories}
	var end time.Time
	for _, p := range set.Parts() {
		if end.IsZero() || p.NextUpdate.Before(end) {
			end = p.NextUpdate
		}
	}
	out.ExpiresAt = timestamppb.New(end)
	return out
}

func parseHash(what, s string) (digest.SHA256, error) {
	d, err := digest.Parse256(s)
	if err != nil {
		return d, fault.New(fault.ExitParse, "request.body", "send 64 lower-case hex digits", "reading %s: %w", what, err)
	}
	return d, nil
}
