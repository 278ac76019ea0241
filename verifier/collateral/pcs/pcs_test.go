package pcs_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/collateral/pcstest"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/tdxtest"
)

// rig is a test service, a client of it, and a clock that stands still until
// it is moved.
type rig struct {
	t      *testing.T
	pki    *tdxtest.PKI
	server *pcstest.Server
	url    string
	dir    string

	mu     sync.Mutex
	now    time.Time
	delays []time.Duration
}

func newRig(t *testing.T) *rig {
	t.Helper()
	pki, err := tdxtest.New("pcs")
	if err != nil {
		t.Fatal(err)
	}
	server, err := pcstest.NewDefault(pki)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(server)
	t.Cleanup(ts.Close)
	return &rig{t: t, pki: pki, server: server, url: ts.URL, dir: filepath.Join(t.TempDir(), "cache"), now: tdxtest.Now}
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// client returns a client with the rig's clock; change may adjust options.
func (r *rig) client(change func(*pcs.Options)) *pcs.Client {
	r.t.Helper()
	o := pcs.Options{
		BaseURL: r.url, Roots: r.pki.Roots(), CacheDir: r.dir, Clock: r.clock, Rand: func() float64 { return 0 },
		Sleep: func(_ context.Context, d time.Duration) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.delays = append(r.delays, d)
			return nil
		},
	}
	if change != nil {
		change(&o)
	}
	c, err := pcs.New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func request() pcs.Request {
	return pcs.Request{TEE: pcs.TDX, FMSPC: tdxtest.DefaultPlatform().FMSPC, CA: pck.PlatformCA}
}

// add serves default TDX collateral after a change to it.
func (r *rig) add(channel string, change func(*tdxtest.Collateral)) {
	r.t.Helper()
	c := tdxtest.DefaultCollateral(quote.TEETDX)
	change(&c)
	if err := r.server.AddMade(r.pki, "tdx", channel, &c); err != nil {
		r.t.Fatal(err)
	}
}

func mustSet(t *testing.T, c *pcs.Client, req pcs.Request) *collateral.Set {
	t.Helper()
	set, err := c.Set(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestSetIsFetchedOnceAndThenHeld(t *testing.T) {
	r := newRig(t)
	c := r.client(nil)
	first := mustSet(t, c, request())
	if first.TCBInfo().ID != "TDX" || first.TCBInfo().FMSPC != tdxtest.DefaultPlatform().FMSPC || first.CA() != pck.PlatformCA {
		t.Errorf("fetched collateral of something else: %s", first.TCBInfo().ID)
	}
	if second := mustSet(t, c, request()); second != first {
		t.Error("second request did not get the set that is held")
	}
	if n := r.server.Total(); n != 4 {
		t.Errorf("%d requests for four parts", n)
	}
}

func TestRequestsNameWhatTheyWant(t *testing.T) {
	r := newRig(t)
	r.add("early", func(c *tdxtest.Collateral) { c.Info.Evaluation, c.QE.Evaluation = 21, 21 })
	c := r.client(func(o *pcs.Options) { o.BaseURL += "/sgx/certification/v4/" })
	early := request()
	early.Channel = pcs.Early
	if n := mustSet(t, c, early).TCBInfo().Evaluation; n != 21 {
		t.Errorf("early channel gave evaluation %d", n)
	}
	numbered := request()
	numbered.Evaluation = 20
	if n := mustSet(t, c, numbered).TCBInfo().Evaluation; n != 20 {
		t.Errorf("evaluation 20 gave %d", n)
	}
	all := strings.Join(r.server.URLs(), "\n")
	for _, want := range []string{
		"/tdx/certification/v4/tcb?fmspc=90c06f000000&update=early",
		"/tdx/certification/v4/qe/identity?update=early",
		"/tdx/certification/v4/tcb?fmspc=90c06f000000&tcbEvaluationDataNumber=20",
		"/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
		"/sgx/certification/v4/rootcacrl",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no request for %s in:\n%s", want, all)
		}
	}
	// The CRLs do not depend on the evaluation: they were fetched once.
	if n := r.server.Requests(pcstest.PCKCRL); n != 1 {
		t.Errorf("%d requests for the PCK CRL", n)
	}
}

func TestTheRootCRLCanComeFromItsDistributionPoint(t *testing.T) {
	r := newRig(t)
	mustSet(t, r.client(func(o *pcs.Options) { o.RootCRLURL = r.url + "/IntelSGXRootCA.der" }), request())
	if all := strings.Join(r.server.URLs(), "\n"); !strings.Contains(all, "/IntelSGXRootCA.der") {
		t.Errorf("requests were:\n%s", all)
	}
}

func TestRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	c := newRig(t).client(nil)
	for name, req := range map[string]pcs.Request{
		"no TEE":                           {CA: pck.PlatformCA},
		"unknown CA":                       {TEE: pcs.TDX, CA: "root"},
		"unknown channel":                  {TEE: pcs.TDX, CA: pck.PlatformCA, Channel: "late"},
		"channel and evaluation at a time": {TEE: pcs.TDX, CA: pck.PlatformCA, Channel: pcs.Early, Evaluation: 3},
	} {
		if _, err := c.Set(context.Background(), req); !fault.Has(err, "dcap.collateral.request") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, u := range []string{"ftp://host", "host:8081", "https://user@host", "https://host?x=1", "https://"} {
		if _, err := pcs.New(pcs.Options{BaseURL: u}); !fault.Has(err, "dcap.collateral.url") {
			t.Errorf("%s: got %v", u, err)
		}
	}
}

func TestServiceThatMisbehavesIsRefused(t *testing.T) {
	type cause struct {
		name  string
		fault pcstest.Fault
		code  string
		exit  int
	}
	for _, p := range pcstest.Parts() {
		for _, tc := range []cause{
			{"answers 404", pcstest.Fault{Status: 404}, "dcap.collateral.fetch.not_found", fault.ExitNetwork},
			{"answers 410", pcstest.Fault{Status: 410}, "dcap.collateral.fetch.gone", fault.ExitNetwork},
			{"answers 400", pcstest.Fault{Status: 400}, "dcap.collateral.fetch.status", fault.ExitNetwork},
			{"answers 503", pcstest.Fault{Status: 503}, "dcap.collateral.fetch.server", fault.ExitNetwork},
			{"answers 429", pcstest.Fault{Status: 429}, "dcap.collateral.fetch.rate_limited", fault.ExitNetwork},
			{"redirects elsewhere", pcstest.Fault{Redirect: "http://192.0.2.1/"}, "dcap.collateral.fetch.redirect", fault.ExitNetwork},
			{"answers garbage", pcstest.Garbage, "dcap.collateral.fetch.malformed", fault.ExitNetwork},
			{"answers too much", pcstest.Oversized, "dcap.collateral.fetch.too_large", fault.ExitNetwork},
			{"answers nothing", pcstest.Fault{Body: func([]byte) []byte { return nil }}, "dcap.collateral.fetch.malformed", fault.ExitNetwork},
			{"answers with a wrong signature", pcstest.WrongSignature, "dcap.collateral.", fault.ExitRefused},
		} {
			t.Run(string(p)+" "+tc.name, func(t *testing.T) {
				r := newRig(t)
				r.server.Misbehave(p, &tc.fault)
				_, err := r.client(nil).Set(context.Background(), request())
				var f *fault.Fault
				if !errors.As(err, &f) || !strings.HasPrefix(f.Code, tc.code) || f.Exit != tc.exit || f.Remedy == "" {
					t.Errorf("got %v, want %s exiting %d", err, tc.code, tc.exit)
				}
				if files, _ := filepath.Glob(filepath.Join(r.dir, "*")); len(files) != 0 {
					t.Errorf("%d files were kept", len(files))
				}
			})
		}
	}
	for header, p := range map[string]pcstest.Part{
		"TCB-Info-Issuer-Chain": pcstest.TCBInfo, "SGX-Enclave-Identity-Issuer-Chain": pcstest.QEIdentity,
		"SGX-PCK-CRL-Issuer-Chain": pcstest.PCKCRL,
	} {
		for _, v := range []string{"", "%zz", "no%20PEM"} {
			r := newRig(t)
			r.server.Misbehave(p, &pcstest.Fault{Header: map[string]string{header: v}})
			if _, err := r.client(nil).Set(context.Background(), request()); !fault.Has(err, "dcap.collateral.fetch.malformed") {
				t.Errorf("%s %q: got %v", header, v, err)
			}
		}
	}
}

func TestExpiredCollateralFromTheServiceIsRefused(t *testing.T) {
	r := newRig(t)
	r.add("", func(c *tdxtest.Collateral) { c.Info.NextUpdate = tdxtest.Now.Add(-time.Hour) })
	if _, err := r.client(nil).Set(context.Background(), request()); !fault.Has(err, "dcap.collateral.expired") || fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("got %v", err)
	}
	if _, err := r.client(func(o *pcs.Options) { o.Grace = 2 * time.Hour }).Set(context.Background(), request()); err != nil {
		t.Errorf("within the grace: %v", err)
	}
}

func TestBriefTroubleIsTriedAgainWithGrowingDelays(t *testing.T) {
	r := newRig(t)
	r.server.Misbehave(pcstest.QEIdentity, &pcstest.Fault{Status: 500, Times: 2})
	r.server.Misbehave(pcstest.RootCRL, &pcstest.Fault{Status: 429, RetryAfter: "7", Times: 1})
	mustSet(t, r.client(nil), request())
	var steps []time.Duration
	asked := false
	for _, d := range r.delays {
		if d == 7*time.Second {
			asked = true
		} else {
			steps = append(steps, d)
		}
	}
	if !asked {
		t.Errorf("Retry-After was not heeded: %v", r.delays)
	}
	if len(steps) != 2 || steps[1] != 2*steps[0] {
		t.Errorf("delays are %v, want two, the second twice the first", steps)
	}
}

func TestADeadServiceIsLeftAloneForAWhile(t *testing.T) {
	r := newRig(t)
	for _, p := range pcstest.Parts() {
		r.server.Misbehave(p, &pcstest.Fault{Status: 503})
	}
	c := r.client(nil)
	_, err := c.Set(context.Background(), request())
	if len(fault.All(err)) != 1 {
		t.Errorf("one problem is reported as %d: %v", len(fault.All(err)), err)
	}
	n := r.server.Total()
	if n != 4*pcs.DefaultAttempts {
		t.Errorf("%d requests, want %d attempts for each of four parts", n, pcs.DefaultAttempts)
	}
	for range 100 {
		if _, err := c.Set(context.Background(), request()); !fault.Has(err, "dcap.collateral.fetch.server") {
			t.Fatalf("got %v", err)
		}
	}
	if r.server.Total() != n {
		t.Error("the service was asked again at once")
	}
	for _, p := range pcstest.Parts() {
		r.server.Misbehave(p, nil)
	}
	r.advance(time.Minute)
	mustSet(t, c, request())
}

func TestBadSignaturesDoNotMakeTheClientHammer(t *testing.T) {
	r := newRig(t)
	r.server.Misbehave(pcstest.TCBInfo, &pcstest.WrongSignature)
	c := r.client(nil)
	for range 20 {
		if _, err := c.Set(context.Background(), request()); !fault.Has(err, "dcap.collateral.signature") {
			t.Fatalf("got %v", err)
		}
	}
	if n := r.server.Total(); n != 4 {
		t.Errorf("%d requests", n)
	}
}

func TestRedirectsOnTheHostAreFollowed(t *testing.T) {
	r := newRig(t)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/moved/") {
			http.Redirect(w, req, "/"+strings.TrimPrefix(req.URL.RequestURI(), "/moved/"), http.StatusMovedPermanently)
			return
		}
		r.server.ServeHTTP(w, req)
	}))
	defer front.Close()
	mustSet(t, r.client(func(o *pcs.Options) { o.BaseURL = front.URL + "/moved" }), request())
}
