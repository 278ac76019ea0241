package tee_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	snppolicy "cocoon/verifier/policy/snp"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

// TestAnSNPGuestIsGoodButForReferenceValues appraises a good guest, and the
// same with one thing changed.
func TestAnSNPGuestIsGoodButForReferenceValues(t *testing.T) {
	pki, err := snptest.New("tee")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		report   func(*snptest.Report)
		evidence func(*evidence.Evidence)
		policy   func(*policy.Policy)
		want     []string
	}{
		"unchanged":               {},
		"a changed report":        {evidence: func(ev *evidence.Evidence) { ev.CPU.Quote[0x90] ^= 1 }, want: []string{"snp.signature"}},
		"a report that is none":   {evidence: func(ev *evidence.Evidence) { ev.CPU.Quote = []byte{2} }, want: []string{"snp.report.parse"}},
		"other claims":            {evidence: func(ev *evidence.Evidence) { ev.Claims.ReceiptKey[0] ^= 1 }, want: []string{"snp.report_data"}},
		"no certificate":          {evidence: func(ev *evidence.Evidence) { ev.CPU.CertChain = nil }, want: []string{"snp.cert.missing"}},
		"another config":          {report: func(r *snptest.Report) { r.HostData[0] ^= 1 }, want: []string{"snp.host_data"}},
		"a log beside the report": {evidence: func(ev *evidence.Evidence) { ev.CPU.EventLog = []byte{1} }, want: []string{"snp.event_log"}},
		"events beside the report": {evidence: func(ev *evidence.Evidence) { ev.CPU.RuntimeEvents = []evidence.RuntimeEvent{{Event: "config"}} },
			want: []string{"snp.event_log"}},
		"a guest that can be debugged": {report: func(r *snptest.Report) { r.Policy |= 1 << 19 }, want: []string{"policy.snp.debug"}},
		"a policy without SNP":         {policy: func(p *policy.Policy) { p.SNP = nil }, want: []string{"policy.snp.section", "snp.cert.revoked"}},
		"a policy that wants a CRL":    {policy: func(p *policy.Policy) { p.SNP.RequireCRL = true }, want: []string{"policy.snp.crl", "snp.crl.missing"}},
		"a class that is not wanted":   {policy: func(p *policy.Policy) { p.TrustClasses = []string{policy.ClassSNP} }, want: []string{"policy.trust_class"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Policy.SNP = snppolicy.Default()
			ev := w.Evidence(t)
			ev.CPU = evidence.CPU{Type: evidence.TypeSNP, RuntimeEvents: []evidence.RuntimeEvent{}}
			r := snptest.Default(3, report.Genoa, report.VCEK)
			var err error
			if r.ReportData, err = ev.Claims.ReportData(); err != nil {
				t.Fatal(err)
			}
			config, err := ev.Config.Hash()
			if err != nil {
				t.Fatal(err)
			}
			r.HostData = config
			if c.report != nil {
				c.report(&r)
			}
			raw, cert, err := pki.Make(&r)
			if err != nil {
				t.Fatal(err)
			}
			ev.CPU.Quote, ev.CPU.CertChain = raw, [][]byte{cert}
			if c.evidence != nil {
				c.evidence(ev)
			}
			if c.policy != nil {
				c.policy(w.Policy)
			}
			res := resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: snptest.Now,
				CPUs: tee.CPUs(tee.Options{SNP: snp.Options{Roots: pki.Roots()}})}))
			var got []string
			for _, k := range res.Checks() {
				bad := k.Status == result.Fail || k.Status == result.Skip && k.ID == "snp.cert.revoked"
				if bad && k.ID != "manifest.snp" {
					got = append(got, k.ID)
				}
			}
			if diff := cmp.Diff(sorted(c.want), sorted(got)); diff != "" || res.Accepted {
				t.Errorf("accepted %v, failed checks (-want +got):\n%s", res.Accepted, diff)
			}
			if ids := failed(res); len(ids) == 0 || !slices.Contains(ids, "manifest.snp") {
				t.Errorf("manifest.snp did not fail: %v", ids)
			}
		})
	}
}
