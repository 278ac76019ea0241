// Package client is the Go client of a verifier service (docs/verifier-api.md).
// It carries documents and turns problems into faults; a verdict is believed
// only if result.VerifyEAR accepts it under keys that the caller pins.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/api"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// MaxResponse bounds a response, in bytes.
const MaxResponse = 4 << 20

// DefaultTimeout bounds one request where Options.HTTP is nil.
const DefaultTimeout = 60 * time.Second

// Options of a Client.
type Options struct {
	BaseURL string       // for example "http://127.0.0.1:8443"
	HTTP    *http.Client // nil: a client with DefaultTimeout that follows no redirects
}

// Client talks to one verifier.
type Client struct {
	base *url.URL
	http *http.Client
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
	c := o.HTTP
	if c == nil {
		c = &http.Client{
			Timeout:       DefaultTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &Client{base: u, http: c}, nil
}

// Challenge asks for a contribution to the nonce of evidence.
func (c *Client) Challenge(ctx context.Context) (*api.Challenge, error) {
	return call[api.Challenge](ctx, c, http.MethodPost, api.PathChallenge, nil)
}

// Enroll starts the enrolment of an attestation key.
func (c *Client) Enroll(ctx context.Context, in *api.EnrollRequest) (*api.EnrollResponse, error) {
	return call[api.EnrollResponse](ctx, c, http.MethodPost, api.PathEnroll, in)
}

// Activate ends an enrolment with the recovered credential and returns the
// attestation key's certificate chain.
func (c *Client) Activate(ctx context.Context, in *api.ActivateRequest) (*api.ActivateResponse, error) {
	return call[api.ActivateResponse](ctx, c, http.MethodPost, api.PathActivate, in)
}

// Verify sends evidence and returns the verdict. A refusal is an error whose
// tree holds a fault for each failed check; Refusal finds its result.
func (c *Client) Verify(ctx context.Context, ev *evidence.Evidence) (*api.Verdict, error) {
	b, err := ev.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	return c.VerifyBytes(ctx, b)
}

// VerifyBytes is Verify for encoded evidence.
func (c *Client) VerifyBytes(ctx context.Context, ev []byte) (*api.Verdict, error) {
	return call[api.Verdict](ctx, c, http.MethodPost, api.PathVerify, raw{ev, evidence.MediaType})
}

// Keys returns the service's public keys. They are a claim: pin them by
// another way.
func (c *Client) Keys(ctx context.Context) (*api.Keys, error) {
	return call[api.Keys](ctx, c, http.MethodGet, api.PathKeys, nil)
}

// Manifests returns the manifests that the service accepts.
func (c *Client) Manifests(ctx context.Context) (*api.Manifests, error) {
	return call[api.Manifests](ctx, c, http.MethodGet, api.PathManifests, nil)
}

// Manifest returns the envelope of the manifest with this hash (GET
// /v1/manifests/{sha256}). The service is not trusted: an envelope with another
// payload is an error. Whether the hash is one to trust is the caller's affair.
func (c *Client) Manifest(ctx context.Context, hash digest.SHA256) ([]byte, error) {
	var env json.RawMessage
	if err := c.do(ctx, http.MethodGet, api.PathManifests+"/"+hash.String(), nil, &env); err != nil {
		return nil, err
	}
	v, err := manifest.Read(env, nil)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "verifier.response", "ask another verifier", "reading the verifier's answer: %w", err)
	}
	if v.SHA256 != hash {
		return nil, fault.Mismatch(fault.ExitRefused, "manifest.hash", "the manifest's hash", hash.String(), v.SHA256.String(), "ask another verifier")
	}
	return env, nil
}

// Healthy returns nil if the service answers.
func (c *Client) Healthy(ctx context.Context) error {
	return c.do(ctx, http.MethodGet, api.PathHealth, nil, nil)
}

// call does one request and decodes its answer.
func call[T any](ctx context.Context, c *Client, method, path string, in any) (*T, error) {
	var out T
	if err := c.do(ctx, method, path, in, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// raw is a request body that is sent as it is.
type raw struct {
	body []byte
	typ  string
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	typ := ""
	switch v := in.(type) {
	case nil:
	case raw:
		body, typ = bytes.NewReader(v.body), v.typ
	default:
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding request: %w", err)
		}
		body, typ = bytes.NewReader(b), "application/json"
	}
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return fmt.Errorf("making request: %w", err)
	}
	if typ != "" {
		req.Header.Set("Content-Type", typ)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fault.New(fault.ExitNetwork, "verifier.unreachable",
			"check that the verifier runs and that its address is right", "calling verifier: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxResponse+1))
	if err != nil {
		return fault.New(fault.ExitNetwork, "verifier.unreachable", "try again", "reading the verifier's answer: %w", err)
	}
	if len(b) > MaxResponse {
		return fault.New(fault.ExitParse, "verifier.response", "check that the address is a verifier's",
			"reading the verifier's answer: more than %d bytes", MaxResponse)
	}
	if resp.StatusCode != http.StatusOK {
		return problem(resp, b)
	}
	if out == nil {
		return nil
	}
	if err := jcs.Decode(b, MaxResponse, out); err != nil {
		return fault.New(fault.ExitParse, "verifier.response", "check that client and verifier are of one version",
			"reading the verifier's answer: %w", err)
	}
	return nil
}

// problem turns an error response into an error.
func problem(resp *http.Response, body []byte) error {
	typ, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var p api.Problem
	if typ != "application/problem+json" || jcs.Decode(body, MaxResponse, &p) != nil || p.Code == "" {
		return fault.New(fault.ExitNetwork, "verifier.response", "check that the address is a verifier's",
			"calling verifier: HTTP status %d", resp.StatusCode)
	}
	return &ProblemError{Problem: p}
}

// ProblemError is an error that the verifier answered with.
type ProblemError struct{ Problem api.Problem }

// Error names the problem and its faults.
func (e *ProblemError) Error() string {
	s := e.Problem.Title
	for i, f := range e.Unwrap() {
		if i == 0 {
			s += ":"
		}
		s += " " + f.Error() + ";"
	}
	return "verifier: " + strings.TrimSuffix(s, ";")
}

// Unwrap returns the faults.
func (e *ProblemError) Unwrap() []error {
	var out []error
	for _, f := range e.Problem.Faults {
		exit := f.Exit
		// The service is not trusted to call a refusal a success.
		if exit < fault.ExitInternal || exit > fault.ExitDevOnly {
			exit = fault.ExitRefused
		}
		out = append(out, &fault.Fault{Code: f.Code, Exit: exit, Msg: f.Message, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy})
	}
	if len(out) == 0 {
		out = append(out, &fault.Fault{Code: e.Problem.Code, Exit: fault.ExitRefused, Msg: e.Problem.Title})
	}
	return out
}

// Refusal returns the result of refused evidence that err carries, or nil.
func Refusal(err error) *result.Result {
	var p *ProblemError
	if errors.As(err, &p) {
		return p.Problem.Result
	}
	return nil
}
