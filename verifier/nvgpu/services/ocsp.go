package services

import (
	"context"
	"crypto/x509"
	"log/slog"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/fetch"
	"cocoon/verifier/nvgpu/ocsp"
)

// OCSP returns the status of a certificate that issuer issued. With a nonce
// the responder itself is asked and must echo it; without, an answer may come
// out of the cache and its own validity bounds it. A certificate that is not
// good is no error: see Response.Err.
//
// Errors carry faults: rim.service.* and ocsp.refused (exit 3), those of
// ocsp.Verify.
func (c *Client) OCSP(ctx context.Context, cert, issuer *x509.Certificate, nonce []byte) (*ocsp.Response, error) {
	der, err := ocsp.NewRequest(cert, issuer, nonce)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "ocsp.request", "", "%w", err)
	}
	raw, _, err := c.rawOCSP(ctx, der, c.signed(cert, issuer))
	if err != nil {
		return nil, err
	}
	return ocsp.Verify(raw, cert, issuer, &ocsp.Options{Now: c.opts.Clock(), Nonce: nonce})
}

// signed says of answers whether they verify. One that another replica fetched is
// not taken for the responder's without: it would stand in the way of that.
func (c *Client) signed(cert, issuer *x509.Certificate) func([]byte) bool {
	return func(raw []byte) bool {
		_, err := ocsp.Verify(raw, cert, issuer, &ocsp.Options{Now: c.opts.Clock()})
		return err == nil
	}
}

// rawOCSP returns the answer to a request in DER. It answers the request's
// certificate; nothing else is verified of the responder's, since the issuer is
// not known here. Other replicas' are taken where signed says so; nil: none.
func (c *Client) rawOCSP(ctx context.Context, der []byte, signed func([]byte) bool) ([]byte, Origin, error) {
	req, err := ocsp.ParseRequest(der)
	if err != nil {
		return nil, Origin{}, err
	}
	if req.Nonce != nil {
		if c.opts.Offline {
			return nil, Origin{}, fault.New(fault.ExitNetwork, "rim.service.offline", "do not demand the nonce where there is no network", "asking OCSP responder: offline")
		}
		e, err := c.fetchOCSP(ctx, der, req.Key())
		if err != nil {
			return nil, Origin{}, err
		}
		return e.Data, Origin{}, nil
	}
	key := "ocsp " + req.Key()
	now := c.opts.Clock()
	believed := func(e *entry) bool { return signed != nil && validOCSP(e.Data, req.Key(), now) && signed(e.Data) }
	have := c.heldOCSP(key, func(e *entry) bool {
		if e.common {
			return believed(e)
		}
		return validOCSP(e.Data, req.Key(), now)
	})
	if have != nil && fresh(have.Fetched, now, c.opts.OCSPTTL) {
		return have.Data, Origin{Held: true}, nil
	}
	e, err := c.once(ctx, key, func(ctx context.Context) (*entry, error) {
		if e := c.fresher(key, c.opts.OCSPTTL, func(e *entry) bool { return believed(e) && !older(e.Data, have) }); e != nil {
			return e, nil
		}
		e, err := c.fetchOCSP(ctx, der, req.Key())
		if err != nil {
			return nil, err
		}
		if older(e.Data, have) {
			e.Data = have.Data
		}
		if validOCSP(e.Data, req.Key(), now) {
			share := time.Duration(0)
			if c.common != nil && signed != nil && signed(e.Data) { // others need not find that it is not
				share = c.opts.OCSPTTL
			}
			c.keep(key, e, share)
		}
		return e, nil
	})
	if err == nil {
		return e.Data, Origin{}, nil
	}
	if have != nil {
		c.log.LogAttrs(ctx, slog.LevelWarn, "OCSP responder did not answer, using what is held", slog.Any("error", err))
		return have.Data, Origin{Held: true, Refresh: err}, nil
	}
	return nil, Origin{}, err
}

// heldOCSP returns the answer of a key that is held and good, or nil: the one that
// was fetched last, unless another was made later.
func (c *Client) heldOCSP(key string, good func(*entry) bool) *entry {
	var best *entry
	for _, e := range c.candidates(key) {
		if good(e) && (best == nil || older(best.Data, e)) {
			best = e
		}
	}
	if best != nil && best.common {
		best = c.believe(key, best)
	}
	return best
}

func (c *Client) fetchOCSP(ctx context.Context, der []byte, key string) (*entry, error) {
	r, ferr := c.get.Do(ctx, fetch.Request{URL: c.ocsp, Body: der, Type: ocsp.RequestType, Accept: ocsp.ResponseType, Limit: ocsp.MaxResponse})
	if ferr != nil {
		return nil, ferr
	}
	_, got, err := ocsp.Peek(r.Body)
	if err != nil {
		return nil, err
	}
	if got != key {
		f := fault.New(fault.ExitRefused, "ocsp.cert_id", "ask NVIDIA's responder, or another cache", "asking OCSP responder: the answer is about another certificate")
		f.Expected, f.Actual = key, got
		return nil, f
	}
	return &entry{Fetched: c.opts.Clock(), Data: r.Body}, nil
}

// validOCSP reports whether an answer may be kept: it is about the
// certificate of key and current. That it says "unknown" is not kept.
func validOCSP(der []byte, key string, now time.Time) bool {
	r, got, err := ocsp.Peek(der)
	return err == nil && got == key && r.Status != ocsp.Unknown && now.Before(r.NextUpdate)
}

// older reports whether an answer was made before the one that is held.
func older(der []byte, have *entry) bool {
	if have == nil {
		return false
	}
	a, _, err := ocsp.Peek(der)
	b, _, herr := ocsp.Peek(have.Data)
	return err == nil && herr == nil && a.ThisUpdate.Before(b.ThisUpdate)
}
