// Package client is the Go client of a verifier service (docs/verifier-api.md).
// It carries documents and turns errors into faults; a verdict is believed
// only if result.VerifyEAR accepts it under keys that the caller pins.
package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
	"cocoon/verifier/self"
	"cocoon/verifier/tpm"
	"cocoon/verifier/wire"
)

// MaxResponse bounds a response, in bytes.
const MaxResponse = 4 << 20

// Defaults of Options.
const (
	DefaultTimeout = 60 * time.Second // of one request, where HTTP is nil
	DefaultRetries = 2                // of requests that the service did not look at
	firstBackoff   = 250 * time.Millisecond
	maxRetryAfter  = 30 * time.Second
)

// Options of a Client.
type Options struct {
	BaseURL string       // for example "http://127.0.0.1:8443"
	HTTP    *http.Client // nil: a client with DefaultTimeout that follows no redirects
	Retries int          // 0: DefaultRetries; negative: none
	// Keys of verifiers that the caller trusts: Verify and Stored return only
	// verdicts that verify under one of them and are on the evidence that was
	// asked for. Without keys the caller verifies (result.VerifyEAR).
	Keys             []ed25519.PublicKey
	AllowDevelopment bool             // take verdicts of the development classes
	Clock            func() time.Time // for their dates; nil: time.Now
}

// Client talks to one verifier.
type Client struct {
	base    *url.URL
	http    *http.Client
	rpc     verifierv1connect.VerifierServiceClient
	retries int
	o       Options
}

// New returns a client.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("parsing verifier URL: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("parsing verifier URL %.128q: want http(s)://host[:port][/path]", o.BaseURL)
	}
	c := &Client{base: u, http: o.HTTP, retries: max(o.Retries, 0), o: o}
	if o.Retries == 0 {
		c.retries = DefaultRetries
	}
	if c.http == nil {
		c.http = &http.Client{
			Timeout:       DefaultTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	c.rpc = verifierv1connect.NewVerifierServiceClient(c.http, strings.TrimSuffix(u.String(), "/"), connect.WithReadMaxBytes(MaxResponse))
	return c, nil
}

// Challenge is a contribution to the nonce of evidence. It is good for one
// appraisal before ExpiresAt.
type Challenge struct {
	Challenge digest.SHA256
	ExpiresAt time.Time
}

// Verdict is the answer to accepted evidence. The EAR is the verdict; Result
// repeats what it says for people.
type Verdict struct {
	EAR    string // JWT
	Checks []byte // every check of the EAR, which has the document's hash: result.EAR.OpenChecks
	Cell   string // the verdict for contracts, with this verifier's signature; empty without a registry
	Result *result.Result
	// Promise is the log's signed word that the verdict is in it, Inclusion the
	// proof (C2SP tlog-proof) that Logged waits for; empty without a log.
	Promise   string
	Inclusion string
	Claims    *result.EAR // what the EAR says, verified; nil without Options.Keys
}

// Challenge asks for a contribution to the nonce of evidence.
func (c *Client) Challenge(ctx context.Context) (*Challenge, error) {
	m, err := call(ctx, c, c.rpc.Challenge, &verifierv1.ChallengeRequest{Purpose: verifierv1.Purpose_PURPOSE_APPRAISE})
	if err != nil {
		return nil, err
	}
	d, err := digest.Parse256(m.Challenge)
	if err != nil || m.ExpiresAt == nil {
		return nil, badResponse(fmt.Errorf("challenge %.80q", m.Challenge))
	}
	return &Challenge{Challenge: d, ExpiresAt: m.ExpiresAt.AsTime()}, nil
}

// Enroll starts the enrolment of an attestation key.
func (c *Client) Enroll(ctx context.Context, in *tpm.EnrollRequest) (*tpm.EnrollResponse, error) {
	m, err := call(ctx, c, c.rpc.Enroll, &verifierv1.EnrollRequest{EkChain: in.EKChain, EkPublic: in.EKPublic, AkPublic: in.AKPublic})
	if err != nil {
		return nil, err
	}
	session, err := digest.Parse256(m.Session)
	if err != nil {
		return nil, badResponse(fmt.Errorf("session %.80q", m.Session))
	}
	return &tpm.EnrollResponse{Session: session, CredentialBlob: m.CredentialBlob, Secret: m.Secret, ExpiresAt: m.ExpiresAt.AsTime()}, nil
}

// Activate ends an enrolment with the recovered credential and returns the
// attestation key's certificate chain.
func (c *Client) Activate(ctx context.Context, in *tpm.ActivateRequest) (*tpm.ActivateResponse, error) {
	m, err := call(ctx, c, c.rpc.Activate, &verifierv1.ActivateRequest{Session: in.Session.String(), Credential: in.Credential})
	if err != nil {
		return nil, err
	}
	return &tpm.ActivateResponse{CertChain: m.CertChain}, nil
}

// Verify sends evidence and returns the verdict. A refusal is an error whose
// tree holds a fault for each failed check; Refusal finds its result.
func (c *Client) Verify(ctx context.Context, ev *evidence.Evidence) (*Verdict, error) {
	b, err := ev.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	return c.VerifyBytes(ctx, b)
}

// VerifyBytes is Verify for encoded evidence.
func (c *Client) VerifyBytes(ctx context.Context, ev []byte) (*Verdict, error) {
	m, err := call(ctx, c, c.rpc.Appraise, &verifierv1.AppraiseRequest{Evidence: ev})
	if err != nil {
		return nil, err
	}
	r, err := wire.ReadAnswer(m)
	if err != nil {
		return nil, badResponse(err)
	}
	if r.Foreign {
		return nil, badResponse(fmt.Errorf("a result on foreign evidence"))
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	v := &Verdict{EAR: m.Ear, Checks: m.Checks, Cell: m.Cell, Result: r, Promise: m.Promise}
	return v.unless(c.check(v, func() (digest.SHA256, error) {
		parsed, err := evidence.Parse(ev)
		if err != nil {
			return digest.SHA256{}, err
		}
		return parsed.Hash()
	}))
}

func (v *Verdict) unless(err error) (*Verdict, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

// check verifies a verdict under the caller's keys, where it gave any.
func (c *Client) check(v *Verdict, hash func() (digest.SHA256, error)) error {
	if len(c.o.Keys) == 0 {
		return nil
	}
	o := result.EAROptions{Keys: c.o.Keys, AllowDevelopment: c.o.AllowDevelopment}
	if c.o.Clock != nil {
		o.Now = c.o.Clock()
	}
	want, err := hash()
	var e *result.EAR
	if err == nil {
		e, err = result.VerifyEAR(v.EAR, o)
	}
	if err == nil && e.EvidenceSHA256 != want {
		err = fault.Mismatch(fault.ExitRefused, "verdict.evidence", "the verdict's evidence", want.String(), e.EvidenceSHA256.String(), "ask another verifier")
	}
	if err == nil {
		err = e.OpenChecks(v.Checks)
	}
	if err != nil {
		return err
	}
	v.Claims = e
	return nil
}

// Foreign has recorded evidence of a machine that is none of ours appraised, at
// a time (zero: the present). The result is never accepted: see its Failed.
func (c *Client) Foreign(ctx context.Context, bundle []byte, at time.Time) (*result.Result, error) {
	in := &verifierv1.AppraiseRequest{Evidence: bundle, Foreign: true}
	if !at.IsZero() {
		in.At = timestamppb.New(at)
	}
	m, err := call(ctx, c, c.rpc.Appraise, in)
	if err != nil {
		return nil, err
	}
	r, err := wire.ReadResult(m.Result)
	if err != nil {
		return nil, badResponse(err)
	}
	if !r.Foreign || r.Accepted || m.Accepted || m.Ear != "" || len(m.Checks) > 0 || m.Cell != "" {
		return nil, badResponse(fmt.Errorf("a verdict on foreign evidence"))
	}
	return r, nil
}

// Stored returns a verdict again that the service gave; its Result is nil.
func (c *Client) Stored(ctx context.Context, evidenceHash digest.SHA256) (*Verdict, error) {
	m, err := call(ctx, c, c.rpc.GetVerdict, &verifierv1.GetVerdictRequest{EvidenceSha256: evidenceHash.String()})
	if err != nil {
		return nil, err
	}
	v := &Verdict{EAR: m.Ear, Checks: m.Checks, Cell: m.Cell, Promise: m.Promise}
	return v.unless(c.check(v, func() (digest.SHA256, error) { return evidenceHash, nil }))
}

// Logged is Stored with the proof that the verdict is in the verifier's log.
// The service waits for it at most two seconds.
func (c *Client) Logged(ctx context.Context, evidenceHash digest.SHA256) (*Verdict, error) {
	m, err := call(ctx, c, c.rpc.GetVerdict, &verifierv1.GetVerdictRequest{EvidenceSha256: evidenceHash.String(), Inclusion: true})
	if err != nil {
		return nil, err
	}
	v := &Verdict{EAR: m.Ear, Checks: m.Checks, Cell: m.Cell, Promise: m.Promise, Inclusion: m.Inclusion}
	return v.unless(c.check(v, func() (digest.SHA256, error) { return evidenceHash, nil }))
}

// Manifests returns the manifests that the service accepts.
func (c *Client) Manifests(ctx context.Context) ([]result.ManifestRef, error) {
	m, err := call(ctx, c, c.rpc.Manifests, &verifierv1.ManifestsRequest{})
	if err != nil {
		return nil, err
	}
	var out []result.ManifestRef
	for _, r := range m.Manifests {
		d, err := digest.Parse256(r.Sha256)
		if err != nil {
			return nil, badResponse(err)
		}
		out = append(out, result.ManifestRef{SHA256: d, Name: r.Name, Version: r.Version})
	}
	return out, nil
}

// Manifest returns the manifest with this hash, and the proof of a log that the
// service has of it. The service is not trusted: an envelope with another payload
// is an error. Whether the hash is one to trust, and what the proof shows, is the
// caller's affair.
func (c *Client) Manifest(ctx context.Context, hash digest.SHA256) (manifest.Published, error) {
	var none manifest.Published
	m, err := call(ctx, c, c.rpc.GetManifest, &verifierv1.GetManifestRequest{Sha256: hash.String()})
	if err != nil {
		return none, err
	}
	v, err := manifest.Read(m.Envelope, nil)
	if err != nil {
		return none, fault.New(fault.ExitParse, "verifier.response", "ask another verifier", "reading the verifier's answer: %w", err)
	}
	if v.SHA256 != hash {
		return none, fault.Mismatch(fault.ExitRefused, "manifest.hash", "the manifest's hash", hash.String(), v.SHA256.String(), "ask another verifier")
	}
	if len(m.Inclusion) > log.MaxProof {
		m.Inclusion = nil // it is no proof, and would be kept and handed on
	}
	return manifest.Published{Envelope: m.Envelope, Inclusion: m.Inclusion}, nil
}

// Info returns what the service says of itself. Its keys are a claim: pin them
// by another way.
func (c *Client) Info(ctx context.Context) (*wire.Info, error) {
	b, err := c.get(ctx, wire.PathInfo)
	if err != nil {
		return nil, err
	}
	var out wire.Info
	if err := jcs.Decode(b, MaxResponse, &out); err != nil {
		return nil, badResponse(err)
	}
	return &out, nil
}

// Own returns what the service says of itself with the evidence of its machine,
// which is over all of this, and over each of the keys that the caller pinned,
// and of the last self.MaxAge by the caller's clock. What it is worth is for
// appraise.AppraiseVerifier to say: here nobody has looked at who signed it.
func (c *Client) Own(ctx context.Context) (*wire.Info, *self.Document, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !self.Is(info.Evidence) {
		return nil, nil, fault.New(fault.ExitRefused, self.CodeAbsent, "ask a verifier that runs in a TEE and shows it (evidence: tee)", "looking for the verifier's own evidence: it shows none that binds its keys")
	}
	d, err := self.Parse(info.Evidence)
	if err != nil {
		return nil, nil, err
	}
	clock := c.o.Clock
	if clock == nil {
		clock = time.Now
	}
	if err := errors.Join(d.Bound(info, c.o.Keys...), d.Fresh(clock())); err != nil {
		return nil, nil, err
	}
	return info, d, nil
}

// Healthy returns nil if the service answers.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := c.get(ctx, wire.PathHealth)
	return err
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxResponse+1))
	if err != nil {
		return nil, unreachable(err)
	}
	if len(b) > MaxResponse {
		return nil, badResponse(fmt.Errorf("more than %d bytes", MaxResponse))
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.ExitNetwork, "verifier.response", "check that the address is a verifier's", "calling verifier: HTTP status %d", resp.StatusCode)
	}
	return b, nil
}
