package shared

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"cocoon/measurements/digest"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// stored is a verdict as the store has it.
func stored(t testing.TB) (server.Given, []byte) {
	t.Helper()
	g := server.Given{EvidenceSHA256: digest.Sum256([]byte("evidence")), PolicySHA256: digest.Sum256([]byte("policy")), KeyID: digest.Sum256([]byte("key")),
		EARSHA256: digest.Sum256([]byte("a.b.c")), EAR: "a.b.c", Cell: "te6ccg", Issued: tpmtest.Now, NotAfter: tpmtest.Now}
	doc, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	return g, doc
}

// TestAnyChangedByteOfAStoredVerdictIsSeen flips each byte: the document is
// refused, or is another verdict, which its signatures and the log then refuse.
func TestAnyChangedByteOfAStoredVerdictIsSeen(t *testing.T) {
	g, doc := stored(t)
	want, err := readVerdict(doc, g.EvidenceSHA256)
	if err != nil {
		t.Fatal(err)
	}
	for i := range doc {
		bad := bytes.Clone(doc)
		bad[i] ^= 1
		if got, err := readVerdict(bad, g.EvidenceSHA256); err == nil && reflect.DeepEqual(got, want) {
			t.Errorf("byte %d flipped: %s reads the same", i, bad)
		}
		if _, err := readVerdict(doc[:i], g.EvidenceSHA256); err == nil {
			t.Errorf("cut at byte %d: accepted", i)
		}
	}
	if _, err := readVerdict(doc, digest.Sum256(nil)); err == nil {
		t.Error("a verdict on other evidence is accepted")
	}
}

func FuzzReadVerdict(f *testing.F) {
	g, doc := stored(f)
	f.Add(doc)
	f.Add([]byte("null"))
	f.Add([]byte(`{"EvidenceSHA256":"00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readVerdict(b, g.EvidenceSHA256)
		if err != nil && !reflect.DeepEqual(got, server.Given{}) || err == nil && got.EvidenceSHA256 != g.EvidenceSHA256 {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}

func FuzzRunID(f *testing.F) {
	f.Add("# Server\r\nredis_version:7.2.0\r\nrun_id:9f2c5b0d1e\r\n")
	f.Add("run_id:\r\nrun_id: \r\n")
	f.Fuzz(func(t *testing.T, info string) {
		id, ok := runID(info)
		if ok != (id != "") || len(id) > 64 || strings.ContainsAny(id, "\n") || ok && !strings.Contains(info, "run_id:"+id) {
			t.Fatalf("%q, %v", id, ok)
		}
	})
}
