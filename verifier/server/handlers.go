package server

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/api"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// maxSmall bounds the bodies of requests other than evidence: an enrolment
// carries a few certificates.
const maxSmall = 64 << 10

var errNoManifest = fault.New(fault.ExitNetwork, api.CodeNoManifest, "ask another verifier, or whoever published it", "this verifier does not have the manifest")

var errTooManyRequests = fault.New(fault.ExitNetwork, "verifier.rate_limited", "wait a second and try again", "too many requests of this client")

// readBody reads a body of a known type and bounded size.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, types ...string) ([]byte, error) {
	got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		got = ""
	}
	ok := false
	for _, t := range types {
		ok = ok || t == got
	}
	if !ok {
		return nil, fault.New(fault.ExitParse, "request.content_type", "send Content-Type "+types[0], "reading request: content type %.64q", got)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, fault.New(fault.ExitParse, "request.body", fmt.Sprintf("send at most %d bytes", limit), "reading request: %w", err)
	}
	return b, nil
}

func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := readBody(w, r, maxSmall, "application/json")
	if err != nil {
		return err
	}
	if err := jcs.Decode(b, maxSmall, v); err != nil {
		return fault.New(fault.ExitParse, "request.body", "see docs/verifier-api.md", "reading request: %w", err)
	}
	return nil
}

func (s *Server) postChallenge(w http.ResponseWriter, _ *http.Request) error {
	c, expires, err := s.challenges.issue(s.o.Clock())
	if err != nil {
		return err
	}
	writeJSON(w, api.Challenge{Challenge: c, ExpiresAt: expires.UTC()})
	return nil
}

var errNoEnrolment = fault.New(fault.ExitPolicy, "tpm.enroll.unsupported", "enrol with a verifier that certifies TPM keys", "this verifier enrols no TPM keys")

func (s *Server) postEnroll(w http.ResponseWriter, r *http.Request) error {
	var in api.EnrollRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if s.o.Enroller == nil {
		return errNoEnrolment
	}
	out, err := s.o.Enroller.Begin(&in)
	if err != nil {
		return err
	}
	writeJSON(w, out)
	return nil
}

func (s *Server) postActivate(w http.ResponseWriter, r *http.Request) error {
	var in api.ActivateRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if s.o.Enroller == nil {
		return errNoEnrolment
	}
	out, err := s.o.Enroller.Finish(&in)
	if err != nil {
		return err
	}
	writeJSON(w, out)
	return nil
}

func (s *Server) getKeys(w http.ResponseWriter, _ *http.Request) error {
	public := s.o.Key.Public().(ed25519.PublicKey)
	out := api.Keys{Verifier: []api.VerifierKey{{KeyID: result.KeyID(public), Public: digest.SHA256(public)}}, AKRoots: s.o.AKRoots}
	if out.AKRoots == nil {
		out.AKRoots = [][]byte{}
	}
	writeJSON(w, out)
	return nil
}

func (s *Server) getManifests(w http.ResponseWriter, _ *http.Request) error {
	out := api.Manifests{Manifests: []result.ManifestRef{}}
	for _, m := range s.o.Manifests {
		out.Manifests = append(out.Manifests, result.ManifestRef{SHA256: m.SHA256, Name: m.Manifest.Image.Name, Version: m.Manifest.Image.Version})
	}
	writeJSON(w, out)
	return nil
}

// getManifest answers with the envelope of an accepted manifest. Whoever asks
// checks its hash: the address names the content.
func (s *Server) getManifest(w http.ResponseWriter, r *http.Request) error {
	hash := r.PathValue("sha256")
	for _, m := range s.o.Manifests {
		if m.SHA256.String() == hash {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(m.Envelope) // an error here is the peer's hang-up
			return nil
		}
	}
	return errNoManifest
}

// postVerify appraises evidence and answers with a verdict, or with a problem
// that carries every check. A challenge is used up by the attempt, whatever
// its outcome.
func (s *Server) postVerify(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, evidence.MaxEvidence, evidence.MediaType, "application/json")
	if err != nil {
		return err
	}
	ev, err := evidence.Parse(body)
	if err != nil {
		return fault.New(fault.ExitParse, "evidence.parse", "send evidence of profile "+evidence.Profile, "reading evidence: %w", err)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-time.After(DefaultQueue):
		return fault.New(fault.ExitNetwork, "verifier.busy", "try again in a few seconds", "waiting to appraise evidence: too many are under way")
	case <-r.Context().Done():
		return fault.New(fault.ExitNetwork, "verifier.busy", "try again", "waiting to appraise evidence: %w", r.Context().Err())
	}
	var registry *appraise.Registry
	if s.o.Policy.Manifests.Registry != nil {
		if registry, err = s.o.Registry(r.Context()); err != nil {
			return fault.New(fault.ExitNetwork, "registry.unreachable", "try again; the verifier's operator checks the lite-servers", "reading registry: %w", err)
		}
	}
	start := time.Now()
	now := s.o.Clock()
	ours, why := s.challenges.take(ev.NonceInputs, now)
	res := appraise.Appraise(ev, &appraise.Options{
		Policy: s.o.Policy, Manifests: s.o.Manifests, Registry: registry, Now: now, Rules: s.rules, CPUs: s.o.CPUs, GPUs: s.o.GPUs,
		Challenges: ours, RequireChallenge: true, NoChallenge: why,
	})
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	if err := res.Err(); err != nil {
		if s.archive != nil && len(ours) > 0 {
			if aerr := s.archive.store(body, res, ""); aerr != nil && !errors.Is(aerr, errArchiveFull) {
				s.log.ErrorContext(r.Context(), "archiving refused evidence failed", "error", aerr)
			}
		}
		s.log.InfoContext(r.Context(), "evidence refused", "evidence_sha256", res.EvidenceSHA256.String(), "failed", failed(res))
		return err
	}
	out := api.Verdict{Result: res}
	if out.EAR, err = result.SignEAR(res, s.o.Key, s.o.Build); err != nil {
		return err
	}
	if out.Cell, err = verdictCell(ev, res, s.o.Key); err != nil {
		return err
	}
	if s.archive != nil {
		// A verdict that no auditor can look into later is not given.
		if err := s.archive.store(body, res, out.EAR); err != nil {
			return fault.New(fault.ExitNetwork, "verifier.archive", "the verifier's operator has to make room", "keeping evidence: %w", err)
		}
	}
	s.metrics.verdicts.WithLabelValues(res.TrustClass).Inc()
	s.log.InfoContext(r.Context(), "verdict given", "evidence_sha256", res.EvidenceSHA256.String(),
		"trust_class", res.TrustClass, "manifest", res.Manifest.SHA256.String(), "not_after", res.NotAfter)
	writeJSON(w, out)
	return nil
}

func failed(r *result.Result) []string {
	var out []string
	for _, c := range r.Failed() {
		out = append(out, c.ID)
	}
	return out
}
