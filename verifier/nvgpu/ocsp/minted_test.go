package ocsp_test

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/ocsp"
	"cocoon/verifier/nvgpu/rimtest"
)

func TestMintedAnswersGiveTheirVerdict(t *testing.T) {
	p, err := rimtest.NewPKI()
	if err != nil {
		t.Fatal(err)
	}
	issue := func(parent *rimtest.Authority, pr rimtest.Profile) *rimtest.Authority {
		a, err := rimtest.Issue(parent, pr)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	signing := []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	leaf := issue(p.L3, rimtest.Profile{Name: "leaf"})
	nonce := bytes.Repeat([]byte{3}, 32)
	now := rimtest.Now
	cache := ocsp.NewCache() // changes nothing, whatever was verified before
	for name, c := range map[string]struct {
		answer rimtest.Answer
		opts   ocsp.Options
		want   string // fault; else the status
		status ocsp.Status
	}{
		"good":                            {rimtest.Answer{}, ocsp.Options{}, "", ocsp.Good},
		"good, signed by the issuer":      {rimtest.Answer{Responder: p.L3}, ocsp.Options{}, "", ocsp.Good},
		"good, responder by name":         {rimtest.Answer{ByName: true}, ocsp.Options{}, "", ocsp.Good},
		"good, with the nonce":            {rimtest.Answer{Nonce: nonce}, ocsp.Options{Nonce: nonce}, "", ocsp.Good},
		"good, nonce not demanded":        {rimtest.Answer{Nonce: nonce}, ocsp.Options{}, "", ocsp.Good},
		"revoked":                         {rimtest.Answer{Status: "revoked"}, ocsp.Options{}, "", ocsp.Revoked},
		"on hold":                         {rimtest.Answer{Status: "hold"}, ocsp.Options{}, "", ocsp.Hold},
		"unknown":                         {rimtest.Answer{Status: "unknown"}, ocsp.Options{}, "", ocsp.Unknown},
		"another nonce":                   {rimtest.Answer{Nonce: nonce[:31]}, ocsp.Options{Nonce: nonce}, "ocsp.nonce", ""},
		"no nonce where one is demanded":  {rimtest.Answer{}, ocsp.Options{Nonce: nonce}, "ocsp.nonce", ""},
		"expired":                         {rimtest.Answer{This: now.Add(-25 * time.Hour)}, ocsp.Options{}, "ocsp.validity", ""},
		"expired this moment":             {rimtest.Answer{This: now.Add(-time.Hour), Next: now}, ocsp.Options{}, "ocsp.validity", ""},
		"an hour old, no next update":     {rimtest.Answer{This: now.Add(-time.Hour), NoNext: true}, ocsp.Options{}, "ocsp.validity", ""},
		"a minute old, no next update":    {rimtest.Answer{This: now.Add(-time.Minute), NoNext: true}, ocsp.Options{}, "", ocsp.Good},
		"from the future":                 {rimtest.Answer{This: now.Add(2 * time.Minute)}, ocsp.Options{}, "ocsp.validity", ""},
		"ends before it begins":           {rimtest.Answer{This: now, Next: now.Add(-time.Hour)}, ocsp.Options{}, "ocsp.validity", ""},
		"older than wanted":               {rimtest.Answer{This: now.Add(-2 * time.Hour)}, ocsp.Options{MaxAge: time.Hour}, "ocsp.validity", ""},
		"an unknown critical extension":   {rimtest.Answer{Critical: true}, ocsp.Options{}, "ocsp.parse", ""},
		"a responder not appointed":       {rimtest.Answer{Responder: issue(p.L3, rimtest.Profile{Name: "no EKU"})}, ocsp.Options{}, "ocsp.responder", ""},
		"a responder of another CA":       {rimtest.Answer{Responder: issue(p.CA, rimtest.Profile{Name: "other CA", EKU: signing})}, ocsp.Options{}, "ocsp.responder", ""},
		"the leaf itself":                 {rimtest.Answer{Responder: leaf}, ocsp.Options{}, "ocsp.responder", ""},
		"a responder that signed itself":  {rimtest.Answer{Responder: issue(nil, rimtest.Profile{Name: p.L3.Cert.Subject.CommonName, EKU: signing})}, ocsp.Options{}, "ocsp.responder", ""},
		"a responder that expired":        {rimtest.Answer{Responder: issue(p.L3, rimtest.Profile{Name: "old", EKU: signing, To: now.Add(-time.Hour)})}, ocsp.Options{}, "ocsp.responder", ""},
		"a responder below the responder": {rimtest.Answer{Responder: issue(issue(p.L3, rimtest.Profile{Name: "mid", CA: true}), rimtest.Profile{Name: "below", EKU: signing})}, ocsp.Options{}, "ocsp.responder", ""},
	} {
		t.Run(name, func(t *testing.T) {
			der, err := rimtest.OCSP(leaf.Cert, p.L3, c.answer)
			if err != nil {
				t.Fatal(err)
			}
			c.opts.Now, c.opts.Cache = now, cache
			_, first := ocsp.Verify(der, leaf.Cert, p.L3.Cert, &c.opts)
			r, err := ocsp.Verify(der, leaf.Cert, p.L3.Cert, &c.opts)
			if (first == nil) != (err == nil) {
				t.Errorf("the first time %v, the second %v", first, err)
			}
			if c.want != "" {
				if r != nil || !fault.Has(err, c.want) {
					t.Errorf("got %+v, %v, want %s", r, err, c.want)
				}
				return
			}
			if err != nil || r.Status != c.status {
				t.Fatalf("got %+v, %v, want %s", r, err, c.status)
			}
			if got := r.Err(); (got == nil) != (c.status == ocsp.Good) || (got != nil && !fault.Has(got, "ocsp."+string(c.status))) {
				t.Errorf("error of the status: %v", got)
			}
			if (c.status == ocsp.Revoked || c.status == ocsp.Hold) == r.RevokedAt.IsZero() {
				t.Errorf("revoked at %v", r.RevokedAt)
			}
		})
	}
	other := issue(p.L3, rimtest.Profile{Name: "other leaf"})
	der, err := rimtest.OCSP(other.Cert, p.L3, rimtest.Answer{This: now.Add(-48 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = ocsp.Verify(der, leaf.Cert, p.L3.Cert, &ocsp.Options{Now: now, Nonce: nonce})
	for _, code := range []string{"ocsp.cert_id", "ocsp.validity", "ocsp.nonce"} {
		if !fault.Has(err, code) {
			t.Errorf("three faults at once: %s is missing in %v", code, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
}

// TestAnAnswerEndsWithTheFirstOfItsBounds has each of them end first in turn.
func TestAnAnswerEndsWithTheFirstOfItsBounds(t *testing.T) {
	p, err := rimtest.NewPKI()
	if err != nil {
		t.Fatal(err)
	}
	issue := func(pr rimtest.Profile) *rimtest.Authority {
		a, err := rimtest.Issue(p.L3, pr)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	leaf, now := issue(rimtest.Profile{Name: "leaf"}), rimtest.Now
	end, ago := now.Add(10*time.Minute), now.Add(-time.Hour)
	short := issue(rimtest.Profile{Name: "short", EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, To: end})
	for name, c := range map[string]struct {
		answer rimtest.Answer
		maxAge time.Duration
		want   time.Time
	}{
		"next update":            {rimtest.Answer{This: ago, Next: end}, 24 * time.Hour, end},
		"no next update":         {rimtest.Answer{This: now.Add(-time.Minute), NoNext: true}, 0, now.Add(-time.Minute).Add(ocsp.DefaultValidity)},
		"age":                    {rimtest.Answer{This: ago, Next: now.Add(time.Hour)}, time.Hour + 10*time.Minute, end},
		"responder":              {rimtest.Answer{This: ago, Next: now.Add(time.Hour), Responder: short}, 0, end},
		"nothing before the end": {rimtest.Answer{This: ago, Next: now.Add(time.Hour)}, 0, now.Add(time.Hour)},
	} {
		der, err := rimtest.OCSP(leaf.Cert, p.L3, c.answer)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ocsp.Verify(der, leaf.Cert, p.L3.Cert, &ocsp.Options{Now: now, MaxAge: c.maxAge})
		if err != nil || !r.Until.Equal(c.want) {
			t.Errorf("%s: %+v, want an end at %s: %v", name, r, c.want, err)
		}
	}
}
