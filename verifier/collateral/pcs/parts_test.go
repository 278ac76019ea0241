package pcs

import (
	"bytes"
	"net/http"
	"testing"

	"cocoon/internal/jcs"
	"cocoon/verifier/collateral"
	"cocoon/verifier/internal/fetch"
)

// FuzzDecode feeds answers to the decoder of each part: what it lets through
// must be whole and within the limits.
func FuzzDecode(f *testing.F) {
	chain := "-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----%0A"
	f.Add([]byte(`{"tcbInfo":{"id":"TDX"},"signature":"`+string(bytes.Repeat([]byte("00"), 64))+`"}`), chain, uint8(0))
	f.Add([]byte(`{"enclaveIdentity":{"id":"QE"},"signature":"00"}`), chain, uint8(1))
	f.Add([]byte{0x30, 0x82, 1, 2}, chain, uint8(2))
	f.Add([]byte("30820102"), "", uint8(3))
	f.Add([]byte("-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"), "", uint8(3))
	kinds := []kind{kindTCBInfo, kindQEIdentity, kindPCKCRL, kindRootCRL}
	f.Fuzz(func(t *testing.T, body []byte, header string, n uint8) {
		k := kinds[int(n)%len(kinds)]
		h := http.Header{}
		for _, name := range []string{headerTCBInfo, headerQE, headerPCKCRL} {
			h.Set(name, header)
		}
		p, err := decode(partRef{kind: k}, &fetch.Response{Header: h, Body: body})
		if err != nil {
			return
		}
		if len(p.Body) == 0 || len(p.Body) > len(body) || len(p.Chain) > 3*collateral.MaxChain {
			t.Fatalf("took a part of %d bytes with a chain of %d", len(p.Body), len(p.Chain))
		}
		if document := k == kindTCBInfo || k == kindQEIdentity; document != (len(p.Signature) == 64) {
			t.Fatalf("took a signature of %d bytes", len(p.Signature))
		}
	})
}

// FuzzCacheFile feeds cache files: what is read back is what would be
// written, or a miss.
func FuzzCacheFile(f *testing.F) {
	ref := partRef{kind: kindRootCRL}
	d := &disk{scope: "s"}
	f.Add([]byte(`{"name":"v1 s root_ca_crl","entry":{"body":"AAAA","fetched":"2026-01-01T00:00:00Z","issue":"2026-01-01T00:00:00Z","next":"2026-02-01T00:00:00Z"}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		e, err := d.parse(ref, doc, 1<<20)
		if err != nil {
			return
		}
		b, err := jcs.Marshal(file{Name: d.name(ref), Entry: *e})
		if err != nil {
			return // a year that RFC 3339 cannot write
		}
		again, err := d.parse(ref, b, 2<<20)
		if err != nil {
			t.Fatalf("%s does not read back: %v", b, err)
		}
		if !bytes.Equal(again.Body, e.Body) || !again.Next.Equal(e.Next) {
			t.Fatalf("%s reads back as something else", b)
		}
	})
}
