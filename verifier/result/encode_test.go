package result

import (
	"bytes"
	"strings"
	"testing"

	"cocoon/internal/jcs"
)

// sample returns claims with every member, and checks with every text.
func sample() *EAR {
	e := &EAR{Profile: EARProfile, IssuedAt: 1_700_000_000, Expires: 1_700_003_600, ID: "id", VerifierID: EARVerifier{"cocoon", "1"}, Nonce: "n",
		TrustClass: "test", Development: true, TestRoots: []string{"amd", "intel"}, Manifest: ManifestRef{Name: "image", Version: 7}, Payout: "0:ab", Submods: map[string]*EARSubmod{}}
	e.Confirm.JWK.KeyType, e.Confirm.JWK.Curve, e.Confirm.JWK.X = "OKP", "Ed25519", "x"
	e.Model.Name = "chat"
	e.TLSSPKISHA256[0], e.PolicySHA256[3], e.Model.VerityRoot[31], e.Manifest.SHA256[9] = 1, 2, 3, 255
	for _, name := range []string{"cpu0", "gpu10", "gpu2", "image"} {
		e.Submods[name] = &EARSubmod{Status: Warning, Vector: Vector{Hardware: 32, InstanceIdentity: 2, Configuration: -1}, PolicyIDs: []string{"urn:sha256:00", "b"}}
	}
	return e
}

// sampleChecks returns checks with every text.
func sampleChecks() map[string]*Submod {
	out := map[string]*Submod{}
	for _, name := range []string{"cpu0", "gpu10", "gpu2", "image"} {
		out[name] = &Submod{Checks: []Check{
			{ID: "tdx.report_data", Status: Pass, Actual: "ab", Expected: "cd", Reason: "why", Remedy: "do", Document: "doc", Section: "1"},
			{ID: "tls.spki", Status: Skip}, {ID: "nonce.inputs", Status: Pass, Expected: "1"}, {ID: "claims.keys", Status: Pass, Reason: "r"},
		}}
	}
	return out
}

// texts are what evidence can put into a verdict.
var texts = []string{"", "plain", `"quoted" \`, "line\nfeed\x00\x1f", "é € 𝄞", "<&>", "\u2028", "\xff\xfe", "a\xe2\x82"}

// TestTheEncoderOfVerdictsWritesCanonicalJSON holds the encoder against package
// jcs: what it takes, jcs gives the same for.
func TestTheEncoderOfVerdictsWritesCanonicalJSON(t *testing.T) {
	changes := map[string]func(e *EAR, s string){
		"as it is":      func(*EAR, string) {},
		"payout":        func(e *EAR, s string) { e.Payout = s },
		"model":         func(e *EAR, s string) { e.Model.Name = s },
		"image":         func(e *EAR, s string) { e.Manifest.Name = s },
		"build":         func(e *EAR, s string) { e.VerifierID.Build = s },
		"test root":     func(e *EAR, s string) { e.TestRoots = []string{s} },
		"no test roots": func(e *EAR, s string) { e.TestRoots = nil },
		"submodule":     func(e *EAR, s string) { e.Submods[s] = e.Submods["cpu0"] },
		"category":      func(e *EAR, s string) { e.Submods["cpu0"].Vector[s] = 3 },
		"many": func(e *EAR, s string) {
			e.Submods["cpu0"].Vector = Vector{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7, "h": 8, "i": 9, s: 1}
		},
		"checks":    func(e *EAR, s string) { e.Submods["cpu0"].Claims = &EARChecks{} },
		"no vector": func(e *EAR, s string) { e.Submods["cpu0"].Vector = nil },
		"empty lists": func(e *EAR, s string) {
			e.Submods["cpu0"].Vector, e.Submods["cpu0"].PolicyIDs = Vector{}, []string{}
		},
		"no submodules":  func(e *EAR, s string) { e.Submods = nil },
		"large version":  func(e *EAR, s string) { e.Manifest.Version = 1 << 60 },
		"negative time":  func(e *EAR, s string) { e.IssuedAt = -5 },
		"a far away one": func(e *EAR, s string) { e.Expires = 1 << 62 },
	}
	taken := 0
	for name, change := range changes {
		for _, s := range texts {
			e := sample()
			change(e, s)
			got, ok := appendEAR([]byte("before"), e)
			if !ok {
				continue
			}
			taken++
			want, err := jcs.Marshal(e)
			if err != nil || !bytes.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("%s %q: %v\n got %s\nwant %s", name, s, err, got, want)
			}
		}
	}
	if taken < 70 {
		t.Errorf("the encoder takes %d of %d verdicts", taken, len(changes)*len(texts))
	}
}

// TestTheEncoderOfChecksWritesCanonicalJSON is the same for the checks.
func TestTheEncoderOfChecksWritesCanonicalJSON(t *testing.T) {
	changes := map[string]func(m map[string]*Submod, s string){
		"as it is":   func(map[string]*Submod, string) {},
		"actual":     func(m map[string]*Submod, s string) { m["cpu0"].Checks[0].Actual = s },
		"id":         func(m map[string]*Submod, s string) { m["cpu0"].Checks[1].ID = s },
		"status":     func(m map[string]*Submod, s string) { m["cpu0"].Checks[1].Status = s },
		"remedy":     func(m map[string]*Submod, s string) { m["gpu2"].Checks[1].Remedy = s },
		"expected":   func(m map[string]*Submod, s string) { m["gpu10"].Checks[2].Expected = s },
		"reason":     func(m map[string]*Submod, s string) { m["image"].Checks[3].Reason = s },
		"submodule":  func(m map[string]*Submod, s string) { m[s] = m["cpu0"] },
		"no checks":  func(m map[string]*Submod, s string) { m["cpu0"].Checks = nil },
		"empty list": func(m map[string]*Submod, s string) { m["cpu0"].Checks = []Check{} },
		"nothing":    func(m map[string]*Submod, s string) { clear(m) },
	}
	taken := 0
	for name, change := range changes {
		for _, s := range texts {
			m := sampleChecks()
			change(m, s)
			got, ok := appendChecks([]byte("before"), m)
			if !ok {
				continue
			}
			taken++
			want, err := jcs.Marshal(checksForm(m))
			if err != nil || !bytes.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("%s %q: %v\n got %s\nwant %s", name, s, err, got, want)
			}
		}
	}
	if taken < 60 {
		t.Errorf("the encoder takes %d of %d documents", taken, len(changes)*len(texts))
	}
	if doc, ok := appendChecks(nil, sampleChecks()); !ok || strings.Contains(string(doc), "section") {
		t.Errorf("what checks follow goes along: %s", doc)
	}
}

func FuzzEncodeEAR(f *testing.F) {
	for _, s := range texts {
		f.Add(s, s, s, int64(len(s)))
	}
	f.Fuzz(func(t *testing.T, id, actual, name string, n int64) {
		e := sample()
		e.Submods[name] = e.Submods["cpu0"]
		e.Submods[name].Vector[name] = int(n)
		e.Payout, e.Model.Name = id, actual
		e.Expires = n
		if got, ok := appendEAR(nil, e); ok {
			if want, err := jcs.Marshal(e); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v\n got %s\nwant %s", err, got, want)
			}
		}
		m := sampleChecks()
		m[name] = m["cpu0"]
		m["image"].Checks[0].ID, m["image"].Checks[0].Actual = id, actual
		if got, ok := appendChecks(nil, m); ok {
			if want, err := jcs.Marshal(checksForm(m)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v\n got %s\nwant %s", err, got, want)
			}
		}
	})
}
