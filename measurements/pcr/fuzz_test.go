package pcr

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAnyChangedByteOfARecordingIsSeen flips each byte of the recordings: they
// are refused, or say something else. Keys may differ in case.
func TestAnyChangedByteOfARecordingIsSeen(t *testing.T) {
	want, err := Recorded()
	if err != nil {
		t.Fatal(err)
	}
	for i := range recordedJSON {
		for bit := range 8 {
			bad := bytes.Clone(recordedJSON)
			bad[i] ^= 1 << bit
			if got, err := ParseRecordings(bad); err == nil && reflect.DeepEqual(want, got) && !space(recordedJSON[i]) && !bytes.EqualFold(bad, recordedJSON) {
				t.Errorf("byte %d, bit %d flipped: %q reads the same", i, bit, bad)
			}
		}
	}
}

// space says whether a byte is white space between the tokens of JSON, of which
// each stands for each other; the recordings have none in their strings.
func space(b byte) bool { return b == ' ' || b == '\n' }

func FuzzParseRecordings(f *testing.F) {
	f.Add(recordedJSON)
	f.Add([]byte(`{"format":1,"firmwares":[]}`))
	f.Add(bytes.Replace(recordedJSON, []byte(`"recorded"`), []byte(`"computed"`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecordings(b)
		if err != nil {
			return
		}
		doc, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseRecordings(doc)
		if err != nil {
			t.Fatalf("recordings cannot be read back: %v", err)
		}
		if len(r.Firmwares) != 0 && !cmp.Equal(r, back) {
			t.Fatalf("recordings come back different: %s", doc)
		}
		for _, fw := range r.Firmwares {
			if got, err := r.Find(fw.SHA256); err != nil || got != fw || fw.Validate() != nil {
				t.Fatalf("firmware %s: found %+v, %v", fw.SHA256, got, err)
			}
		}
	})
}
