package tpm_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newEnroller(t *testing.T, w *tpmtest.World, c *clock) *tpm.Enroller {
	t.Helper()
	roots, err := tpm.ParseRoots(w.Policy.TPM.EKRoots)
	if err != nil {
		t.Fatal(err)
	}
	e, err := tpm.NewEnroller(tpm.EnrollerOptions{EKRoots: roots, CA: w.AKCA, Clock: c.now, MaxPending: 8})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func request(m *tpmtest.TPM) *tpm.EnrollRequest {
	return &tpm.EnrollRequest{EKChain: m.EKChain, EKPublic: m.EKPublic, AKPublic: m.AKPublic}
}

func TestEnrolmentIssuesACertificateForTheKeyInTheTPM(t *testing.T) {
	w := tpmtest.NewWorld(t)
	e := newEnroller(t, w, &clock{tpmtest.Now})
	rsp, err := e.Begin(t.Context(), request(w.TPM))
	if err != nil {
		t.Fatal(err)
	}
	credential, err := w.TPM.Activate(rsp.CredentialBlob, rsp.Secret)
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.Finish(t.Context(), &tpm.ActivateRequest{Session: rsp.Session, Credential: credential})
	if err != nil {
		t.Fatal(err)
	}
	ev := w.Evidence(t)
	q, err := ev.Claims.QualifyingData()
	if err != nil {
		t.Fatal(err)
	}
	in := &tpm.Evidence{Attest: ev.CPU.Quote, Signature: ev.CPU.Signature, CertChain: out.CertChain, EventLog: ev.CPU.EventLog}
	for _, re := range ev.CPU.RuntimeEvents {
		b, err := re.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		in.RuntimeEvents = append(in.RuntimeEvents, b)
	}
	roots, err := tpm.ParseRoots(w.Policy.TPM.AKRoots)
	if err != nil {
		t.Fatal(err)
	}
	r := verified(t, in, &tpm.Options{AKRoots: roots, Now: tpmtest.Now, QualifyingData: q[:]})
	for _, c := range r.Checks {
		if c.Status != "pass" {
			t.Errorf("check %s: %+v", c.ID, c)
		}
	}
	if want := tpmtest.Now.Add(tpm.DefaultAKLifetime); !r.NotAfter.Equal(want) {
		t.Errorf("certificate until %s, want %s", r.NotAfter, want)
	}
	if _, err := e.Finish(t.Context(), &tpm.ActivateRequest{Session: rsp.Session, Credential: credential}); !fault.Has(err, "tpm.enroll.session") {
		t.Errorf("second use of a session: %v", err)
	}
}

func TestEnrolmentRefuses(t *testing.T) {
	notRestricted := func(m *tpmtest.TPM) {
		p, err := tpm2.Unmarshal[tpm2.TPMTPublic](m.AKPublic)
		if err != nil {
			t.Fatal(err)
		}
		p.ObjectAttributes.Restricted = false
		m.AKPublic = tpm2.Marshal(*p)
	}
	for name, c := range map[string]struct {
		change func(*tpmtest.World, *tpm.EnrollRequest)
		at     time.Time
		want   string
		exit   int
	}{
		"a TPM of another authority": {
			change: func(_ *tpmtest.World, r *tpm.EnrollRequest) {
				*r = *request(tpmtest.NewTPM(t, tpmtest.NewEKCA(t, "other")))
			},
			want: "tpm.ek.untrusted_ca", exit: fault.ExitRefused,
		},
		"an authority of the same name": {
			change: func(_ *tpmtest.World, r *tpm.EnrollRequest) {
				*r = *request(tpmtest.NewTPM(t, tpmtest.NewEKCA(t, "test EK CA")))
			},
			want: "tpm.ek.untrusted_ca", exit: fault.ExitRefused,
		},
		"an AK certificate instead of an EK certificate": {
			change: func(w *tpmtest.World, r *tpm.EnrollRequest) { r.EKChain = w.Chain(t) },
			want:   "tpm.ek.untrusted_ca", exit: fault.ExitRefused,
		},
		"an expired EK certificate": {at: tpmtest.Now.AddDate(6, 0, 0), want: "tpm.ek.expired", exit: fault.ExitRefused},
		"no certificate":            {change: func(_ *tpmtest.World, r *tpm.EnrollRequest) { r.EKChain = nil }, want: "tpm.ek.format", exit: fault.ExitParse},
		"the EK of another certificate": {
			change: func(w *tpmtest.World, r *tpm.EnrollRequest) { r.EKPublic = tpmtest.NewTPM(t, w.EKCA).EKPublic },
			want:   "tpm.ek.public", exit: fault.ExitRefused,
		},
		"an EK with trailing bytes": {
			change: func(_ *tpmtest.World, r *tpm.EnrollRequest) { r.EKPublic = append(bytes.Clone(r.EKPublic), 0) },
			want:   "tpm.ek.public", exit: fault.ExitParse,
		},
		"an AK that signs anything": {
			change: func(w *tpmtest.World, r *tpm.EnrollRequest) { notRestricted(w.TPM); r.AKPublic = w.TPM.AKPublic },
			want:   "tpm.ak.attributes", exit: fault.ExitRefused,
		},
		"the EK as AK": {
			change: func(w *tpmtest.World, r *tpm.EnrollRequest) { r.AKPublic = r.EKPublic },
			want:   "tpm.ak.attributes", exit: fault.ExitRefused,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := tpmtest.NewWorld(t)
			at := tpmtest.Now
			if !c.at.IsZero() {
				at = c.at
			}
			e := newEnroller(t, w, &clock{at})
			req := request(w.TPM)
			if c.change != nil {
				c.change(w, req)
			}
			_, err := e.Begin(t.Context(), req)
			if !fault.Has(err, c.want) || fault.ExitCode(err) != c.exit {
				t.Errorf("got %v (exit %d), want %s (exit %d)", err, fault.ExitCode(err), c.want, c.exit)
			}
			if e.Pending() != 0 {
				t.Errorf("%d enrolments pending after a refusal", e.Pending())
			}
		})
	}
}

func TestACredentialIsForOneKeyAndOneAttempt(t *testing.T) {
	w := tpmtest.NewWorld(t)
	c := &clock{tpmtest.Now}
	e := newEnroller(t, w, c)
	begin := func() *tpm.EnrollResponse {
		t.Helper()
		rsp, err := e.Begin(t.Context(), request(w.TPM))
		if err != nil {
			t.Fatal(err)
		}
		return rsp
	}
	rsp := begin()
	if _, err := tpmtest.NewTPM(t, w.EKCA).Activate(rsp.CredentialBlob, rsp.Secret); err == nil {
		t.Error("another TPM recovered the credential")
	}
	good, err := w.TPM.Activate(rsp.CredentialBlob, rsp.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Finish(t.Context(), &tpm.ActivateRequest{Session: rsp.Session, Credential: make([]byte, 32)}); !fault.Has(err, "tpm.enroll.credential") {
		t.Errorf("a guessed credential: %v", err)
	}
	if _, err := e.Finish(t.Context(), &tpm.ActivateRequest{Session: rsp.Session, Credential: good}); !fault.Has(err, "tpm.enroll.session") {
		t.Errorf("the right credential after a guess: %v", err)
	}
	rsp = begin()
	c.t = c.t.Add(tpm.DefaultPendingTTL)
	if _, err := e.Finish(t.Context(), &tpm.ActivateRequest{Session: rsp.Session, Credential: good}); !fault.Has(err, "tpm.enroll.session") {
		t.Errorf("an expired session: %v", err)
	}
	if _, err := e.Finish(t.Context(), &tpm.ActivateRequest{Session: digest.Sum256(nil)}); !fault.Has(err, "tpm.enroll.session") {
		t.Errorf("an unknown session: %v", err)
	}
}

func TestPendingEnrolmentsAreBounded(t *testing.T) {
	w := tpmtest.NewWorld(t)
	c := &clock{tpmtest.Now}
	e := newEnroller(t, w, c)
	for range 20 {
		if _, err := e.Begin(t.Context(), request(w.TPM)); err != nil {
			t.Fatal(err)
		}
		c.t = c.t.Add(time.Second)
	}
	if n := e.Pending(); n != 4 {
		t.Errorf("one TPM has %d enrolments pending, want 4", n)
	}
	if _, err := e.Begin(t.Context(), request(tpmtest.NewTPM(t, w.EKCA))); err != nil {
		t.Errorf("a second TPM is kept out: %v", err)
	}
	for range 4 {
		other := tpmtest.NewTPM(t, w.EKCA)
		for range 4 {
			if _, err := e.Begin(t.Context(), request(other)); err != nil && !fault.Has(err, "tpm.enroll.busy") {
				t.Fatal(err)
			}
		}
	}
	if n := e.Pending(); n > 8 {
		t.Errorf("%d enrolments pending, limit 8", n)
	}
}
