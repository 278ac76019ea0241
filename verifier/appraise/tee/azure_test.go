package tee_test

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/vectors"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/pcr"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/azure/bundle"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	snppolicy "cocoon/verifier/policy/snp"
	"cocoon/verifier/quote"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tdxtest"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// hclTDX writes the HCL report of a TD, as far as the paravisor would.
func hclTDX(td *quote.TDReport, cpusvn [16]byte, runtime string) []byte {
	t := make([]byte, 1184)
	t[0] = 0x81
	sum := sha256.Sum256([]byte(runtime))
	copy(t[128:], sum[:])
	for off, b := range map[int][]byte{16: cpusvn[:], 264: td.TEETCBSVN[:], 280: td.MRSEAM[:], 328: td.MRSignerSEAM[:], 376: td.SEAMAttributes[:], 512: td.Attributes[:],
		520: td.XFAM[:], 528: td.MRTD[:], 576: td.MRConfigID[:], 624: td.MROwner[:], 672: td.MROwnerConfig[:],
		720: td.RTMR[0][:], 768: td.RTMR[1][:], 816: td.RTMR[2][:], 864: td.RTMR[3][:]} {
		copy(t[off:], b)
	}
	tcb, info := sha512.Sum384(t[256:495]), sha512.Sum384(t[512:1024])
	copy(t[32:], tcb[:])
	copy(t[80:], info[:])
	le := binary.LittleEndian
	b := append([]byte("HCLA"), 2, 0, 0, 0)
	b = le.AppendUint32(b, uint32(1216+20+len(runtime)))
	b = append(le.AppendUint32(b, 2), make([]byte, 16)...)
	b = append(b, t...)
	for _, v := range []uint32{uint32(20 + len(runtime)), 1, 4, 1, uint32(len(runtime))} {
		b = le.AppendUint32(b, v)
	}
	return append(append(b, runtime...), make([]byte, 100)...)
}

// azTDX returns evidence of an Azure VM on TDX that does not exist.
func (w *world) azTDX(t testing.TB) *evidence.Evidence {
	t.Helper()
	ak := tpmtest.NewAK(t, tpmtest.RSASSA256)
	n := base64.RawURLEncoding.EncodeToString(ak.Key.Public().(*rsa.PublicKey).N.Bytes())
	runtime := fmt.Sprintf(`{"keys":[{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"%s"}],"vm-configuration":{"secure-boot":true,"tpm-enabled":true},"user-data":""}`, n)
	ev := w.Evidence(t)
	ev.CPU = evidence.CPU{Type: evidence.TypeAzTDX, CertChain: [][]byte{}, RuntimeEvents: ev.CPU.RuntimeEvents, EventLog: tpmtest.Log(w.Boot.Events(t))}
	td := &w.c.Quote.TD
	sum := sha256.Sum256([]byte(runtime))
	td.ReportData = [64]byte{}
	copy(td.ReportData[:], sum[:])
	ev.CPU.HCLReport = hclTDX(td, w.c.Quote.Platform.CPUSVN, runtime)
	var err error
	if ev.CPU.TDQuote, w.raw, err = w.pki.Make(&w.c); err != nil {
		t.Fatal(err)
	}
	q, err := ev.Claims.QualifyingData()
	if err != nil {
		t.Fatal(err)
	}
	ev.CPU.Quote, ev.CPU.Signature = ak.Quote(t, q[:], tpm.Selection(), w.banks(t, ev))
	return ev
}

// banks returns the registers of the VM's TPM after what the evidence says.
func (w *world) banks(t testing.TB, ev *evidence.Evidence) tpm.Banks {
	t.Helper()
	l, err := eventlog.ParseTPM(ev.CPU.EventLog)
	if err != nil {
		t.Fatal(err)
	}
	regs, err := l.Replay(eventlog.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	values := map[int][]byte{}
	for _, r := range tpm.PCRs() {
		values[int(r)] = make([]byte, 32)
		if v, ok := regs[int(r)]; ok {
			values[int(r)] = v
		}
	}
	var events [][]byte
	for _, e := range ev.CPU.RuntimeEvents {
		b, err := e.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, b)
	}
	v := pcr.Runtime(events)
	values[pcr.RuntimeConfig] = v[:]
	return tpm.Banks{eventlog.SHA256: values}
}

// anotherKey changes a letter of the key's modulus.
func anotherKey(hcl []byte) {
	if at := &hcl[1236+120]; *at == 'A' {
		*at = 'B'
	} else {
		*at = 'A'
	}
}

// TestAnAzureTDIsGoodButForReferenceValues appraises a good VM, and the same
// with one thing changed.
func TestAnAzureTDIsGoodButForReferenceValues(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *evidence.Evidence)
		want   []string
	}{
		"unchanged":               {func(*world, *evidence.Evidence) {}, nil},
		"other claims":            {func(_ *world, ev *evidence.Evidence) { ev.Claims.ReceiptKey[0] ^= 1 }, []string{"tpm.quote.extra_data"}},
		"another key":             {func(_ *world, ev *evidence.Evidence) { anotherKey(ev.CPU.HCLReport) }, []string{"azure.runtime.hash", "tpm.quote.signature"}},
		"another TD":              {func(_ *world, ev *evidence.Evidence) { ev.CPU.HCLReport[32+530] ^= 1 }, []string{"azure.tdx.report"}},
		"another hardware's type": {func(_ *world, ev *evidence.Evidence) { ev.CPU.Type = evidence.TypeAzSNP }, []string{"dcap.collateral.missing", "evidence.cpu.type"}},
		"no dcap policy":          {func(w *world, _ *evidence.Evidence) { w.Policy.DCAP = nil }, []string{"policy.tdx"}},
		"runtime events left out": {func(_ *world, ev *evidence.Evidence) { ev.CPU.RuntimeEvents = nil }, []string{"tpm.quote.pcr_digest", "tpm.runtime_events"}},
		"no event log":            {func(_ *world, ev *evidence.Evidence) { ev.CPU.EventLog = nil }, []string{"tpm.event_log.format", "tpm.quote.pcr_digest"}},
		"a class not accepted":    {func(w *world, _ *evidence.Evidence) { w.Policy.TrustClasses = []string{policy.ClassAzTDX} }, []string{"policy.trust_class"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ev := w.azTDX(t)
			c.change(w, ev)
			r := w.appraise(t, ev)
			got := slices.DeleteFunc(failed(r), func(id string) bool { return id == "manifest.az-tdx" })
			if diff := cmp.Diff(c.want, got, cmp.Transformer("sort", func(in []string) []string { return append([]string{}, in...) })); diff != "" || r.Accepted {
				t.Errorf("accepted %v, failed checks (-want +got):\n%s", r.Accepted, diff)
			}
			if !slices.Contains(failed(r), "manifest.az-tdx") {
				t.Error("manifest.az-tdx did not fail")
			}
		})
	}
}

// TestRealAzureEvidenceIsNotAWorkers appraises the evidence of a real VM on
// SNP: its hardware is good, and it says nothing of these claims.
func TestRealAzureEvidenceIsNotAWorkers(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "azure-vtpm", "snp-trustee-evidence-v2.json"))
	if err != nil {
		t.Fatal(err)
	}
	az, err := bundle.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.Policy.Environment, w.Policy.TrustClasses, w.Policy.DCAP = policy.Production, []string{policy.ClassAzSNP}, &dcappolicy.Policy{TDX: &dcappolicy.TDX{}}
	ev := w.Evidence(t)
	ev.CPU = evidence.CPU{Type: evidence.TypeAzSNP, Quote: az.Attest, Signature: az.Signature, CertChain: [][]byte{az.VCEK}, HCLReport: az.HCL, RuntimeEvents: ev.CPU.RuntimeEvents}
	r := resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tdxtest.Now.Add(time.Hour), CPUs: tee.CPUs(tee.Options{})}))
	if diff := cmp.Diff([]string{"manifest.az-snp", "policy.snp.section", "tpm.event_log.format", "tpm.quote.extra_data", "tpm.quote.pcr_digest", "tpm.quote.pcr_selection"}, failed(r)); diff != "" {
		t.Errorf("failed checks (-want +got):\n%s", diff)
	}
	// A policy that accepts SNP leaves the rest.
	w.Policy.SNP = snppolicy.Default()
	r = resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tdxtest.Now.Add(time.Hour), CPUs: tee.CPUs(tee.Options{})}))
	if diff := cmp.Diff([]string{"manifest.az-snp", "tpm.event_log.format", "tpm.quote.extra_data", "tpm.quote.pcr_digest", "tpm.quote.pcr_selection"}, failed(r)); diff != "" {
		t.Errorf("failed checks under a policy with SNP (-want +got):\n%s", diff)
	}
	passed := 0
	for _, c := range r.Checks() {
		if c.Status == result.Pass && slices.Contains([]string{"snp.signature", "snp.chain", "azure.runtime.hash", "azure.snp.vmpl", "tpm.quote.signature"}, c.ID) {
			passed++
		}
	}
	if passed != 5 || r.TrustClass != policy.ClassAzSNP || r.Measurements["launch_digest"] == "" {
		t.Errorf("%d of 5 checks passed, class %s", passed, r.TrustClass)
	}
}
