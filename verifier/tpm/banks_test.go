package tpm_test

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"cocoon/measurements/eventlog"
	"cocoon/verifier/result"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// realLog returns the log of a real boot, which has both banks.
func realLog(t testing.TB) ([]byte, tpm.Banks) {
	t.Helper()
	raw, err := os.ReadFile("../../measurements/eventlog/testdata/direct-boot.eventlog.bin")
	if err != nil {
		t.Fatal(err)
	}
	l, err := eventlog.ParseTPM(raw)
	if err != nil {
		t.Fatal(err)
	}
	banks := tpm.Banks{}
	for a, size := range map[eventlog.Algorithm]int{eventlog.SHA256: 32, eventlog.SHA384: 48} {
		regs, err := l.Replay(a)
		if err != nil {
			t.Fatal(err)
		}
		banks[a] = map[int][]byte{}
		for n := range 24 {
			if v, ok := regs[n]; ok {
				banks[a][n] = v
			} else if n >= 17 && n <= 22 {
				banks[a][n] = bytes.Repeat([]byte{0xff}, size)
			} else {
				banks[a][n] = make([]byte, size)
			}
		}
	}
	return raw, banks
}

func failed(r *tpm.Result) (ids []string) {
	for _, c := range r.Checks {
		if c.Status == result.Fail {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// TestQuotesOfEveryKeyAndBankVerify quotes the registers of a real boot with
// keys of every scheme, over one bank, the other, and both.
func TestQuotesOfEveryKeyAndBankVerify(t *testing.T) {
	raw, banks := realLog(t)
	all := []uint{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 17, 23}
	for _, scheme := range []string{tpmtest.ECDSA256, tpmtest.ECDSA384, tpmtest.RSASSA256, tpmtest.RSASSA384, tpmtest.RSAPSS256} {
		ak := tpmtest.NewAK(t, scheme)
		for name, sel := range map[string]tpm2.TPMLPCRSelection{
			"SHA-256": tpmtest.Select(all, eventlog.SHA256),
			"SHA-384": tpmtest.Select(all, eventlog.SHA384),
			"both":    tpmtest.Select(all, eventlog.SHA384, eventlog.SHA256),
		} {
			t.Run(scheme+" "+name, func(t *testing.T) {
				attest, sig := ak.Quote(t, []byte("challenge"), sel, banks)
				o := &tpm.Options{Key: ak.Key.Public(), QualifyingData: []byte("challenge"), AnySelection: true}
				ev := &tpm.Evidence{Attest: attest, Signature: sig, EventLog: raw}
				r := verified(t, ev, o)
				if got := failed(r); got != nil {
					t.Fatalf("failed: %v %+v", got, r.Checks)
				}
				for _, s := range sel.PCRSelections {
					if diff := cmp.Diff(banks[eventlog.Algorithm(s.Hash)][9], r.Banks[eventlog.Algorithm(s.Hash)][9]); diff != "" {
						t.Errorf("PCR 9 (-want +got):\n%s", diff)
					}
				}
				ev.EventLog, ev.PCRs = nil, banks
				if got := failed(verified(t, ev, o)); got != nil {
					t.Errorf("with values instead of a log: %v", got)
				}
				// What a worker shows must be over exactly the SHA-256 bank.
				strict := *o
				strict.AnySelection = false
				if got := failed(verified(t, ev, &strict)); !slices.Contains(got, tpm.CheckSelection) {
					t.Errorf("accepted as a worker's: %v", got)
				}
				for i := range sig {
					sig[i] ^= 1
					if failed(verified(t, ev, o)) == nil {
						t.Fatalf("byte %d of the signature: accepted", i)
					}
					sig[i] ^= 1
				}
				for i := range attest {
					attest[i] ^= 1
					if failed(verified(t, ev, o)) == nil {
						t.Fatalf("byte %d of the quote: accepted", i)
					}
					attest[i] ^= 1
				}
			})
		}
	}
}

// TestQuotesWithOtherRegistersAreRefused changes what comes with a quote.
func TestQuotesWithOtherRegistersAreRefused(t *testing.T) {
	raw, banks := realLog(t)
	ak := tpmtest.NewAK(t, tpmtest.RSASSA256)
	other := tpmtest.NewAK(t, tpmtest.RSASSA256)
	sel := tpmtest.Select([]uint{0, 4, 9}, eventlog.SHA256)
	attest, sig := ak.Quote(t, []byte("x"), sel, banks)
	change := func(f func(tpm.Banks)) tpm.Banks {
		b := tpm.Banks{}
		for a, m := range banks {
			b[a] = map[int][]byte{}
			for n, v := range m {
				b[a][n] = bytes.Clone(v)
			}
		}
		f(b)
		return b
	}
	parsed, err := eventlog.ParseTPM(raw)
	if err != nil {
		t.Fatal(err)
	}
	last := parsed.Events[len(parsed.Events)-1]
	twice := slices.Concat(raw, raw[len(raw)-eventSize(&last):])
	for name, c := range map[string]struct {
		ev   tpm.Evidence
		o    tpm.Options
		want []string
	}{
		"unchanged":                  {ev: tpm.Evidence{PCRs: banks, EventLog: raw}},
		"another value":              {ev: tpm.Evidence{PCRs: change(func(b tpm.Banks) { b[eventlog.SHA256][4][0] ^= 1 })}, want: []string{tpm.CheckPCRDigest}},
		"a value that is missing":    {ev: tpm.Evidence{PCRs: change(func(b tpm.Banks) { delete(b[eventlog.SHA256], 9) })}, want: []string{tpm.CheckPCRDigest}},
		"a value that is too short":  {ev: tpm.Evidence{PCRs: change(func(b tpm.Banks) { b[eventlog.SHA256][9] = nil })}, want: []string{tpm.CheckPCRDigest}},
		"a value that was not asked": {ev: tpm.Evidence{PCRs: change(func(b tpm.Banks) { b[eventlog.SHA256][7][0] ^= 1 })}},
		"a log of other registers":   {ev: tpm.Evidence{PCRs: change(func(b tpm.Banks) { b[eventlog.SHA256][7][0] ^= 1 }), EventLog: raw}, want: []string{tpm.CheckLogReplay}},
		"neither log nor values":     {want: []string{tpm.CheckLog, tpm.CheckPCRDigest}},
		"a log with a forged end":    {ev: tpm.Evidence{EventLog: twice}, want: []string{tpm.CheckLogStructure}},
		"a log that is cut":          {ev: tpm.Evidence{EventLog: raw[:len(raw)-1]}, want: []string{tpm.CheckLog, tpm.CheckPCRDigest}},
		"another key":                {ev: tpm.Evidence{PCRs: banks}, o: tpm.Options{Key: other.Key.Public()}, want: []string{tpm.CheckSignature}},
		"other qualifying data":      {ev: tpm.Evidence{PCRs: banks}, o: tpm.Options{QualifyingData: []byte("y")}, want: []string{tpm.CheckExtraData}},
		"empty qualifying data":      {ev: tpm.Evidence{PCRs: banks}, o: tpm.Options{QualifyingData: []byte{}}, want: []string{tpm.CheckExtraData}},
	} {
		t.Run(name, func(t *testing.T) {
			c.ev.Attest, c.ev.Signature = attest, sig
			c.o.AnySelection = true
			if c.o.Key == nil {
				c.o.Key = ak.Key.Public()
			}
			if c.o.QualifyingData == nil {
				c.o.QualifyingData = []byte("x")
			}
			if diff := cmp.Diff(c.want, failed(verified(t, &c.ev, &c.o))); diff != "" {
				t.Errorf("failed checks (-want +got):\n%s", diff)
			}
		})
	}
}

// eventSize returns the size of an event's bytes in a log.
func eventSize(e *eventlog.Event) int {
	n := 12 + 4 + len(e.Data)
	for _, d := range e.Digests {
		n += 2 + len(d.Value)
	}
	return n
}

// TestKeysSignInTheirOwnSchemeOnly certifies a key of one scheme and signs in
// another.
func TestKeysSignInTheirOwnSchemeOnly(t *testing.T) {
	w := tpmtest.NewWorld(t)
	raw, banks := realLog(t)
	sel := tpm.Selection()
	roots, err := tpm.ParseRoots(w.Policy.TPM.AKRoots)
	if err != nil {
		t.Fatal(err)
	}
	pss, ssa := tpmtest.NewAK(t, tpmtest.RSAPSS256), tpmtest.NewAK(t, tpmtest.RSASSA256)
	der, err := w.AKCA.Issue(pss.Public, pss.Key.Public(), w.EKCA.Cert, tpmtest.Now.Add(-1e9), tpmtest.Now.Add(3600e9))
	if err != nil {
		t.Fatal(err)
	}
	verify := func(attest, sig []byte) []string {
		return failed(verified(t, &tpm.Evidence{Attest: attest, Signature: sig, CertChain: [][]byte{der}, EventLog: raw},
			&tpm.Options{AKRoots: roots, Now: tpmtest.Now, QualifyingData: []byte("x")}))
	}
	if got := verify(pss.Quote(t, []byte("x"), sel, banks)); got != nil {
		t.Errorf("an RSAPSS key's own quote is refused: %v", got)
	}
	ssa.Key = pss.Key // the same key in the other scheme
	if diff := cmp.Diff([]string{tpm.CheckSignature}, verify(ssa.Quote(t, []byte("x"), sel, banks))); diff != "" {
		t.Errorf("failed checks (-want +got):\n%s", diff)
	}
}

// TestResultSaysUnderWhichAuthorityAKeyWasEnrolled checks the three ways of
// trusting an attestation key's certificate.
func TestResultSaysUnderWhichAuthorityAKeyWasEnrolled(t *testing.T) {
	w, other := tpmtest.NewWorld(t), tpmtest.NewWorld(t)
	ev := w.Evidence(t)
	roots, err := tpm.ParseRoots(w.Policy.TPM.AKRoots)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o      tpm.Options
		status string
		actual string
	}{
		"a maker that the policy names": {tpm.Options{EKRoots: w.EKCA.Roots()}, result.Pass, "activated under a TPM maker's EK authority: CN=test EK CA"},
		"a development authority":       {tpm.Options{EKRoots: other.EKCA.Roots(), DevelopmentEKRoots: w.EKCA.Roots()}, result.Pass, "activated under a development EK authority: CN=test EK CA"},
		"another maker":                 {tpm.Options{EKRoots: other.EKCA.Roots()}, result.Fail, "certificate "},
		"none named":                    {tpm.Options{}, result.Pass, "activated; the EK authority, certificate "},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.AKRoots, c.o.Now = roots, tpmtest.Now
			for _, k := range verified(t, &tpm.Evidence{CertChain: ev.CPU.CertChain}, &c.o).Checks {
				if k.ID == tpm.CheckAKEnrolment {
					if k.Status != c.status || !bytes.HasPrefix([]byte(k.Actual), []byte(c.actual)) {
						t.Errorf("%+v", k)
					}
					return
				}
			}
			t.Error("no such check")
		})
	}
}
