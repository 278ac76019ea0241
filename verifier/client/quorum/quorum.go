// Package quorum asks several verifiers for a verdict on the same evidence and
// counts who agrees (DESIGN section 2, "no single point decides"): evidence and
// the verifiers' keys come in, and k verdicts under different keys that say the
// same go out, or the reason why there are not that many. Each verdict is
// verified here; no service is believed.
package quorum

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// MaxVerifiers bounds how many verifiers are asked.
const MaxVerifiers = 16

// Options of Ask. Verifiers, Keys and Need are needed.
type Options struct {
	Verifiers        []string            // base URLs, at most MaxVerifiers
	Keys             []ed25519.PublicKey // of verifiers that the caller trusts
	Need             int                 // how many with different keys must agree
	AllowDevelopment bool                // take verdicts of the development classes
	Now              time.Time           // for the verdicts' dates; zero: the present
	HTTP             *http.Client        // nil: that of package client
}

// Agreed is what verifiers must agree on: the contents of the common cell
// (DESIGN section 4, verdict) that an EAR states. Network and registry are in
// the config, which the evidence's hash covers.
type Agreed struct {
	TrustClass string        `json:"trust_class"`
	ReceiptKey digest.SHA256 `json:"receipt_key"`
	TLSKey     digest.SHA256 `json:"tls_spki_sha256"`
	Payout     string        `json:"payout"`
	Manifest   digest.SHA256 `json:"manifest"`
	ModelRoot  digest.SHA256 `json:"model_root"`
	Policy     digest.SHA256 `json:"policy_sha256"`
	Evidence   digest.SHA256 `json:"evidence_sha256"`
}

// Answer is one verifier's word. All but Verifier and Error is of a verdict that
// was verified.
type Answer struct {
	Verifier string      `json:"verifier"`
	KeyID    string      `json:"kid,omitempty"` // of the key that signed
	Agreed   *Agreed     `json:"agreed,omitempty"`
	EAR      string      `json:"ear,omitempty"`
	Checks   []byte      `json:"checks,omitempty"`
	Claims   *result.EAR `json:"claims,omitempty"`
	Error    string      `json:"error,omitempty"`

	Err error `json:"-"` // of which Error is the text; nil: there is a verdict
}

// Outcome is what all verifiers said.
type Outcome struct {
	Answers []Answer // one for each of Options.Verifiers, in their order
	Agree   []Answer // the largest group that says the same, one for each key
}

// Ask sends evidence to all verifiers at once. The evidence must answer a
// challenge of each. Where fewer than Need agree the error has what each of the
// others said, and code verdict.quorum where those that gave a verdict are too
// few; the outcome is there in that case, too.
func Ask(ctx context.Context, doc []byte, o Options) (*Outcome, error) {
	if len(o.Verifiers) > MaxVerifiers || o.Need < 1 || o.Need > len(o.Verifiers) {
		return nil, fault.New(fault.ExitInternal, "usage", "see --help",
			"a quorum of %d of %d verifiers: want 1 to as many as there are, at most %d", o.Need, len(o.Verifiers), MaxVerifiers)
	}
	if len(o.Keys) == 0 {
		return nil, fault.New(fault.ExitInternal, "usage", "see --help", "no keys: a verdict is believed only under a key that you trust")
	}
	ev, err := evidence.Parse(doc)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "evidence.parse", "give the evidence as it was served", "%w", err)
	}
	hash, err := ev.Hash()
	if err != nil {
		return nil, fmt.Errorf("hashing evidence: %w", err)
	}
	out := &Outcome{Answers: make([]Answer, len(o.Verifiers))}
	var wg sync.WaitGroup
	for i, url := range o.Verifiers {
		wg.Go(func() { out.Answers[i] = ask(ctx, url, doc, hash, &o) })
	}
	wg.Wait()
	out.Agree = agreeing(out.Answers)
	return out, out.err(o.Need)
}

// ask has one verifier appraise evidence and verifies its verdict. The service
// is not trusted: what counts is the token, its key, and that it speaks of this
// evidence.
func ask(ctx context.Context, url string, doc []byte, hash digest.SHA256, o *Options) Answer {
	a := Answer{Verifier: url}
	failed := func(err error) Answer {
		a.Err, a.Error = err, err.Error()
		return a
	}
	c, err := client.New(client.Options{BaseURL: url, HTTP: o.HTTP})
	if err != nil {
		return failed(fault.New(fault.ExitInternal, "usage", "see --help", "%w", err))
	}
	v, err := c.VerifyBytes(ctx, doc)
	if err != nil {
		return failed(err)
	}
	believe := result.EAROptions{Keys: o.Keys, Now: o.Now, AllowDevelopment: o.AllowDevelopment}
	e, err := result.VerifyEAR(v.EAR, believe)
	if err == nil {
		err = e.OpenChecks(v.Checks)
	}
	if err != nil {
		return failed(err)
	}
	if e.EvidenceSHA256 != hash {
		return failed(fault.Mismatch(fault.ExitRefused, "verdict.evidence", "the verdict's evidence", hash.String(), e.EvidenceSHA256.String(), "ask another verifier"))
	}
	receipt, err := e.ReceiptKey()
	if err != nil {
		return failed(err)
	}
	a.EAR, a.Checks, a.Claims, a.KeyID = v.EAR, v.Checks, e, signer(v.EAR, believe)
	a.Agreed = &Agreed{e.TrustClass, receipt, e.TLSSPKISHA256, e.Payout, e.Manifest.SHA256, e.Model.VerityRoot, e.PolicySHA256, e.EvidenceSHA256}
	return a
}

// signer returns the id of the pinned key under which a token verifies.
func signer(token string, o result.EAROptions) string {
	for _, k := range o.Keys {
		one := o
		one.Keys = []ed25519.PublicKey{k}
		if _, err := result.VerifyEAR(token, one); err == nil {
			return result.KeyID(k)
		}
	}
	return ""
}

// agreeing returns the largest group of answers that agree, one for each key:
// who is asked twice, at one address or at two, counts once.
func agreeing(answers []Answer) []Answer {
	type vote struct {
		Agreed
		key string
	}
	seen := map[vote]bool{}
	groups := map[Agreed][]Answer{}
	var best []Answer
	for _, a := range answers {
		if a.Err != nil || a.KeyID == "" || seen[vote{*a.Agreed, a.KeyID}] {
			continue
		}
		seen[vote{*a.Agreed, a.KeyID}] = true
		g := append(groups[*a.Agreed], a)
		groups[*a.Agreed] = g
		if len(g) > len(best) {
			best = g
		}
	}
	return best
}

// err is nil where enough agree.
func (o *Outcome) err(need int) error {
	if len(o.Agree) >= need {
		return nil
	}
	var errs []error
	for _, a := range o.Answers {
		if a.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.Verifier, a.Err))
		}
	}
	if len(o.Agree) > 0 || len(errs) == 0 {
		q := fault.New(fault.ExitRefused, "verdict.quorum", "compare what the verifiers say (--json)", "asking verifiers: not enough of them agree under keys of their own")
		q.Expected, q.Actual = fmt.Sprint(need), fmt.Sprint(len(o.Agree))
		errs = append(errs, q)
	}
	return errors.Join(errs...)
}
