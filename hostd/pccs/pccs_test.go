package pccs

import (
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/verifier/pck"
	"cocoon/verifier/tdxtest"
)

// line is what PCKIDRetrievalTool writes, of a platform that does not exist.
var line = strings.Repeat("ab", 384) + ",0000,0202020202020202020200000000000a,0B00," + strings.Repeat("cd", 16) + ",\n"

func TestIdentifiersAreRead(t *testing.T) {
	id, err := ParseID([]byte(line))
	if err != nil || id.PCESVN != "0b00" || id.PCEID != "0000" || len(id.EncryptedPPID) != 768 || id.QEID != strings.Repeat("cd", 16) {
		t.Fatalf("ParseID() = %+v, %v", id, err)
	}
	for _, text := range []string{"", "a,b,c,d,e", line[2:], strings.Replace(line, ",0000", ",00", 1), strings.Repeat("x", MaxID+1), strings.ReplaceAll(line, ",", ";")} {
		if id, err := ParseID([]byte(text)); err == nil {
			t.Errorf("%.20q was read as %+v", text, id)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add([]byte(line))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := ParseID(b); err == nil {
			for _, s := range []string{id.EncryptedPPID, id.PCEID, id.CPUSVN, id.PCESVN, id.QEID} {
				if _, err := hex.DecodeString(s); err != nil {
					t.Errorf("%q is not hex", s)
				}
			}
		}
	})
}

// TestAsk asks a caching service that is simulated, with a PKI of the test's.
func TestAsk(t *testing.T) {
	pki, err := tdxtest.New("pccs")
	if err != nil {
		t.Fatal(err)
	}
	pl := tdxtest.DefaultPlatform()
	chain, err := pki.PCKChain(&pl)
	if err != nil {
		t.Fatal(err)
	}
	end := strings.Index(string(chain), "-----END CERTIFICATE-----\n") + len("-----END CERTIFICATE-----\n")
	leaf, issuers := string(chain[:end]), url.PathEscape(string(chain[end:]))
	id, err := ParseID([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		status int
		header string
		body   string
		code   string
		exit   int
	}{
		{"a platform that is known", 200, issuers, leaf, "", 0},
		{"one that is not in the cache", 461, "", "No cache data for this platform.", "pccs.unknown", fault.ExitNotReady},
		{"one that Intel does not know", 404, "", "", "pccs.unknown", fault.ExitNotReady},
		{"one without a certificate for its TCB", 462, "", "", "pccs.no_certificate", fault.ExitNotReady},
		{"a key that is not taken", 401, "", "", "pccs.key", fault.ExitNotReady},
		{"a service that fails", 502, "", "", "pccs.status", fault.ExitNetwork},
		{"no certificate at all", 200, issuers, "hello", "pccs.certificate", fault.ExitRefused},
		{"no issuers", 200, "", leaf, "pccs.certificate", fault.ExitRefused},
		{"issuers that cannot be read", 200, "%zz", leaf, "pccs.certificate", fault.ExitRefused},
		{"an answer without end", 200, issuers, strings.Repeat(leaf, 100), "pccs.unreachable", fault.ExitNetwork},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var asked *url.URL
			h := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.URL
				if tc.header != "" {
					w.Header().Set("SGX-PCK-Certificate-Issuer-Chain", tc.header)
				}
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			}))
			defer h.Close()
			o := Options{URL: h.URL + "/sgx/certification/v4/", Roots: pki.Roots(), AnyCertificate: true}
			fmspc, err := Ask(t.Context(), o, id)
			if (err == nil) != (tc.code == "") || tc.code != "" && (!fault.Has(err, tc.code) || fault.ExitCode(err) != tc.exit) {
				t.Fatalf("Ask() = %q, %v, want %q", fmspc, err, tc.code)
			}
			if asked == nil {
				t.Fatal("nothing was asked for")
			}
			if asked.Path != "/sgx/certification/v4/pckcert" || asked.Query().Get("encrypted_ppid") != id.EncryptedPPID || asked.Query().Get("qeid") != id.QEID {
				t.Errorf("asked for %s", asked)
			}
			if tc.code != "" {
				return
			}
			if want := hex.EncodeToString(pl.FMSPC[:]); fmspc != want {
				t.Errorf("FMSPC %s, want %s", fmspc, want)
			}
			// A certificate that is none of Intel's, and a service of which nothing is
			// known.
			o.Roots = pck.IntelRoots()
			if _, err := Ask(t.Context(), o, id); !fault.Has(err, "pccs.certificate") {
				t.Errorf("with Intel's roots Ask() = %v", err)
			}
			o.AnyCertificate = false
			if _, err := Ask(t.Context(), o, id); !fault.Has(err, "pccs.unreachable") {
				t.Errorf("with a TLS certificate of its own making Ask() = %v", err)
			}
		})
	}
	for _, at := range []string{"", "localhost", "file:///x"} {
		if _, err := Ask(t.Context(), Options{URL: at}, id); !fault.Has(err, "pccs.url") {
			t.Errorf("at %q Ask() = %v", at, err)
		}
	}
}
