package tunnel

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"cocoon/measurements/digest"
)

func frame(doc string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(doc))), doc...)
}

func goodHello(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeFrame(&b, Hello{ReceiptKey: digest.Sum256([]byte("key")), Model: "m", Signature: make([]byte, ed25519.SignatureSize)}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFrameIsReadToItsEndAndNoFurther(t *testing.T) {
	r := bytes.NewReader(append(goodHello(t), "rest"...))
	var h Hello
	if err := readFrame(r, &h); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || h.Model != "m" || string(rest) != "rest" {
		t.Errorf("%+v, rest %q, %v", h, rest, err)
	}
}

func TestMalformedFramesAreRefused(t *testing.T) {
	good := string(goodHello(t)[2:])
	for name, b := range map[string][]byte{
		"nothing":          nil,
		"half a length":    {0},
		"cut short":        goodHello(t)[:20],
		"empty":            frame(""),
		"over the limit":   frame(`{"model":"` + strings.Repeat("x", maxFrame) + `"}`),
		"no object":        frame("[]"),
		"null":             frame("null"),
		"trailing data":    frame(good + "{}"),
		"an unknown field": frame(strings.Replace(good, `{"model"`, `{"extra":1,"model"`, 1)),
		"a field twice":    frame(strings.Replace(good, `{"model"`, `{"model":"m","model"`, 1)),
		"white space":      frame(strings.Replace(good, ":", ": ", 1)),
		"a short key":      frame(strings.Replace(good, digest.Sum256([]byte("key")).String(), "00", 1)),
	} {
		var h Hello
		if err := readFrame(bytes.NewReader(b), &h); err == nil {
			t.Errorf("%s: accepted as %+v", name, h)
		}
	}
}

func TestFrameThatIsTooLongIsNotWritten(t *testing.T) {
	var b bytes.Buffer
	if err := writeFrame(&b, Hello{Model: strings.Repeat("x", maxFrame)}); err == nil || b.Len() != 0 {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(goodHello(f))
	f.Add(frame("null"))
	f.Add([]byte{0xff, 0xff, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Hello
		if readFrame(bytes.NewReader(b), &h) != nil {
			return
		}
		var out bytes.Buffer
		if err := writeFrame(&out, h); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, out.Bytes()) {
			t.Fatalf("%q became %q", b, out.Bytes())
		}
	})
}
