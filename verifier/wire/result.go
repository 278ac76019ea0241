package wire

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// Accepted returns a result that a verdict was signed on: what the verdict's EAR
// does not say. Its submodules are in the EAR and their checks beside it, and
// not sent twice.
func Accepted(r *result.Result) *verifierv1.Result {
	bare := *r
	bare.Submods = nil
	return Result(&bare)
}

// Result returns a result as a message.
func Result(r *result.Result) *verifierv1.Result {
	c := &r.Claims
	out := &verifierv1.Result{
		Accepted: r.Accepted, TrustClass: r.TrustClass, Development: r.Development, Foreign: r.Foreign, TestRoots: r.TestRoots,
		Time: timestamppb.New(r.Time), NotAfter: timestamppb.New(r.NotAfter),
		EvidenceSha256: r.EvidenceSHA256.String(), PolicySha256: r.PolicySHA256.String(),
		Claims: &verifierv1.Claims{TlsSpkiSha256: c.TLSSPKISHA256.String(), ReceiptKey: c.ReceiptKey.String(), Payout: c.Payout,
			ConfigSha256: c.ConfigSHA256.String(), ModelName: c.Model.Name, ModelVerityRoot: c.Model.VerityRoot.String(),
			GpuEvidenceSha256: c.GPUEvidenceSHA256.String(), Nonce: c.Nonce.String()},
		Measurements: r.Measurements,
	}
	if c.StagesSHA256 != nil {
		out.Claims.StagesSha256 = c.StagesSHA256.String()
	}
	if r.Stages != nil {
		for _, s := range r.Stages.List {
			out.Stages = append(out.Stages, &verifierv1.BootStage{Name: s.Name, Status: s.Status, Ms: s.MS, Code: s.Code})
		}
	}
	if r.Foreign {
		out.Claims = nil
	}
	if r.Manifest != nil {
		out.Manifest = Manifest(r.Manifest)
	}
	if len(r.Submods) > 0 {
		out.Submods = make(map[string]*verifierv1.Submod, len(r.Submods))
	}
	for name, s := range r.Submods {
		m := &verifierv1.Submod{Status: string(s.Status), TrustworthinessVector: make(map[string]int32, len(s.Vector)), Checks: make([]*verifierv1.Check, len(s.Checks))}
		for k, v := range s.Vector {
			m.TrustworthinessVector[k] = int32(v)
		}
		checks := make([]verifierv1.Check, len(s.Checks)) // in one piece: there are dozens
		for i := range s.Checks {
			k, c := &s.Checks[i], &checks[i]
			c.Id, c.Status, c.Expected, c.Actual, c.Reason, c.Remedy, c.Document, c.Section = k.ID, k.Status, k.Expected, k.Actual, k.Reason, k.Remedy, k.Document, k.Section
			m.Checks[i] = c
		}
		out.Submods[name] = m
	}
	return out
}

// Manifest returns a manifest's name as a message.
func Manifest(m *result.ManifestRef) *verifierv1.ManifestRef {
	return &verifierv1.ManifestRef{Sha256: m.SHA256.String(), Name: m.Name, Version: m.Version}
}

// ReadAnswer reads an answer to Appraise. The submodules of accepted evidence are
// the EAR's, whose signature is not looked at here, with the checks that it has
// the hash of. Result and EAR must be on the same evidence, under one policy and
// manifest.
func ReadAnswer(in *verifierv1.AppraiseResponse) (*result.Result, error) {
	r, err := ReadResult(in.Result)
	if err != nil {
		return nil, err
	}
	if r.Accepted != in.Accepted || (in.Ear != "") != in.Accepted || (len(in.Checks) > 0) != in.Accepted || r.Foreign && in.Accepted {
		return nil, errors.New("reading answer: verdict and result contradict each other")
	}
	if !in.Accepted {
		return r, nil
	}
	e, err := result.ParseEAR(in.Ear)
	if err != nil {
		return nil, err
	}
	if e.EvidenceSHA256 != r.EvidenceSHA256 || e.PolicySHA256 != r.PolicySHA256 || r.Manifest == nil || e.Manifest != *r.Manifest ||
		e.TrustClass != r.TrustClass || e.IssuedAt != r.Time.Unix() || e.Expires != r.NotAfter.Unix() {
		return nil, errors.New("reading answer: verdict and result are of two appraisals")
	}
	if err := e.OpenChecks(in.Checks); err != nil {
		return nil, err
	}
	r.Submods = make(map[string]*result.Submod, len(e.Submods))
	for name, s := range e.Submods {
		r.Submods[name] = &result.Submod{Status: s.Status, Vector: s.Vector, Checks: s.Checks()}
	}
	return r, nil
}

// ReadResult reads the result in an answer. It checks form alone: nobody
// signed it, only the EAR is a verdict.
func ReadResult(in *verifierv1.Result) (*result.Result, error) {
	if in == nil {
		return nil, errors.New("reading result: there is none")
	}
	var errs []error
	hash := func(what, s string) digest.SHA256 {
		if s == "" {
			return digest.SHA256{}
		}
		d, err := digest.Parse256(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading result: %s: %w", what, err))
		}
		return d
	}
	c := in.GetClaims()
	r := &result.Result{
		Accepted: in.Accepted, TrustClass: in.TrustClass, Development: in.Development, Foreign: in.Foreign, TestRoots: in.TestRoots,
		Time: at(in.Time), NotAfter: at(in.NotAfter),
		EvidenceSHA256: hash("evidence_sha256", in.EvidenceSha256), PolicySHA256: hash("policy_sha256", in.PolicySha256),
		Claims: evidence.Claims{TLSSPKISHA256: hash("tls_spki_sha256", c.GetTlsSpkiSha256()), ReceiptKey: hash("receipt_key", c.GetReceiptKey()),
			Payout: c.GetPayout(), ConfigSHA256: hash("config_sha256", c.GetConfigSha256()),
			Model:             evidence.Model{Name: c.GetModelName(), VerityRoot: hash("model_verity_root", c.GetModelVerityRoot())},
			GPUEvidenceSHA256: hash("gpu_evidence_sha256", c.GetGpuEvidenceSha256()), Nonce: hash("nonce", c.GetNonce())},
		Measurements: map[string]string{}, Submods: map[string]*result.Submod{},
	}
	if c.GetStagesSha256() != "" {
		h := hash("stages_sha256", c.GetStagesSha256())
		r.Claims.StagesSHA256 = &h
	}
	if len(in.Stages) > 0 {
		r.Stages = &evidence.Stages{Version: evidence.StagesVersion}
		for _, s := range in.Stages {
			r.Stages.List = append(r.Stages.List, evidence.Stage{Name: s.GetName(), Status: s.GetStatus(), MS: s.GetMs(), Code: s.GetCode()})
		}
	}
	for k, v := range in.Measurements {
		r.Measurements[k] = v
	}
	if in.Manifest != nil {
		r.Manifest = &result.ManifestRef{SHA256: hash("manifest", in.Manifest.Sha256), Name: in.Manifest.Name, Version: in.Manifest.Version}
	}
	for name, s := range in.Submods {
		m := &result.Submod{Status: result.Status(s.GetStatus()), Vector: result.Vector{}, Checks: []result.Check{}}
		for k, v := range s.GetTrustworthinessVector() {
			m.Vector[k] = int(v)
		}
		for _, k := range s.GetChecks() {
			m.Checks = append(m.Checks, result.Check{ID: k.GetId(), Status: k.GetStatus(), Expected: k.GetExpected(), Actual: k.GetActual(), Reason: k.GetReason(), Remedy: k.GetRemedy(), Document: k.GetDocument(), Section: k.GetSection()})
		}
		r.Submods[name] = m
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

func at(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
