package tee_test

import (
	"cocoon/measurements/manifest"
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/kds"
	"cocoon/verifier/snp/kdstest"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
	"cocoon/verifier/testfleet"
)

// TestCertificatesComeFromASourceWhereEvidenceBringsNone appraises an SNP guest
// while AMD's service answers, is down, lies, answers by halves, and does not
// answer at all. The policy wants a revocation list, which only the service has.
func TestCertificatesComeFromASourceWhereEvidenceBringsNone(t *testing.T) {
	fleet, err := testfleet.New("kds")
	if err != nil {
		t.Fatal(err)
	}
	env, err := fleet.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	p := fleet.Policy()
	p.SNP.RequireCRL = true
	manifests, err := appraise.OpenManifests(p, []manifest.Published{{Envelope: env}})
	if err != nil {
		t.Fatal(err)
	}
	challenge := digest.Sum256([]byte("challenge"))
	m, err := fleet.Machine(testfleet.SNP, snptest.Now)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := m.Evidence(challenge)
	if err != nil {
		t.Fatal(err)
	}
	pki := fleet.SNPPKI()
	hold := make(chan struct{})
	defer close(hold)
	half := func(b []byte) []byte { return b[:len(b)/2] }
	flip := func(b []byte) []byte { b[len(b)-1] ^= 1; return b } // of the signature
	const both = "certificate fetched; CRL fetched"
	for name, c := range map[string]struct {
		faults map[string]*kdstest.Fault
		warm   bool // one appraisal before the faults
		later  time.Duration
		own    bool // evidence brings its certificate
		noCRL  bool // the policy needs none
		source string
		fails  []string // accepted without any
	}{
		"it answers":                        {source: both},
		"evidence brings its own":           {own: true, source: "certificate brought with the evidence; CRL fetched"},
		"it is down":                        {faults: faults(&kdstest.Fault{Status: 503}), fails: []string{"snp.kds.status", "snp.cert.missing"}},
		"it has had enough of us":           {faults: faults(&kdstest.Fault{Status: 429}), fails: []string{"snp.kds.rate_limited"}},
		"it is down, and all of it is held": {warm: true, faults: faults(&kdstest.Fault{Status: 503}), source: "certificate held; CRL held"},
		"it is down, and the list is to be renewed": {warm: true, later: 13 * time.Hour, faults: faults(&kdstest.Fault{Status: 503}),
			source: "certificate held; CRL held, because the service does not answer as it should: snp.kds.status"},
		"it is down, and the list has expired": {warm: true, later: 60 * 24 * time.Hour, faults: faults(&kdstest.Fault{Status: 503}), fails: []string{"snp.kds.status", "snp.crl.missing"}},
		"its list is down":                     {own: true, faults: map[string]*kdstest.Fault{kdstest.CRL: {Status: 503}}, fails: []string{"snp.kds.status", "snp.crl.missing"}},
		"its list is down, and the policy needs none": {own: true, noCRL: true, faults: map[string]*kdstest.Fault{kdstest.CRL: {Status: 503}},
			source: "certificate brought with the evidence; no CRL, which the policy allows: snp.kds.status"},
		"its certificate is another's":  {faults: map[string]*kdstest.Fault{kdstest.VCEK: {Body: flip}}, fails: []string{"snp.kds.answer", "snp.cert.missing"}},
		"its list is signed by another": {own: true, faults: map[string]*kdstest.Fault{kdstest.CRL: {Body: flip}}, fails: []string{"snp.kds.answer"}},
		"it answers by halves":          {faults: faults(&kdstest.Fault{Body: half}), fails: []string{"snp.kds.answer"}},
		"it knows no such chip":         {faults: faults(&kdstest.Fault{Status: 404}), fails: []string{"snp.kds.not_found"}},
		"it sends elsewhere":            {faults: faults(&kdstest.Fault{Redirect: "https://example.com/"}), fails: []string{"snp.kds."}},
		"it does not answer":            {faults: faults(&kdstest.Fault{Hold: hold}), fails: []string{"snp.kds."}},
		"the list is renewed":           {warm: true, later: 13 * time.Hour, source: "certificate held; CRL fetched"},
	} {
		t.Run(name, func(t *testing.T) {
			now := snptest.Now
			service := kdstest.New(pki)
			chip := snptest.Default(3, report.Genoa, report.VCEK)
			service.Add(&chip)
			srv := httptest.NewServer(service)
			defer srv.Close()
			timeout := 20 * time.Second
			if slices.ContainsFunc(kindsOf(c.faults), func(f *kdstest.Fault) bool { return f.Hold != nil }) {
				timeout = 200 * time.Millisecond
			}
			client, err := kds.New(kds.Options{BaseURL: srv.URL, Roots: pki.Roots(), Clock: func() time.Time { return now }, Attempts: 1, Timeout: timeout})
			if err != nil {
				t.Fatal(err)
			}
			ev, err := evidence.Parse(doc)
			if err != nil {
				t.Fatal(err)
			}
			if !c.own {
				ev.CPU.CertChain = [][]byte{}
			}
			policy := *p
			own := *p.SNP
			own.RequireCRL = !c.noCRL
			policy.SNP = &own
			o := tee.Options{SNP: snp.Options{Roots: pki.Roots()}, Sources: tee.Sources{KDS: client, Timeout: time.Minute}}
			run := func() *result.Result {
				ready := appraise.Prepare(context.Background(), ev, appraise.Options{Policy: &policy, Manifests: manifests, Now: now, CPUs: tee.CPUs(o), Challenges: []digest.SHA256{challenge}})
				return resulttest.Complete(t, appraise.Appraise(ev, &ready))
			}
			if c.warm {
				if r := run(); !r.Accepted {
					t.Fatalf("while the service answers: %v", r.Err())
				}
			}
			for kind, f := range c.faults {
				service.Misbehave(kind, f)
			}
			now = now.Add(c.later)
			r := run()
			said := ""
			for _, k := range r.Checks() {
				if k.ID == "snp.collateral.source" {
					said = k.Actual
				}
			}
			if said != c.source {
				t.Errorf("the check says %q, want %q", said, c.source)
			}
			if r.Accepted != (len(c.fails) == 0) {
				t.Errorf("accepted %v, failed %v", r.Accepted, failed(r))
			}
			for _, want := range c.fails {
				if !slices.ContainsFunc(failed(r), func(id string) bool { return strings.HasPrefix(id, want) }) {
					t.Errorf("failed %v, want %s", failed(r), want)
				}
			}
		})
	}
}

// faults makes certificates and lists meet the same one.
func faults(f *kdstest.Fault) map[string]*kdstest.Fault {
	return map[string]*kdstest.Fault{kdstest.VCEK: f, kdstest.CRL: f}
}

func kindsOf(m map[string]*kdstest.Fault) []*kdstest.Fault {
	var out []*kdstest.Fault
	for _, f := range m {
		out = append(out, f)
	}
	return out
}
