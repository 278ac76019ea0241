// Package modelowner is the owner's side of encrypted model packs: it releases
// a pack's key to enclaves that the owner's policy accepts, and to nobody else
// (package ratls/modelkey has the exchange). In go key files, an appraisal and a
// log; out comes an HTTP handler.
package modelowner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/modelpack"
	"cocoon/ratls/envelope"
	"cocoon/ratls/modelkey"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// ChallengeLife is how long an enclave has for evidence.
const ChallengeLife = 5 * time.Minute

// maxPayout bounds the payout address of claims, in bytes.
const maxPayout = 256

// Held is a key and the pack that it opens.
type Held struct {
	Pack string // MODEL@REVISION:ROOT
	Key  modelpack.Key
}

// Options of an Owner.
type Options struct {
	Keys []Held
	// Appraise holds evidence, which must answer the challenge, against the
	// owner's policy and published measurements. client.Trust.Fresh is one.
	Appraise func(ctx context.Context, ev *evidence.Evidence, hash, challenge digest.SHA256) (*result.Result, error)
	Journal  *Journal
	Clock    func() time.Time // nil: time.Now
	Log      *slog.Logger
	// Released is told of each release, after it is in the journal; nil: nobody.
	Released func(Release)
}

// Owner decides about requests. Its methods may be called at the same time.
type Owner struct {
	o          Options
	keys       map[name]*Held
	challenges *challenges
}

// name is what an enclave knows of a key.
type name struct{ root, key digest.SHA256 }

// New returns an Owner. Two keys of one pack may be held, not one key twice.
func New(o Options) (*Owner, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	begin := time.Now()
	c, err := newChallenges(func() time.Duration { return time.Since(begin) })
	if err != nil {
		return nil, err
	}
	w := &Owner{o: o, keys: map[name]*Held{}, challenges: c}
	for _, h := range o.Keys {
		_, _, root, err := modelpack.ParseID(h.Pack)
		if err != nil {
			return nil, err
		}
		n := name{root, h.Key.ID()}
		if w.keys[n] != nil {
			return nil, fault.New(fault.ExitInternal, "usage", "give each key once", "reading keys: that of %s is given twice", h.Pack)
		}
		w.keys[n] = &h
	}
	if len(w.keys) == 0 {
		return nil, fault.New(fault.ExitInternal, "usage", "give a key file", "reading keys: there is none")
	}
	return w, nil
}

// Offer answers a Hello.
func (w *Owner) Offer(hello []byte) ([]byte, error) {
	if _, err := modelkey.ParseHello(hello); err != nil {
		return nil, err
	}
	c, err := w.challenges.issue()
	if err != nil {
		return nil, err
	}
	return modelkey.Encode(&modelkey.Offer{Format: modelkey.Format, Challenge: c})
}

// Release decides about an Ask and answers it; from is for the log. It is the
// one place that lets a model's key out (DESIGN section 2: everything fails
// closed). The enclave must be accepted by the owner's policy, which knows
// manifests, trust classes and revocation, for a challenge of this service that
// was not used; its measured config must name this pack and key; and the key
// that it goes to is the one that the attested receipt key signed for this
// purpose, challenge and evidence (package envelope). The release is on disk
// before the key leaves.
func (w *Owner) Release(ctx context.Context, askDoc []byte, from string) ([]byte, error) {
	ask, err := modelkey.ParseAsk(askDoc)
	if err != nil {
		return nil, err
	}
	req, err := envelope.ParseRequest(ask.Request)
	if err != nil {
		return nil, err
	}
	if err := w.challenges.check(req.Challenge); err != nil {
		return nil, err
	}
	held := w.keys[name{ask.Root, ask.KeySHA256}]
	if held == nil {
		return nil, fault.New(fault.ExitRefused, modelkey.CodeUnknown, "give the service the key file of this pack, or correct the model in config.json",
			"looking for the key %s of the pack with root %s: there is none here", ask.KeySHA256, ask.Root)
	}
	ev, hash, err := evidence.ParseHashed(ask.Evidence)
	if err != nil {
		return nil, fault.New(fault.ExitParse, modelkey.CodeMessage, "use releases that know the same evidence on both sides", "reading evidence: %w", err)
	}
	res, err := w.o.Appraise(ctx, ev, hash, req.Challenge)
	if err != nil {
		return nil, fmt.Errorf("appraising the enclave: %w", err)
	}
	if err := res.Err(); err != nil || !res.Accepted {
		return nil, errors.Join(fault.New(fault.ExitPolicy, modelkey.CodeRefused, "see the failed checks", "appraising the enclave: its evidence is not accepted"), err)
	}
	if err := names(ev, res, ask); err != nil {
		return nil, err
	}
	h := envelope.Holder{Purpose: envelope.PurposeModelKey, Challenge: req.Challenge, Result: res, Now: w.o.Clock()}
	sealed, err := h.Seal(ask.Request, held.Key[:], ask.Bound(res.Claims.ConfigSHA256))
	if err != nil {
		return nil, err
	}
	// Not before: whoever is refused must not be able to use up what is another's.
	if err := w.challenges.use(req.Challenge); err != nil {
		return nil, err
	}
	r := Release{Time: h.Now.UTC().Format(time.RFC3339), Pack: held.Pack, KeySHA256: ask.KeySHA256, TrustClass: res.TrustClass, Policy: res.PolicySHA256,
		Evidence: res.EvidenceSHA256, Config: res.Claims.ConfigSHA256, ReceiptKey: res.Claims.ReceiptKey, Payout: res.Claims.Payout, From: from}
	if m := res.Manifest; m != nil {
		r.Manifest, r.Image, r.Version = m.SHA256, m.Name, m.Version
	}
	if err := w.o.Journal.Append(r); err != nil {
		return nil, err
	}
	if w.o.Released != nil {
		w.o.Released(r)
	}
	return modelkey.Encode(&modelkey.Grant{Format: modelkey.Format, Envelope: sealed})
}

// names checks that the config of accepted evidence, which the guest measured,
// has the guest load this pack with this key, be it one of several: an enclave that
// serves other models alone has no use for it.
func names(ev *evidence.Evidence, res *result.Result, ask *modelkey.Ask) error {
	if len(res.Claims.Payout) > maxPayout {
		return fault.New(fault.ExitRefused, modelkey.CodeMessage, "write a TON address", "reading evidence: a payout address of %d bytes", len(res.Claims.Payout))
	}
	for _, m := range ev.Config.ServedModels() {
		if m.Verity.Root == ask.Root && m.KeySHA256 != nil && *m.KeySHA256 == ask.KeySHA256 {
			return nil
		}
	}
	return fault.New(fault.ExitRefused, modelkey.CodeConfig, "name root and key_sha256 of the pack in config.json, as cocoon model show prints them",
		"reading evidence: its config does not load the pack with root %s under key %s", ask.Root, ask.KeySHA256)
}
