package quote_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	peer "github.com/google/go-tdx-guest/testing/testdata"

	"cocoon/verifier/quote"
	"cocoon/verifier/tdxtest"
)

func testQuotes(t testing.TB) map[string][]byte {
	t.Helper()
	p, err := tdxtest.New("quote")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for name, q := range map[string]tdxtest.Quote{
		"sgx v3": tdxtest.DefaultSGX(3), "sgx v4": tdxtest.DefaultSGX(4), "sgx v5": tdxtest.DefaultSGX(5),
		"tdx v4": tdxtest.DefaultTDX(4, quote.BodyTD10), "tdx v5 1.0": tdxtest.DefaultTDX(5, quote.BodyTD10),
		"tdx v5 1.5": tdxtest.DefaultTDX(5, quote.BodyTD15), "tdx v5 1.5 service-TD": tdxtest.DefaultTDX(5, quote.BodyTD15X),
	} {
		b, err := p.Quote(&q)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

func TestParseReadsEveryVersionAndBody(t *testing.T) {
	want := map[string]struct {
		version, body uint16
		tee           uint32
		size          int
	}{
		"sgx v3": {3, quote.BodySGX, quote.TEESGX, 384}, "sgx v4": {4, quote.BodySGX, quote.TEESGX, 384},
		"sgx v5": {5, quote.BodySGX, quote.TEESGX, 384}, "tdx v4": {4, quote.BodyTD10, quote.TEETDX, 584},
		"tdx v5 1.0": {5, quote.BodyTD10, quote.TEETDX, 584}, "tdx v5 1.5": {5, quote.BodyTD15, quote.TEETDX, 648},
		"tdx v5 1.5 service-TD": {5, quote.BodyTD15X, quote.TEETDX, 885},
	}
	for name, raw := range testQuotes(t) {
		q, err := quote.Parse(raw, quote.Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		w := want[name]
		if q.Version != w.version || q.BodyType != w.body || q.TEE != w.tee || len(q.Body) != w.size {
			t.Errorf("%s: version %d, body type %d, TEE %#x, %d bytes", name, q.Version, q.BodyType, q.TEE, len(q.Body))
		}
		if q.VendorID != quote.IntelVendorID || q.Cert.Type != quote.CertPCKChain || len(q.AuthData) != 32 {
			t.Errorf("%s: %+v", name, q)
		}
	}
}

func TestParseRefusesEveryTruncationAndExtension(t *testing.T) {
	for name, raw := range testQuotes(t) {
		for n := range raw {
			if _, err := quote.Parse(raw[:n], quote.Options{AllowZeroPadding: true}); err == nil {
				t.Errorf("%s: the first %d of %d bytes are accepted", name, n, len(raw))
			}
		}
		padded := append(append([]byte(nil), raw...), 0)
		if _, err := quote.Parse(padded, quote.Options{}); !errors.Is(err, quote.ErrTrailing) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		if q, err := quote.Parse(padded, quote.Options{AllowZeroPadding: true}); err != nil || q.Padding != 1 {
			t.Errorf("%s with padding allowed: %v", name, err)
		}
	}
}

func TestParseRefusesLengthsThatLie(t *testing.T) {
	le := binary.LittleEndian
	raw := testQuotes(t)["tdx v4"]
	v5 := testQuotes(t)["tdx v5 1.5"]
	const sig = 48 + 584 // signature data of version 4
	for _, tt := range []struct {
		name   string
		base   []byte
		change func(b []byte)
		want   error
	}{
		{"version 2", raw, func(b []byte) { le.PutUint16(b, 2) }, quote.ErrUnsupported},
		{"version 6", raw, func(b []byte) { le.PutUint16(b, 6) }, quote.ErrUnsupported},
		{"TDX in version 3", raw, func(b []byte) { le.PutUint16(b, 3) }, quote.ErrUnsupported},
		{"P-384 attestation key", raw, func(b []byte) { le.PutUint16(b[2:], 3) }, quote.ErrUnsupported},
		{"unknown TEE", raw, func(b []byte) { le.PutUint32(b[4:], 0x82) }, quote.ErrUnsupported},
		{"signature data of 10 bytes", raw, func(b []byte) { le.PutUint32(b[sig:], 10) }, quote.ErrTruncated},
		{"signature data beyond the end", raw, func(b []byte) { le.PutUint32(b[sig:], 1<<31) }, quote.ErrTruncated},
		{"signature data a byte short", raw, func(b []byte) { le.PutUint32(b[sig:], le.Uint32(b[sig:])-1) }, quote.ErrTruncated},
		{"outer certification data of type 5", raw, func(b []byte) { le.PutUint16(b[sig+132:], 5) }, quote.ErrUnsupported},
		{"outer certification data too long", raw, func(b []byte) { le.PutUint32(b[sig+134:], 0xffffffff) }, quote.ErrTruncated},
		{"outer certification data too short", raw, func(b []byte) { le.PutUint32(b[sig+134:], 400) }, quote.ErrTrailing},
		{"authentication data of 0xff22 bytes", raw, func(b []byte) { le.PutUint16(b[sig+138+448:], 0xff22) }, quote.ErrTruncated},
		{"inner certification data of type 6", raw, func(b []byte) { le.PutUint16(b[sig+138+450+32:], 6) }, quote.ErrUnsupported},
		{"inner certification data of type 7", raw, func(b []byte) { le.PutUint16(b[sig+138+450+32:], 7) }, quote.ErrUnsupported},
		{"inner certification data too long", raw, func(b []byte) { le.PutUint32(b[sig+138+452+32:], 0x7fffffff) }, quote.ErrTruncated},
		{"inner certification data too short", raw, func(b []byte) { le.PutUint32(b[sig+138+452+32:], 100) }, quote.ErrTrailing},
		{"body type 5", v5, func(b []byte) { le.PutUint16(b[48:], 5) }, quote.ErrUnsupported},
		{"enclave report of a TD", v5, func(b []byte) { le.PutUint16(b[48:], quote.BodySGX) }, quote.ErrUnsupported},
		{"body size of another type", v5, func(b []byte) { le.PutUint32(b[50:], 584) }, quote.ErrUnsupported},
		{"body type of another size", v5, func(b []byte) { le.PutUint16(b[48:], quote.BodyTD10) }, quote.ErrUnsupported},
	} {
		b := append([]byte(nil), tt.base...)
		tt.change(b)
		if _, err := quote.Parse(b, quote.Options{AllowZeroPadding: true}); !errors.Is(err, tt.want) {
			t.Errorf("%s: error is %v, not %v", tt.name, err, tt.want)
		}
	}
	if _, err := quote.Parse(make([]byte, quote.MaxSize+1), quote.Options{}); !errors.Is(err, quote.ErrTooLarge) {
		t.Errorf("a quote over the limit: %v", err)
	}
}

func TestParseCertDataReadsEveryType(t *testing.T) {
	for typ, size := range map[uint16]int{quote.CertPPIDPlain: 36, quote.CertPPIDRSA2048: 276, quote.CertPPIDRSA3072: 404} {
		data := make([]byte, size)
		n := size - 20
		data[0], data[n], data[n+16], data[n+18] = 7, 8, 9, 10
		got, err := quote.ParseCertData(typ, data)
		want := quote.CertData{Type: typ, PPID: data[:n], CPUSVN: [16]byte{8}, PCESVN: 9, PCEID: [2]byte{0, 10}}
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("type %d: %+v, error %v", typ, got, err)
		}
		if _, err := quote.ParseCertData(typ, data[:size-1]); !errors.Is(err, quote.ErrTruncated) {
			t.Errorf("type %d, a byte short: %v", typ, err)
		}
		if _, err := quote.ParseCertData(typ, append(data, 0)); !errors.Is(err, quote.ErrTrailing) {
			t.Errorf("type %d, a byte long: %v", typ, err)
		}
	}
	if _, err := quote.ParseCertData(quote.CertPCKChain, nil); !errors.Is(err, quote.ErrTruncated) {
		t.Errorf("no chain: %v", err)
	}
	if _, err := quote.ParseCertData(quote.CertPCKChain, make([]byte, quote.MaxCert+1)); !errors.Is(err, quote.ErrTooLarge) {
		t.Errorf("a chain over the limit: %v", err)
	}
}

func TestEnclaveReportIsReadBack(t *testing.T) {
	q := tdxtest.DefaultSGX(3)
	q.Enclave.ConfigID[5], q.Enclave.ISVFamilyID[3], q.Enclave.ConfigSVN, q.Enclave.ReportData[63] = 1, 2, 3, 4
	var got quote.EnclaveReport
	got.Decode(tdxtest.EncodeEnclaveReport(&q.Enclave))
	if diff := cmp.Diff(q.Enclave, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzQuote(f *testing.F) {
	for _, raw := range testQuotes(f) {
		f.Add(raw, false)
		f.Add(append(raw[:len(raw):len(raw)], 0, 0), true)
	}
	f.Add(peer.RawQuote, true) // 39 bytes follow the quote
	f.Add(peer.RawQuote[:4935], false)
	f.Fuzz(func(t *testing.T, raw []byte, padding bool) {
		q, err := quote.Parse(raw, quote.Options{AllowZeroPadding: padding})
		if err != nil {
			return
		}
		if len(q.Signature) != 64 || len(q.AttestationKey) != 64 || len(q.QEReport) != 384 || len(q.QEReportSignature) != 64 {
			t.Fatalf("a field has another size: %+v", q)
		}
		var e quote.EnclaveReport
		e.Decode(q.QEReport)
		if q.TEE == quote.TEETDX {
			var td quote.TDReport
			td.Decode(q)
		} else {
			e.Decode(q.Body)
		}
		if len(q.Signed)+len(q.AuthData)+len(q.Cert.PEM)+q.Padding > len(raw) {
			t.Fatal("fields have more bytes than the quote")
		}
	})
}

func FuzzCertData(f *testing.F) {
	for _, raw := range testQuotes(f) {
		q, err := quote.Parse(raw, quote.Options{})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(q.Cert.Type, q.Cert.PEM)
	}
	f.Add(quote.CertPPIDPlain, make([]byte, 36))
	f.Add(quote.CertPPIDRSA2048, make([]byte, 276))
	f.Add(quote.CertPPIDRSA3072, make([]byte, 404))
	f.Fuzz(func(t *testing.T, typ uint16, data []byte) {
		c, err := quote.ParseCertData(typ, data)
		if err == nil && (len(c.PEM) == 0) == (len(c.PPID) == 0) {
			t.Fatalf("certification data is both or neither: %+v", c)
		}
	})
}
