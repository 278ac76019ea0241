package cbor_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/cbor"
)

// TestExamplesOfTheRFC has those of RFC 8949, appendix A, that are in the
// supported part.
func TestExamplesOfTheRFC(t *testing.T) {
	for want, v := range map[string]any{
		"00": uint64(0), "17": uint64(23), "1818": uint64(24), "1903e8": uint64(1000), "1a000f4240": uint64(1000000),
		"1b000000e8d4a51000": uint64(1000000000000), "1bffffffffffffffff": uint64(1<<64 - 1), "3bffffffffffffffff": cbor.Negative(1<<64 - 1),
		"20": cbor.Negative(0), "3863": cbor.Negative(99), "f4": false, "f5": true, "f6": nil,
		"c11a514b67b0":     cbor.Tag{Number: 1, Content: uint64(1363896240)},
		"d818456449455446": cbor.Tag{Number: 24, Content: []byte("dIETF")},
		"d82076687474703a2f2f7777772e6578616d706c652e636f6d": cbor.Tag{Number: 32, Content: "http://www.example.com"},
		"40": []byte{}, "4401020304": []byte{1, 2, 3, 4}, "60": "", "6449455446": "IETF", "62c3bc": "ü", "64f0908591": "𐅑",
		"80": []any{}, "8301820203820405": []any{uint64(1), []any{uint64(2), uint64(3)}, []any{uint64(4), uint64(5)}},
		"a0": cbor.Map{}, "a201020304": cbor.Map{{uint64(1), uint64(2)}, {uint64(3), uint64(4)}},
		"a26161016162820203": cbor.Map{{"a", uint64(1)}, {"b", []any{uint64(2), uint64(3)}}},
	} {
		got, err := cbor.Encode(v)
		if err != nil || hex.EncodeToString(got) != want {
			t.Errorf("%#v is %x, %v; want %s", v, got, err, want)
		}
		back, err := cbor.Decode(got, 1024)
		if err != nil {
			t.Errorf("%s: %v", want, err)
		} else if diff := cmp.Diff(v, back); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want, diff)
		}
	}
}

func TestMapsAreSorted(t *testing.T) {
	got, err := cbor.Encode(cbor.Map{{"z", uint64(1)}, {uint64(100), uint64(2)}, {"aa", uint64(3)}, {cbor.Negative(0), uint64(4)}, {uint64(10), uint64(5)}})
	if want := "a50a051864022004617a0162616103"; err != nil || hex.EncodeToString(got) != want {
		t.Errorf("%x, %v; want %s", got, err, want)
	}
	if _, err := cbor.Encode(cbor.Map{{"a", nil}, {"a", nil}}); !errors.Is(err, cbor.ErrForm) {
		t.Errorf("a key twice: %v", err)
	}
}

func TestOtherFormsAreRefused(t *testing.T) {
	for name, in := range map[string]string{
		"a long number": "1800", "a longer number": "190018", "a long length": "580101", "an indefinite string": "5f4101ff", "an indefinite array": "9fff",
		"an indefinite map": "bfff", "a float": "f93c00", "undefined": "f7", "a reserved length": "1c", "a long simple value": "f8ff", "a cut string": "4401",
		"a cut array": "8201", "an array longer than the data": "9affffffff", "a map longer than the data": "ba7fffffff", "unsorted keys": "a202000100",
		"a key twice": "a201000100", "bad UTF-8": "61ff", "data behind it": "0000", "nothing": "", "a break": "ff", "a cut tag": "c1",
	} {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := cbor.Decode(b, 1024); !errors.Is(err, cbor.ErrForm) {
			t.Errorf("%s: %#v, %v", name, v, err)
		}
	}
	if _, err := cbor.Decode(bytes.Repeat([]byte{0x81}, 100), 1024); !errors.Is(err, cbor.ErrForm) {
		t.Errorf("deep nesting: %v", err)
	}
	if _, err := cbor.Decode([]byte{0}, 0); !errors.Is(err, cbor.ErrForm) {
		t.Errorf("over the limit: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"a26161016162820203", "d82076687474703a2f2f7777772e6578616d706c652e636f6d", "8301820203820405", "3863", "f6"} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := cbor.Decode(b, 1<<16)
		if err != nil {
			return
		}
		again, err := cbor.Encode(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is %x again, %v", b, again, err)
		}
	})
}
