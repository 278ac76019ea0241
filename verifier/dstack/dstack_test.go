package dstack_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/vectors"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/dstack"
	"cocoon/verifier/quote"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

func vector(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{vectors.Dir(t)}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRealGuestsAreRead reads what real guests handed over.
func TestRealGuestsAreRead(t *testing.T) {
	for name, c := range map[string]struct {
		file   string
		events int
		snp    bool
	}{
		"a TD with its log":  {file: "eventlog/jsonlog-dstack-quote-report.json", events: 28},
		"another":            {file: "eventlog/jsonlog-dstack-tdx-lite-getquote.json", events: 29},
		"a TD's attestation": {file: "launch/tdx-lite-attestation.json"},
		"an SNP guest's":     {file: "launch/sev-snp-attestation.json", snp: true},
	} {
		t.Run(name, func(t *testing.T) {
			doc := vector(t, c.file)
			if !dstack.Is(doc) {
				t.Error("it is not recognised")
			}
			b, err := dstack.Parse(doc)
			if err != nil {
				t.Fatal(err)
			}
			if c.snp {
				if _, err := report.Parse(b.Report); err != nil {
					t.Error(err)
				}
				if _, err := vek.Verify(b.VCEK, report.VCEK, vek.AMDRoots()); err != nil || b.Quote != nil {
					t.Errorf("its certificate: %v", err)
				}
				return
			}
			if q, err := quote.Parse(b.Quote, quote.Options{AllowZeroPadding: true}); err != nil || q.TEE != quote.TEETDX {
				t.Errorf("its quote: %v", err)
			}
			if c.events == 0 {
				if b.EventLog != nil {
					t.Error("a part of a log is taken for a log")
				}
				return
			}
			if l, err := eventlog.ParseJSON(b.EventLog); err != nil || len(l.Events) != c.events {
				t.Errorf("%d events, want %d: %v", len(l.Events), c.events, err)
			}
		})
	}
}

// made is an attestation of an SNP guest that does not exist.
func made() []byte {
	b := append([]byte{0, 3, 4 << 2, 1, 2, 3, 4, 2 << 2}, 3<<2, 5, 6, 7)
	return append(b, 2<<2, 8, 9)
}

func document(raw []byte) []byte {
	return []byte(`{"attestation":"` + hex.EncodeToString(raw) + `"}`)
}

func TestOtherDocumentsAreRefused(t *testing.T) {
	b, err := dstack.Parse(document(made()))
	if err != nil || !bytes.Equal(b.Report, []byte{1, 2, 3, 4}) || !bytes.Equal(b.VCEK, []byte{8, 9}) {
		t.Fatalf("%+v, %v", b, err)
	}
	for i := range made() {
		if _, err := dstack.Parse(document(made()[:i])); !errors.Is(err, dstack.ErrFormat) {
			t.Errorf("cut after %d bytes: %v", i, err)
		}
	}
	for name, doc := range map[string][]byte{
		"neither":                     []byte(`{}`),
		"both":                        []byte(`{"quote":"00","attestation":"00"}`),
		"a quote that is text":        []byte(`{"quote":"x","event_log":[]}`),
		"an empty log":                []byte(`{"quote":"00","event_log":""}`),
		"a key twice":                 []byte(`{"quote":"00","quote":"01"}`),
		"another version":             document(append([]byte{1}, made()[1:]...)),
		"another kind":                document(append([]byte{0, 2}, made()[2:]...)),
		"many certificates":           document([]byte{0, 3, 0, 9 << 2}),
		"a number beyond all":         document([]byte{0, 3, 3, 0, 0, 0, 0}),
		"an attestation that is text": []byte(`{"attestation":"x"}`),
		"too large":                   append([]byte(`{"quote":"00"}`), bytes.Repeat([]byte(" "), dstack.MaxSize)...),
	} {
		if b, err := dstack.Parse(doc); !errors.Is(err, dstack.ErrFormat) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	if dstack.Is([]byte(`{"quote":"00"}`)) || dstack.Is([]byte("[]")) {
		t.Error("something else is recognised")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(document(made()))
	f.Add([]byte(`{"quote":"0400","event_log":"[{\"imr\":0}]"}`))
	f.Add([]byte(`{"quote":"0400","event_log":[]}`))
	f.Add(document([]byte{0, 0, 1 << 2, 4, 0}))
	f.Fuzz(func(t *testing.T, doc []byte) {
		b, err := dstack.Parse(doc)
		if err != nil {
			if !errors.Is(err, dstack.ErrFormat) || b != nil {
				t.Errorf("%+v, %v", b, err)
			}
			return
		}
		if (b.Quote == nil) == (b.Report == nil) || b.Quote == nil && b.EventLog != nil {
			t.Errorf("%+v", b)
		}
		if !json.Valid(doc) || strings.Contains(string(doc), "\x00") {
			t.Error("no JSON is read")
		}
	})
}
