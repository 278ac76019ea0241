package azure_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/azure"
	"cocoon/verifier/azure/bundle"
	"cocoon/verifier/azure/hcl"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tpm"
)

// at is a time at which certificates and collateral of all vectors are valid.
var at = time.Unix(1782599235, 0).UTC()

const tdxBundle = "tdx-trustee-evidence-v1.json"

func read(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{vectors.Dir(t)}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func load(t testing.TB, name string) *azure.Evidence {
	t.Helper()
	ev, err := bundle.Parse(read(t, "azure-vtpm", name))
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// options returns options under which the vectors verify, but for what the
// quote must carry.
func options(t testing.TB) *azure.Options {
	t.Helper()
	raw, err := collateral.ParseJSON(read(t, "tdx", "tdx-v4-trustee-00806f050000-a187.e21.collateral.json"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := collateral.Open(raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &azure.Options{Now: at, AnySelection: true, AnyQualifyingData: true,
		SNP: &snp.Options{Cache: snp.NewCache(snp.CacheOptions{})},
		TDX: &dcap.Options{Collateral: set, Cache: dcap.NewCache(dcap.CacheOptions{})}}
}

func failed(checks []result.Check) (ids []string) {
	for _, c := range checks {
		if c.Status == result.Fail {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// TestEvidenceOfRealVMsVerifies verifies every bundle of the vectors, with
// what its quote carries.
func TestEvidenceOfRealVMsVerifies(t *testing.T) {
	for name, c := range map[string]struct{ class, data string }{
		"snp-trustee-evidence-genoa.json": {azure.ClassSNP, "0218488bae25d2509232bf676f1a66a30d7372add909109b36016ef136f2938ca05475f8b46094de6b64270ea35d950f"},
		"snp-trustee-evidence-v0.json":    {azure.ClassSNP, hex.EncodeToString([]byte("challenge"))},
		"snp-trustee-evidence-v1.json":    {azure.ClassSNP, hex.EncodeToString([]byte("challenge"))},
		"snp-trustee-evidence-v2.json":    {azure.ClassSNP, "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef"},
		tdxBundle:                         {azure.ClassTDX, hex.EncodeToString([]byte("challenge"))},
	} {
		t.Run(name, func(t *testing.T) {
			ev, o := load(t, name), options(t)
			o.AnyQualifyingData = false
			var err error
			if o.QualifyingData, err = hex.DecodeString(c.data); err != nil {
				t.Fatal(err)
			}
			r, err := verified(t, ev, o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Class != c.class || !r.Genuine || len(r.Checks) < 10 || failed(r.Checks) != nil {
				t.Errorf("class %s, genuine %v, failed %v", r.Class, r.Genuine, failed(r.Checks))
			}
			switch c.class {
			case azure.ClassSNP:
				if r.TDX != nil || r.SNP == nil || !r.SNP.Genuine || r.SNP.Debug || r.SNP.VMPL != 0 {
					t.Errorf("the hardware's verdict is %+v", r.SNP)
				}
			case azure.ClassTDX:
				if r.SNP != nil || r.TDX == nil || !r.TDX.Genuine || r.TDX.TCB.Status != tcb.OutOfDate {
					t.Errorf("the hardware's verdict is %+v", r.TDX)
				}
			}
			if !r.HCL.VM.SecureBoot || !r.HCL.VM.TPM || len(r.HCL.VM.ID) != 36 {
				t.Errorf("the VM is %+v", r.HCL.VM)
			}
			if got := r.TPM.Banks[eventlog.SHA256]; len(got) != 24 || !bytes.Equal(got[4], ev.PCRs[eventlog.SHA256][4]) {
				t.Errorf("%d registers are proven", len(got))
			}
			o.QualifyingData[0] ^= 1
			if r, err := verified(t, ev, o); err == nil || !slices.Equal(failed(r.Checks), []string{tpm.CheckExtraData}) {
				t.Errorf("another challenge: %v", err)
			}
		})
	}
}

// TestEveryByteMatters flips bytes of every bundle: each one of the quote and its
// signature, of the HCL report with the hardware's report and the runtime data
// in it, the attestation key among them, of each register, and of the
// hardware's certificate or quote.
func TestEveryByteMatters(t *testing.T) {
	vectors.Dir(t)
	for _, name := range []string{"snp-trustee-evidence-genoa.json", "snp-trustee-evidence-v0.json", "snp-trustee-evidence-v1.json", "snp-trustee-evidence-v2.json", tdxBundle} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ev, o := load(t, name), options(t)
			if _, err := verified(t, ev, o); err != nil {
				t.Fatal(err)
			}
			parts := map[string][]byte{"quote": ev.Attest, "signature": ev.Signature, "HCL report": ev.HCL, "TD quote": ev.TDQuote}
			for n, v := range ev.PCRs[eventlog.SHA256] {
				parts["PCR "+string(rune('a'+n))] = v
			}
			flips := 0
			for what, b := range parts {
				// Two bundles are of a VM that is like another one: of their reports,
				// each fifth byte.
				step := 1
				if what == "HCL report" && (name == "snp-trustee-evidence-v0.json" || name == "snp-trustee-evidence-v1.json") {
					step = 5
				}
				for i := 0; i < len(b); i += step {
					// The MAC of the TDREPORT is for the CPU that made it: nobody else can
					// tell, and nothing is taken from it.
					if name == tdxBundle && what == "HCL report" && i >= 32+224 && i < 32+256 {
						continue
					}
					b[i] ^= 1 << (i % 8)
					flips++
					if r, err := verified(t, ev, o); err == nil || r != nil && r.Genuine {
						t.Errorf("byte %d of the %s: accepted", i, what)
					}
					b[i] ^= 1 << (i % 8)
				}
			}
			// A certificate's bytes, each tenth: the chain is RSA of 4096 bits.
			for i := 0; i < len(ev.VCEK); i += 10 {
				b := bytes.Clone(ev.VCEK)
				b[i] ^= 1
				changed := *ev
				changed.VCEK = b
				if _, err := verified(t, &changed, o); err == nil && !bytes.HasPrefix(b, []byte("-----BEGIN")) && !sameBase64(ev.VCEK, b) {
					t.Errorf("byte %d of the certificate: accepted", i)
				}
			}
			if flips < 1600 {
				t.Errorf("%d flips, want 1600 or more", flips)
			}
			if _, err := verified(t, ev, o); err != nil {
				t.Errorf("unchanged at the end: %v", err)
			}
		})
	}
}

// sameBase64 reports whether two PEM texts have the same content.
func sameBase64(a, b []byte) bool {
	return strings.Join(strings.Fields(string(a)), "") == strings.Join(strings.Fields(string(b)), "")
}

// rebuild puts other runtime data into a report, with sizes that fit.
func rebuild(hclReport []byte, change func(string) string) []byte {
	le := binary.LittleEndian
	out := bytes.Clone(hclReport[:1216+20])
	n := le.Uint32(out[1216+16:])
	data := change(string(hclReport[1236 : 1236+n]))
	le.PutUint32(out[1216+16:], uint32(len(data)))
	le.PutUint32(out[1216:], uint32(len(data)+20))
	le.PutUint32(out[8:], uint32(len(data)+20+1216))
	return append(out, data...)
}

// TestForgedEvidenceIsRefused puts together what does not belong together.
func TestForgedEvidenceIsRefused(t *testing.T) {
	genoa, v2, td := "snp-trustee-evidence-genoa.json", "snp-trustee-evidence-v2.json", tdxBundle
	for name, c := range map[string]struct {
		of     string
		change func(ev, other *azure.Evidence)
		want   []string
	}{
		"another VM's quote":        {genoa, func(ev, o *azure.Evidence) { ev.Attest, ev.Signature, ev.PCRs = o.Attest, o.Signature, o.PCRs }, []string{tpm.CheckSignature}},
		"another VM's runtime data": {genoa, func(ev, o *azure.Evidence) { ev.HCL = rebuild(ev.HCL, func(string) string { return runtimeOf(o.HCL) }) }, []string{azure.CheckRuntime, tpm.CheckSignature}},
		"another attestation key": {genoa, func(ev, o *azure.Evidence) {
			ev.HCL = rebuild(ev.HCL, func(s string) string { return strings.Replace(s, akOf(s), akOf(runtimeOf(o.HCL)), 1) })
		}, []string{azure.CheckRuntime, tpm.CheckSignature}},
		"other registers":               {genoa, func(ev, o *azure.Evidence) { ev.PCRs = o.PCRs }, []string{tpm.CheckPCRDigest}},
		"another VM's report":           {genoa, func(ev, o *azure.Evidence) { copy(ev.HCL[32:1216], o.HCL[32:1216]) }, []string{"snp.cert.product", "snp.cert.tcb", "snp.cert.chip_id", "snp.signature", azure.CheckRuntime}},
		"no certificate":                {genoa, func(ev, _ *azure.Evidence) { ev.VCEK = nil }, []string{"snp.cert.missing"}},
		"a TD quote beside a report":    {genoa, func(ev, _ *azure.Evidence) { ev.TDQuote = []byte{1} }, []string{azure.CheckTDQuote}},
		"no TD quote":                   {td, func(ev, _ *azure.Evidence) { ev.TDQuote = nil }, []string{azure.CheckTDQuote}},
		"an SNP certificate for a TD":   {td, func(ev, o *azure.Evidence) { ev.VCEK = o.VCEK }, []string{azure.CheckTDQuote}},
		"a TD quote that is none":       {td, func(ev, _ *azure.Evidence) { ev.TDQuote = []byte("quote") }, []string{"tdx.quote.parse"}},
		"a TDREPORT of other registers": {td, func(ev, _ *azure.Evidence) { ev.HCL[32+512+20] ^= 1 }, []string{azure.CheckTDReport}},
	} {
		t.Run(name, func(t *testing.T) {
			ev, other, o := load(t, c.of), load(t, v2), options(t)
			c.change(ev, other)
			r, err := verified(t, ev, o)
			if err == nil || r == nil {
				t.Fatalf("result %v, error %v", r, err)
			}
			got := failed(r.Checks)
			for _, id := range c.want {
				if !slices.Contains(got, id) {
					t.Errorf("%s did not fail: %v", id, got)
				}
				if !fault.Has(err, id) {
					t.Errorf("the error does not have %s: %v", id, err)
				}
			}
			if len(got) > len(c.want)+2 {
				t.Errorf("failed %v, want about %v", got, c.want)
			}
		})
	}
}

func runtimeOf(hclReport []byte) string {
	n := binary.LittleEndian.Uint32(hclReport[1216+16:])
	return string(hclReport[1236 : 1236+n])
}

// akOf returns the modulus of the first key, which is the attestation key.
func akOf(runtime string) string {
	_, s, _ := strings.Cut(runtime, `"n":"`)
	s, _, _ = strings.Cut(s, `"`)
	return s
}

// TestMalformedHCLReportsDoNotParse changes the form of a real report.
func TestMalformedHCLReportsDoNotParse(t *testing.T) {
	good := load(t, "snp-trustee-evidence-v2.json").HCL
	if _, err := hcl.Parse(good); err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) []byte {
		return rebuild(good, func(s string) string { return strings.Replace(s, old, new, 1) })
	}
	if _, err := hcl.Parse(edit("", "")); err != nil {
		t.Fatalf("rebuilt: %v", err)
	}
	set := func(off int, v byte) []byte { b := bytes.Clone(good); b[off] = v; return b }
	for name, in := range map[string][]byte{
		"empty":                      nil,
		"cut in the header":          good[:20],
		"cut in the runtime data":    good[:1300],
		"too large":                  append(bytes.Clone(good), make([]byte, hcl.MaxSize)...),
		"another signature":          set(0, 'X'),
		"version 3":                  set(4, 3),
		"another request":            set(12, 1),
		"a failed request":           set(16, 1),
		"a reserved byte":            set(31, 1),
		"hardware of another type":   set(1216+8, 3),
		"a hash of another type":     set(1216+12, 4),
		"hash type zero":             set(1216+12, 0),
		"another runtime version":    set(1216+4, 2),
		"a byte after the data":      append(bytes.Clone(good), 1),
		"a size that does not fit":   set(8, 0),
		"no attestation key":         edit("HCLAkPub", "HCLXxPub"),
		"two attestation keys":       edit("HCLEkPub", "HCLAkPub"),
		"a key for encryption":       edit(`["sign"]`, `["encrypt"]`),
		"a key of another kind":      edit(`"RSA"`, `"EC"`),
		"exponent 3":                 edit(`"AQAB"`, `"Aw"`),
		"a short modulus":            edit(akOf(runtimeOf(good)), "mHSRbgAA"),
		"a key twice in an object":   edit(`"kty":"RSA"`, `"kty":"RSA","kty":"RSA"`),
		"something after the object": edit(`"vm-configuration"`, `"vm":1}{"vm-configuration"`),
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := hcl.Parse(in); err == nil {
				t.Errorf("accepted: %+v", r)
			}
			ev := load(t, "snp-trustee-evidence-v2.json")
			ev.HCL = in
			if r, err := verified(t, ev, options(t)); r != nil || fault.ExitCode(err) != fault.ExitParse || !fault.Has(err, "azure.hcl.parse") {
				t.Errorf("verified: %v, %v", r, err)
			}
		})
	}
}

// TestBothFormsOfABundleMeanTheSame compares the older form with the newer
// one of the same VM.
func TestBothFormsOfABundleMeanTheSame(t *testing.T) {
	old, now := load(t, "snp-trustee-evidence-v0.json"), load(t, "snp-trustee-evidence-v1.json")
	if diff := cmp.Diff(runtimeOf(old.HCL), runtimeOf(now.HCL)); diff != "" {
		t.Errorf("runtime data differs: %s", diff)
	}
	if diff := cmp.Diff(old.PCRs[eventlog.SHA256][0], now.PCRs[eventlog.SHA256][0]); diff != "" {
		t.Errorf("PCR 0 differs: %s", diff)
	}
	if sha256.Sum256(old.Attest) == sha256.Sum256(now.Attest) {
		t.Error("two quotes are the same one")
	}
}
