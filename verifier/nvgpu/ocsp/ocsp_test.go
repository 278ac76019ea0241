package ocsp_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/nvgpu/ocsp"
)

// real is one captured answer of NVIDIA's responder.
type real struct {
	name         string
	der          []byte
	cert, issuer *x509.Certificate
	at           time.Time
}

// captured returns the seven answers, each with the certificate it is about.
func captured(t testing.TB) []real {
	t.Helper()
	dir := filepath.Join(vectors.Dir(t), "gpu", "evidence", "google-hopper-550.90.07")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var device []*x509.Certificate
	for rest := read("chain.pem"); ; {
		block, more := pem.Decode(rest)
		if block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		device, rest = append(device, c), more
	}
	inner := regexp.MustCompile(`<ds:X509Certificate>([^<]*)<`)
	chain := func(name string) (out []*x509.Certificate) {
		for _, m := range inner.FindAllSubmatch(read(name), -1) {
			der, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(m[1]), "\n", ""))
			if err != nil {
				t.Fatal(err)
			}
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, c)
		}
		return out
	}
	all := append(device, append(chain("driver.swidtag"), chain("vbios.swidtag")...)...)
	files, err := filepath.Glob(filepath.Join(dir, "ocsp-*.der"))
	if err != nil || len(files) != 7 {
		t.Fatalf("%d captured answers, want 7: %v", len(files), err)
	}
	var out []real
	for _, f := range files {
		r := real{name: filepath.Base(f), der: read(filepath.Base(f))}
		p, err := xocsp.ParseResponse(r.der, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.at = p.ThisUpdate.Add(time.Hour)
		for i, c := range all {
			if c.SerialNumber.Cmp(p.SerialNumber) == 0 && i+1 < len(all) {
				r.cert, r.issuer = c, all[i+1]
			}
		}
		if r.cert == nil {
			t.Fatalf("%s: no certificate with serial %x", r.name, p.SerialNumber)
		}
		out = append(out, r)
	}
	return out
}

func TestCapturedAnswersVerify(t *testing.T) {
	for _, r := range captured(t) {
		got, err := ocsp.Verify(r.der, r.cert, r.issuer, &ocsp.Options{Now: r.at})
		if err != nil {
			t.Errorf("%s: %v", r.name, err)
			continue
		}
		if got.Status != ocsp.Good || got.Err() != nil || got.Nonce != nil || got.NextUpdate.Sub(got.ThisUpdate) != 24*time.Hour ||
			!strings.Contains(got.ResponderName, "OCSP Responder") {
			t.Errorf("%s: %+v", r.name, got)
		}
		t.Logf("%-28s %s by %s, %s", r.name, got.Status, got.ResponderName, got.ThisUpdate.Format(time.RFC3339))
		for want, o := range map[string]ocsp.Options{
			"ocsp.nonce": {Now: r.at, Nonce: bytes.Repeat([]byte{7}, 32)},
		} {
			if _, err := ocsp.Verify(r.der, r.cert, r.issuer, &o); !fault.Has(err, want) {
				t.Errorf("%s: %v, want %s", r.name, err, want)
			}
		}
		for _, o := range []ocsp.Options{{Now: got.NextUpdate}, {Now: got.ThisUpdate.Add(-2 * time.Minute)}, {Now: r.at, MaxAge: time.Minute}} {
			if _, err := ocsp.Verify(r.der, r.cert, r.issuer, &o); !fault.Has(err, "ocsp.validity") {
				t.Errorf("%s at %s: %v, want ocsp.validity", r.name, o.Now, err)
			}
		}
	}
}

func TestAnswersAreForOneCertificateOnly(t *testing.T) {
	all := captured(t)
	for _, r := range all {
		for _, other := range all {
			_, err := ocsp.Verify(r.der, other.cert, other.issuer, &ocsp.Options{Now: r.at})
			if same := r.cert.Equal(other.cert); same != (err == nil) {
				t.Errorf("%s for the certificate of %s: %v", r.name, other.name, err)
			}
		}
	}
}

// TestNoFlippedBitOfAnAnswerIsAccepted flips every bit of a real answer,
// with the signatures of the answer as it was known to be good.
func TestNoFlippedBitOfAnAnswerIsAccepted(t *testing.T) {
	for _, r := range captured(t)[:1] {
		o := &ocsp.Options{Now: r.at, Cache: ocsp.NewCache()}
		if _, err := ocsp.Verify(r.der, r.cert, r.issuer, o); err != nil || o.Cache.Len() != 2 {
			t.Fatalf("%v, %d signatures are kept", err, o.Cache.Len())
		}
		b := bytes.Clone(r.der)
		for i := range b {
			for bit := range 8 {
				b[i] ^= 1 << bit
				if _, err := ocsp.Verify(b, r.cert, r.issuer, o); err == nil {
					t.Errorf("%s: byte %d bit %d: accepted", r.name, i, bit)
				}
				b[i] ^= 1 << bit
			}
		}
		for n := range b {
			if _, err := ocsp.Verify(b[:n], r.cert, r.issuer, o); err == nil {
				t.Errorf("%s cut to %d bytes: accepted", r.name, n)
			}
		}
		if _, err := ocsp.Verify(append(bytes.Clone(b), 0), r.cert, r.issuer, o); !fault.Has(err, "ocsp.parse") {
			t.Errorf("%s with a byte more: %v", r.name, err)
		}
		if o.Cache.Len() != 2 {
			t.Errorf("%d signatures are kept, of two good ones", o.Cache.Len())
		}
	}
}

func TestRequestsNameTheCertificateAndCarryTheNonce(t *testing.T) {
	nonce := bytes.Repeat([]byte{9}, 32)
	for _, r := range captured(t) {
		der, err := ocsp.NewRequest(r.cert, r.issuer, nonce)
		if err != nil {
			t.Fatal(err)
		}
		req, err := xocsp.ParseRequest(der)
		if err != nil || req.SerialNumber.Cmp(r.cert.SerialNumber) != 0 {
			t.Fatalf("%s: %v", r.name, err)
		}
		if !bytes.Contains(der, append([]byte{0x04, 0x22, 0x04, 0x20}, nonce...)) {
			t.Errorf("%s: no nonce in %x", r.name, der)
		}
		id, err := ocsp.ParseRequest(der)
		if err != nil || !bytes.Equal(id.Nonce, nonce) || id.Serial.Cmp(r.cert.SerialNumber) != 0 {
			t.Errorf("%s: read back as %+v, %v", r.name, id, err)
		}
		if _, err := ocsp.NewRequest(r.cert, r.cert, nonce); err == nil {
			t.Errorf("%s: a request with the wrong issuer", r.name)
		}
		if _, err := ocsp.NewRequest(r.cert, r.issuer, nonce[:8]); err == nil {
			t.Errorf("%s: a request with a short nonce", r.name)
		}
	}
}

func TestRefusalsOfTheResponderAreSaid(t *testing.T) {
	r := captured(t)[0]
	_, err := ocsp.Verify([]byte{0x30, 3, 0x0a, 1, 6}, r.cert, r.issuer, &ocsp.Options{Now: r.at})
	if !fault.Has(err, "ocsp.refused") || fault.ExitCode(err) != fault.ExitNetwork || !strings.Contains(err.Error(), "unauthorized") {
		t.Errorf("got %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	all := captured(f)
	for _, r := range all {
		f.Add(r.der)
	}
	r := all[0]
	f.Fuzz(func(t *testing.T, in []byte) {
		if got, err := ocsp.Verify(in, r.cert, r.issuer, &ocsp.Options{Now: r.at}); err == nil && (got == nil || !bytes.Equal(in, r.der)) {
			t.Fatalf("accepted %x", in)
		}
		_, _ = ocsp.ParseRequest(in)
	})
}
