package tee_test

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	snppolicy "cocoon/verifier/policy/snp"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// bound is where a thing that a verdict rests on ends, in tests in which
// everything else ends after an hour at least.
const bound = 10 * time.Minute

// TestATDsVerdictEndsWithTheFirstOfItsBounds has each thing end first in turn,
// with cold and warm caches. A second later the evidence is refused, unless it is
// the verdict's own life that ended.
func TestATDsVerdictEndsWithTheFirstOfItsBounds(t *testing.T) {
	end := tdxtest.Now.Add(bound)
	grace := func(p *dcappolicy.Platform, d time.Duration) { p.CollateralGraceSeconds = int64(d / time.Second) }
	for name, c := range map[string]struct {
		world func(*world)
		want  time.Duration
		lives bool // what the evidence rests on is good after it
	}{
		"an hour":                 {want: time.Hour, lives: true},
		"an hour whoever asks":    {world: func(w *world) { w.Policy.Freshness.VerdictSeconds = 7200 }, want: time.Hour, lives: true},
		"the policy":              {world: func(w *world) { w.Policy.Freshness.VerdictSeconds = int64(bound / time.Second) }, want: bound, lives: true},
		"TCB info":                {world: func(w *world) { w.c.Collateral.Info.NextUpdate = end }, want: bound},
		"QE identity":             {world: func(w *world) { w.c.Collateral.QE.NextUpdate = end }, want: bound},
		"CRL of the root":         {world: func(w *world) { w.c.Collateral.RootCRL.Window.To = end }, want: bound},
		"CRL of the PCK CA":       {world: func(w *world) { w.c.Collateral.PCKCRL.Window.To = end }, want: bound},
		"PCK certificate":         {world: func(w *world) { w.c.Quote.Platform.NotAfter = end }, want: bound},
		"the manifest":            {world: func(w *world) { w.Manifest.Sunset = end }, want: bound},
		"collateral in its grace": {world: func(w *world) { w.c.Collateral.QE.NextUpdate = end; grace(&w.Policy.DCAP.TDX.Platform, 5*time.Minute) }, want: bound + 5*time.Minute},
		"a PCK certificate has no grace": {world: func(w *world) {
			w.c.Quote.Platform.NotAfter = end
			grace(&w.Policy.DCAP.TDX.Platform, 5*time.Minute)
		}, want: bound},
		"a platform's grace": {world: func(w *world) {
			td := w.c.Quote.TD
			w.c = tdxtest.StatusTDX(tcb.OutOfDate)
			w.c.Quote.TD = td
			s := int64(end.Sub(w.c.Collateral.Info.Levels[0].Date) / time.Second)
			p := &w.Policy.DCAP.TDX.Platform
			p.AcceptedTCBStatus, p.PlatformGraceSeconds = []tcb.Status{tcb.UpToDate, tcb.OutOfDate}, &s
		}, want: bound},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.published(t)
			if c.world != nil {
				c.world(w)
			}
			ev := w.evidence(t)
			var err error
			if ev.Collateral, err = w.raw.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
			o := &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tdxtest.Now,
				CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: w.pki.Roots(), Cache: dcap.NewCache(dcap.CacheOptions{})}})}
			for _, cache := range []string{"cold", "warm"} {
				r := resulttest.Complete(t, appraise.Appraise(ev, o))
				if want := tdxtest.Now.Add(c.want); !r.Accepted || !r.NotAfter.Equal(want) {
					t.Fatalf("%s: accepted %v until %s, want %s: %v", cache, r.Accepted, r.NotAfter, want, r.Err())
				}
			}
			o.Now = tdxtest.Now.Add(c.want + time.Second)
			if r := resulttest.Complete(t, appraise.Appraise(ev, o)); r.Accepted != c.lives {
				t.Errorf("a second after it: accepted %v", r.Accepted)
			}
		})
	}
}

// TestAnSNPGuestsVerdictEndsWithTheFirstOfItsBounds is the same for SNP.
func TestAnSNPGuestsVerdictEndsWithTheFirstOfItsBounds(t *testing.T) {
	now := snptest.Now
	end := now.Add(bound)
	fleet, err := testfleet.New("expiry")
	if err != nil {
		t.Fatal(err)
	}
	env, err := fleet.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	challenge := digest.Sum256([]byte("challenge"))
	m, err := fleet.Machine(testfleet.SNP, now)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := m.Evidence(challenge)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ends   snptest.Ends
		cert   func(*snptest.Cert)
		list   func(*snptest.CRL)
		policy func(*policy.Policy)
		want   time.Duration
		lives  bool
	}{
		"an hour":                         {want: time.Hour, lives: true},
		"the policy":                      {policy: func(p *policy.Policy) { p.Freshness.VerdictSeconds = int64(bound / time.Second) }, want: bound, lives: true},
		"VCEK":                            {cert: func(c *snptest.Cert) { c.NotAfter = end }, want: bound},
		"ASK":                             {ends: snptest.Ends{ASK: end}, want: bound},
		"ARK":                             {ends: snptest.Ends{ARK: end}, want: bound},
		"ASVK, which is not in the chain": {ends: snptest.Ends{ASVK: end}, want: time.Hour, lives: true},
		"CRL":                             {list: func(l *snptest.CRL) { l.NextUpdate = end }, want: bound},
		"CRL's age":                       {policy: func(p *policy.Policy) { p.SNP.CRLMaxAgeSeconds = int64((24*time.Hour + bound) / time.Second) }, want: bound},
	} {
		t.Run(name, func(t *testing.T) {
			pki, err := snptest.NewEnding("expiry", c.ends) // the fleet's keys
			if err != nil {
				t.Fatal(err)
			}
			chip := snptest.Default(3, report.Genoa, report.VCEK)
			leaf, list := snptest.CertFor(&chip), snptest.DefaultCRL(report.Genoa)
			if c.cert != nil {
				c.cert(&leaf)
			}
			if c.list != nil {
				c.list(&list)
			}
			der, err := pki.Certificate(&leaf)
			if err != nil {
				t.Fatal(err)
			}
			crl, err := pki.CRL(&list)
			if err != nil {
				t.Fatal(err)
			}
			p := fleet.Policy()
			section := *p.SNP
			p.SNP = &section
			p.SNP.RequireCRL = true
			if c.policy != nil {
				c.policy(p)
			}
			manifests, err := appraise.OpenManifests(p, []manifest.Published{{Envelope: env}})
			if err != nil {
				t.Fatal(err)
			}
			ev, err := evidence.Parse(doc)
			if err != nil {
				t.Fatal(err)
			}
			ev.CPU.CertChain = [][]byte{der}
			o := &appraise.Options{Policy: p, Manifests: manifests, Now: now, Challenges: []digest.SHA256{challenge},
				CPUs: tee.CPUs(tee.Options{SNP: snp.Options{Roots: pki.Roots(), CRL: crl, Cache: snp.NewCache(snp.CacheOptions{})}})}
			for _, cache := range []string{"cold", "warm"} {
				r := resulttest.Complete(t, appraise.Appraise(ev, o))
				if want := now.Add(c.want); !r.Accepted || !r.NotAfter.Equal(want) {
					t.Fatalf("%s: accepted %v until %s, want %s: %v", cache, r.Accepted, r.NotAfter, want, r.Err())
				}
			}
			o.Now = now.Add(c.want + time.Second)
			if r := resulttest.Complete(t, appraise.Appraise(ev, o)); r.Accepted != c.lives {
				t.Errorf("a second after it: accepted %v", r.Accepted)
			}
		})
	}
}

// TestAnEnclavesAppraisalEndsWithItsBounds appraises evidence of SGX, which no
// manifest speaks of: its end is stated all the same.
func TestAnEnclavesAppraisalEndsWithItsBounds(t *testing.T) {
	end := tdxtest.Now.Add(bound)
	for name, change := range map[string]func(*tdxtest.Case){
		"QE identity":     func(c *tdxtest.Case) { c.Collateral.QE.NextUpdate = end },
		"PCK certificate": func(c *tdxtest.Case) { c.Quote.Platform.NotAfter = end },
	} {
		w := newWorld(t)
		w.Policy.DCAP = &dcappolicy.Policy{SGX: &dcappolicy.SGX{}}
		ev := w.Evidence(t)
		ev.CPU = evidence.CPU{Type: evidence.TypeSGX, CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}
		c := tdxtest.StatusSGX(tcb.UpToDate)
		change(&c)
		var err error
		if ev.CPU.Quote, w.raw, err = w.pki.Make(&c); err != nil {
			t.Fatal(err)
		}
		if r := w.appraise(t, ev); !r.NotAfter.Equal(end) {
			t.Errorf("%s: good until %s, want %s", name, r.NotAfter, end)
		}
	}
}

// azSNP returns evidence of an Azure VM on SNP that does not exist, and its
// report.
func azSNP(t testing.TB, w *world, pki *snptest.PKI) (*evidence.Evidence, snptest.Report) {
	t.Helper()
	ak := tpmtest.NewAK(t, tpmtest.RSASSA256)
	n := base64.RawURLEncoding.EncodeToString(ak.Key.Public().(*rsa.PublicKey).N.Bytes())
	runtime := fmt.Sprintf(`{"keys":[{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"%s"}],"vm-configuration":{"secure-boot":true,"tpm-enabled":true},"user-data":""}`, n)
	r := snptest.Default(3, report.Genoa, report.VCEK)
	sum := sha256.Sum256([]byte(runtime))
	r.ReportData = [64]byte{}
	copy(r.ReportData[:], sum[:])
	raw, err := pki.Report(&r)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	b := append([]byte("HCLA"), 2, 0, 0, 0)
	b = le.AppendUint32(b, uint32(1216+20+len(runtime)))
	b = append(le.AppendUint32(b, 2), make([]byte, 16)...)
	b = append(b, raw...)
	for _, v := range []uint32{uint32(20 + len(runtime)), 1, 2, 1, uint32(len(runtime))} {
		b = le.AppendUint32(b, v)
	}
	ev := w.Evidence(t)
	ev.CPU = evidence.CPU{Type: evidence.TypeAzSNP, CertChain: [][]byte{}, RuntimeEvents: ev.CPU.RuntimeEvents, EventLog: tpmtest.Log(w.Boot.Events(t)),
		HCLReport: append(append(b, runtime...), make([]byte, 100)...)}
	q, err := ev.Claims.QualifyingData()
	if err != nil {
		t.Fatal(err)
	}
	ev.CPU.Quote, ev.CPU.Signature = ak.Quote(t, q[:], tpm.Selection(), w.banks(t, ev))
	return ev, r
}

// TestAnAzureVMsAppraisalEndsWithItsHardwares appraises VMs on either hardware,
// their own evidence and as recorded.
func TestAnAzureVMsAppraisalEndsWithItsHardwares(t *testing.T) {
	end := tdxtest.Now.Add(bound)
	both := func(t *testing.T, w *world, ev *evidence.Evidence, o tee.Options, m []*manifest.Verified) {
		t.Helper()
		options := &appraise.Options{Policy: w.Policy, Manifests: m, Now: tdxtest.Now, CPUs: tee.CPUs(o)}
		if r := resulttest.Complete(t, appraise.Appraise(ev, options)); !r.NotAfter.Equal(end) {
			t.Errorf("good until %s, want %s: %v", r.NotAfter, end, r.Err())
		}
		f := &evidence.Foreign{Profile: evidence.ProfileForeign, CPU: &ev.CPU, Collateral: ev.Collateral}
		if r := resulttest.Complete(t, appraise.AppraiseForeign(f, options)); !r.NotAfter.Equal(end) {
			t.Errorf("recorded: good until %s, want %s: %v", r.NotAfter, end, r.Err())
		}
	}
	for name, change := range map[string]func(*tdxtest.Case){
		"TCB info":        func(c *tdxtest.Case) { c.Collateral.Info.NextUpdate = end },
		"PCK certificate": func(c *tdxtest.Case) { c.Quote.Platform.NotAfter = end },
	} {
		t.Run("az-tdx/"+name, func(t *testing.T) {
			w := newWorld(t)
			change(&w.c)
			ev := w.azTDX(t)
			var err error
			if ev.Collateral, err = w.raw.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
			both(t, w, ev, tee.Options{DCAP: dcap.Options{Roots: w.pki.Roots()}}, w.Manifests(t))
		})
	}
	for name, change := range map[string]func(*policy.Policy, *snptest.Cert, *snptest.CRL){
		"VCEK": func(_ *policy.Policy, c *snptest.Cert, _ *snptest.CRL) { c.NotAfter = end },
		"CRL":  func(_ *policy.Policy, _ *snptest.Cert, l *snptest.CRL) { l.NextUpdate = end },
		"CRL's age": func(p *policy.Policy, _ *snptest.Cert, _ *snptest.CRL) {
			p.SNP.CRLMaxAgeSeconds = int64((24*time.Hour + bound) / time.Second)
		},
	} {
		t.Run("az-snp/"+name, func(t *testing.T) {
			pki, err := snptest.New("azure")
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			w.Policy.SNP = snppolicy.Default()
			w.Policy.SNP.RequireCRL = true
			ev, r := azSNP(t, w, pki)
			leaf, list := snptest.CertFor(&r), snptest.DefaultCRL(report.Genoa)
			change(w.Policy, &leaf, &list)
			der, err := pki.Certificate(&leaf)
			if err != nil {
				t.Fatal(err)
			}
			crl, err := pki.CRL(&list)
			if err != nil {
				t.Fatal(err)
			}
			ev.CPU.CertChain = [][]byte{der}
			both(t, w, ev, tee.Options{SNP: snp.Options{Roots: pki.Roots(), CRL: crl}}, w.Manifests(t))
		})
	}
}
