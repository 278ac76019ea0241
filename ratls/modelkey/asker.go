package modelkey

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/modelpack"
	"cocoon/ratls/envelope"
	"cocoon/verifier/wire"
)

// Asker is an enclave that asks for keys.
type Asker struct {
	URL  string       // base URL of the owner's service
	HTTP *http.Client // with a timeout, and following no redirects
	// Evidence returns this enclave's evidence document for a challenge.
	Evidence func(ctx context.Context, challenge digest.SHA256) ([]byte, error)
	Receipt  ed25519.PrivateKey // that the evidence claims
	Config   digest.SHA256      // of the measured config
}

// Ask gets the key of the pack with this root. key is its name in the measured
// config: no other key is taken, whoever sent it. The caller wipes it.
func (a *Asker) Ask(ctx context.Context, root, key digest.SHA256) (*modelpack.Key, error) {
	base, err := a.base()
	if err != nil {
		return nil, err
	}
	answer, err := a.post(ctx, base+PathChallenge, &Hello{Format: Format})
	if err != nil {
		return nil, err
	}
	offer, err := ParseOffer(answer)
	if err != nil {
		return nil, err
	}
	doc, err := a.Evidence(ctx, offer.Challenge)
	if err != nil {
		return nil, err
	}
	sealed, err := envelope.NewKey(envelope.PurposeModelKey, offer.Challenge, doc, a.Receipt)
	if err != nil {
		return nil, err
	}
	ask := &Ask{Format: Format, Root: root, KeySHA256: key, Evidence: doc, Request: sealed.Request()}
	if answer, err = a.post(ctx, base+PathRelease, ask); err != nil {
		return nil, err
	}
	grant, err := ParseGrant(answer)
	if err != nil {
		return nil, err
	}
	secret, err := sealed.Open(grant.Envelope, ask.Bound(a.Config))
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return a.named(secret, key)
}

// named takes the key of the measured config and nothing else: the one place
// where a model's key comes into an enclave (DESIGN section 2, nothing
// unmeasured decides anything). A key of the host's choice would open a pack of
// the host's choice; dm-verity refuses that one, too.
func (a *Asker) named(secret []byte, want digest.SHA256) (*modelpack.Key, error) {
	const remedy = "have the owner's service release the key of the pack that the config names"
	if len(secret) != modelpack.KeySize {
		return nil, fault.Mismatch(fault.ExitRefused, CodeMismatch, "the size of the model's key", fmt.Sprint(modelpack.KeySize), fmt.Sprint(len(secret)), remedy)
	}
	k := modelpack.Key(secret)
	if got := k.ID(); got != want {
		clear(k[:])
		return nil, fault.Mismatch(fault.ExitRefused, CodeMismatch, "the model's key", want.String(), got.String(), remedy)
	}
	return &k, nil
}

func (a *Asker) base() (string, error) {
	u, err := url.Parse(a.URL)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		err = fmt.Errorf("%.128q is not http(s)://host[:port][/path]", a.URL)
	}
	if err != nil {
		return "", fault.New(fault.ExitParse, CodeNone, "write the URL of the model owner's service into operator.json: model_keys", "reading the key service's address: %w", err)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// post sends a message and returns the answer to it.
func (a *Asker) post(ctx context.Context, to string, m any) ([]byte, error) {
	away := func(err error) error {
		return fault.New(fault.ExitNetwork, CodeAway, "see that the model owner's service runs and that the guest's way to it (model_keys, forwards) leads there", "asking for the model's key: %w", err)
	}
	body, err := Encode(m)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking for the model's key: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	rsp, err := a.HTTP.Do(req)
	if err != nil {
		return nil, away(err)
	}
	defer rsp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(rsp.Body, MaxAnswer+1))
	if err != nil {
		return nil, away(err)
	}
	if len(answer) > MaxAnswer {
		return nil, fault.New(fault.ExitParse, CodeMessage, remedyRelease, "reading answer: more than %d bytes", MaxAnswer)
	}
	switch {
	case rsp.StatusCode == http.StatusOK:
		return answer, nil
	case rsp.StatusCode >= 500: // worth another try
		return nil, errors.Join(away(fmt.Errorf("it answers with status %d", rsp.StatusCode)), problem(answer, fault.ExitNetwork))
	}
	why := problem(answer, fault.ExitRefused)
	if why == nil {
		return nil, away(fmt.Errorf("it answers with status %d, as no key service does", rsp.StatusCode))
	}
	return nil, errors.Join(fault.New(fault.ExitRefused, CodeRefused, "see what the owner's service says, below", "asking for the model's key: the owner does not release it"), why)
}

// Bounds on what a service says of its refusal: anybody may be at its address,
// and it goes to the console.
const (
	maxFaults = 16
	maxText   = 256
)

// problem reads why a service refuses; nil where it does not say. Whether to try
// again is the status' word, so the faults' exit codes are not the service's.
func problem(b []byte, exit int) error {
	var p wire.Problem
	if err := jcs.Decode(b, MaxAnswer, &p); err != nil || len(p.Faults) == 0 {
		return nil
	}
	var errs []error
	for _, f := range p.Faults[:min(len(p.Faults), maxFaults)] {
		errs = append(errs, &fault.Fault{Exit: exit, Code: text(f.Code), Msg: "owner: " + text(f.Message), Expected: text(f.Expected), Actual: text(f.Actual), Remedy: text(f.Remedy)})
	}
	return errors.Join(errs...)
}

// text cuts what is too long, and shows what is not printable ASCII as "?".
func text(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), maxText)])
}
