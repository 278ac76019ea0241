package tpm_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"cocoon/internal/vectors"
	"cocoon/measurements/pcr"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// TestEveryByteOfAQuoteMatters flips each byte of quote and signature.
func TestEveryByteOfAQuoteMatters(t *testing.T) {
	w := tpmtest.NewWorld(t)
	ev := w.Evidence(t)
	q, err := ev.Claims.QualifyingData()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := tpm.ParseRoots(w.Policy.TPM.AKRoots)
	if err != nil {
		t.Fatal(err)
	}
	var events [][]byte
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, b)
	}
	good := func() bool {
		r := verified(t, &tpm.Evidence{Attest: ev.CPU.Quote, Signature: ev.CPU.Signature, CertChain: ev.CPU.CertChain, EventLog: ev.CPU.EventLog, RuntimeEvents: events},
			&tpm.Options{AKRoots: roots, Now: tpmtest.Now, QualifyingData: q[:]})
		for _, c := range r.Checks {
			if c.Status != "pass" {
				return false
			}
		}
		return true
	}
	if !good() {
		t.Fatal("the unchanged quote is refused")
	}
	for what, b := range map[string][]byte{"quote": ev.CPU.Quote, "signature": ev.CPU.Signature, "certificate": ev.CPU.CertChain[0]} {
		for i := range b {
			b[i] ^= 0x10
			if good() {
				t.Errorf("byte %d of the %s: accepted", i, what)
			}
			b[i] ^= 0x10
		}
	}
	ev.CPU.Quote = append(ev.CPU.Quote, 0)
	if good() {
		t.Error("a byte after the quote: accepted")
	}
}

// TestForgedStructuresAreRefused signs what a TPM would never sign with a
// restricted key, or asks it for too little.
func TestForgedStructuresAreRefused(t *testing.T) {
	w := tpmtest.NewWorld(t)
	ev := w.Evidence(t)
	q, err := ev.Claims.QualifyingData()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := tpm.ParseRoots(w.Policy.TPM.AKRoots)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*tpm2.TPMSAttest)) []byte {
		a, err := tpm2.Unmarshal[tpm2.TPMSAttest](ev.CPU.Quote)
		if err != nil {
			t.Fatal(err)
		}
		f(a)
		return tpm2.Marshal(*a)
	}
	selected := func(sel tpm2.TPMLPCRSelection) func(*tpm2.TPMSAttest) {
		return func(a *tpm2.TPMSAttest) {
			a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: sel, PCRDigest: tpm2.TPM2BDigest{Buffer: make([]byte, 32)}})
		}
	}
	bank := func(alg tpm2.TPMAlgID, n ...uint) tpm2.TPMSPCRSelection {
		return tpm2.TPMSPCRSelection{Hash: alg, PCRSelect: tpm2.PCClientCompatible.PCRs(n...)}
	}
	for name, c := range map[string]struct {
		attest []byte
		want   string
	}{
		"another magic number": {append([]byte{0, 'T', 'C', 'G'}, ev.CPU.Quote[4:]...), tpm.CheckFormat},
		"an attestation of the time": {change(func(a *tpm2.TPMSAttest) {
			a.Type = tpm2.TPMSTAttestTime
			a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestTime, &tpm2.TPMSTimeAttestInfo{})
		}), tpm.CheckType},
		"no registers":       {change(selected(tpm2.TPMLPCRSelection{})), tpm.CheckSelection},
		"too few registers":  {change(selected(tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{bank(tpm2.TPMAlgSHA256, 0, 1, 2)}})), tpm.CheckSelection},
		"the SHA-1 bank":     {change(selected(tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{bank(tpm2.TPMAlgSHA1, tpm.PCRs()...)}})), tpm.CheckSelection},
		"a second bank":      {change(selected(tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{bank(tpm2.TPMAlgSHA256, tpm.PCRs()...), bank(tpm2.TPMAlgSHA1, 0)}})), tpm.CheckSelection},
		"other extra data":   {change(func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = make([]byte, 32) }), tpm.CheckExtraData},
		"shorter extra data": {change(func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = a.ExtraData.Buffer[:31] }), tpm.CheckExtraData},
		"an empty PCR digest": {change(func(a *tpm2.TPMSAttest) {
			a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: tpm.Selection()})
		}), tpm.CheckPCRDigest},
	} {
		t.Run(name, func(t *testing.T) {
			r := verified(t, &tpm.Evidence{Attest: c.attest, Signature: w.TPM.Sign(t, c.attest), CertChain: ev.CPU.CertChain, EventLog: ev.CPU.EventLog},
				&tpm.Options{AKRoots: roots, Now: tpmtest.Now, QualifyingData: q[:]})
			for _, k := range r.Checks {
				if k.ID == c.want && k.Status == "fail" {
					return
				}
			}
			t.Errorf("%s did not fail: %+v", c.want, r.Checks)
		})
	}
}

// TestRealQuotesParse reads the quotes of Azure's virtual TPMs.
func TestRealQuotesParse(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(t), "azure-vtpm", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	read := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, attest := range attests(t, b) {
			q, err := tpm.ParseQuote(attest)
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(f), err)
				continue
			}
			read++
			if len(q.PCRDigest) != 32 {
				t.Errorf("%s: PCR digest of %d bytes", filepath.Base(f), len(q.PCRDigest))
			}
		}
	}
	if read == 0 {
		t.Error("no quote was found in the vectors")
	}
}

// attests finds every string in a JSON document that decodes to something
// with TPM_GENERATED_VALUE in front.
func attests(t *testing.T, doc []byte) [][]byte {
	t.Helper()
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	take := func(b []byte) {
		if strings.HasPrefix(string(b), "\xffTCG") {
			out = append(out, b)
		}
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		case []any:
			var b []byte
			for _, e := range v {
				walk(e)
				if n, ok := e.(float64); ok && n >= 0 && n < 256 {
					b = append(b, byte(n))
				}
			}
			take(b)
		case string:
			for _, dec := range []func(string) ([]byte, error){base64.StdEncoding.DecodeString, base64.RawURLEncoding.DecodeString, hex.DecodeString} {
				if b, err := dec(v); err == nil {
					take(b)
				}
			}
		}
	}
	walk(v)
	return out
}

func FuzzParseQuote(f *testing.F) {
	w := tpmtest.NewWorld(f)
	attest, _ := w.TPM.Quote(f, [32]byte{1}, pcr.Values{})
	f.Add(attest)
	f.Fuzz(func(t *testing.T, in []byte) {
		if q, err := tpm.ParseQuote(in); err == nil && q == nil {
			t.Fatal("neither a quote nor an error")
		}
	})
}

func FuzzVerify(f *testing.F) {
	w := tpmtest.NewWorld(f)
	ev := w.Evidence(f)
	roots, err := tpm.ParseRoots(w.Policy.TPM.AKRoots)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ev.CPU.Quote, ev.CPU.Signature, ev.CPU.CertChain[0], ev.CPU.EventLog)
	f.Fuzz(func(t *testing.T, attest, signature, cert, log []byte) {
		// Other qualifying data than the seed's: nothing can be good.
		r := verified(t, &tpm.Evidence{Attest: attest, Signature: signature, CertChain: [][]byte{cert}, EventLog: log},
			&tpm.Options{AKRoots: roots, Now: tpmtest.Now, QualifyingData: make([]byte, 32)})
		for _, c := range r.Checks {
			if c.Status == "fail" {
				return
			}
		}
		t.Fatal("every check passed")
	})
}

func FuzzEnroll(f *testing.F) {
	w := tpmtest.NewWorld(f)
	roots, err := tpm.ParseRoots(w.Policy.TPM.EKRoots)
	if err != nil {
		f.Fatal(err)
	}
	e, err := tpm.NewEnroller(tpm.EnrollerOptions{EKRoots: roots, CA: w.AKCA, Clock: (&clock{tpmtest.Now}).now})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(w.TPM.EKChain[0], w.TPM.EKPublic, w.TPM.AKPublic)
	f.Fuzz(func(t *testing.T, cert, ek, ak []byte) {
		req := request(w.TPM)
		req.EKChain, req.EKPublic, req.AKPublic = [][]byte{cert}, ek, ak
		if rsp, err := e.Begin(t.Context(), req); err == nil && len(rsp.CredentialBlob) == 0 {
			t.Fatal("neither a credential nor an error")
		}
	})
}
