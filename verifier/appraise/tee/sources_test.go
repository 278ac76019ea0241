package tee_test

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/collateral/pcstest"
	"cocoon/verifier/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tdxtest"
)

// TestCollateralComesFromASourceWhereEvidenceBringsNone appraises TDs while the
// source answers, is down, lies, answers by halves, and does not answer at all.
func TestCollateralComesFromASourceWhereEvidenceBringsNone(t *testing.T) {
	w := newWorld(t)
	w.published(t)
	ev := w.evidence(t)
	own, err := w.raw.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	defer close(hold)
	down := &pcstest.Fault{Status: 503}
	for name, c := range map[string]struct {
		fault  *pcstest.Fault
		warm   bool // one appraisal before the fault
		later  time.Duration
		own    bool
		source string // what the check says; "": there is none
		fails  string // a failed check; "": accepted
	}{
		"it answers":                                    {source: "fetched"},
		"evidence brings its own":                       {own: true, fault: down, source: "brought with the evidence"},
		"it is down":                                    {fault: down, fails: "dcap.collateral.fetch.server"},
		"it is down, and the collateral is held":        {warm: true, fault: down, source: "held"},
		"it is down, and what is held is to be renewed": {warm: true, fault: down, later: 13 * time.Hour, source: "held"},
		"it is down, and what is held has expired":      {warm: true, fault: down, later: 400 * 24 * time.Hour, fails: "dcap.collateral.fetch.server"},
		"it lies":                        {fault: &pcstest.WrongSignature, fails: "dcap.collateral."},
		"it answers with something else": {fault: &pcstest.Garbage, fails: "dcap.collateral."},
		"it answers with too much":       {fault: &pcstest.Oversized, fails: "dcap.collateral.fetch.too_large"},
		"it does not answer":             {fault: &pcstest.Fault{Hold: hold}, fails: "dcap.collateral.fetch."},
	} {
		t.Run(name, func(t *testing.T) {
			now := tdxtest.Now
			server, err := pcstest.NewDefault(w.pki)
			if err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewServer(server)
			defer srv.Close()
			timeout := 20 * time.Second
			if c.fault != nil && c.fault.Hold != nil {
				timeout = 200 * time.Millisecond
			}
			client, err := pcs.New(pcs.Options{BaseURL: srv.URL, Roots: w.pki.Roots(), Clock: func() time.Time { return now }, Attempts: 1, Timeout: timeout})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			o := tee.Options{DCAP: dcap.Options{Roots: w.pki.Roots()}, Sources: tee.Sources{PCS: client, Timeout: time.Minute}}
			e := *ev
			if c.own {
				e.Collateral = own
			}
			run := func() *result.Result {
				waited := false
				ctx := appraise.WithBlocking(context.Background(), func(wait func()) { waited = true; wait() })
				ready := appraise.Prepare(ctx, &e, appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: now, CPUs: tee.CPUs(o)})
				if waited == c.own {
					t.Errorf("waited for the source: %v", waited)
				}
				return resulttest.Complete(t, appraise.Appraise(&e, &ready))
			}
			if c.warm {
				if r := run(); !r.Accepted {
					t.Fatalf("while the source answers: %v", r.Err())
				}
			}
			if c.fault != nil {
				for _, p := range pcstest.Parts() {
					server.Misbehave(p, c.fault)
				}
			}
			now = now.Add(c.later)
			r := run()
			said := ""
			for _, k := range r.Checks() {
				if k.ID == "dcap.collateral.source" {
					said = k.Actual
				}
			}
			if !strings.HasPrefix(said, c.source) || (said == "") != (c.source == "") {
				t.Errorf("the check says %q, want %q", said, c.source)
			}
			if c.fails == "" != r.Accepted || c.fails != "" && !slices.ContainsFunc(failed(r), func(id string) bool { return strings.HasPrefix(id, c.fails) }) {
				t.Errorf("accepted %v, failed %v, want %q", r.Accepted, failed(r), c.fails)
			}
		})
	}
}
