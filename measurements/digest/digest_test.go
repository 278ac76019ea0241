package digest_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"cocoon/measurements/digest"
)

func TestHashesAreLowerCaseHexAlone(t *testing.T) {
	good := strings.Repeat("09af", 16)
	d, err := digest.Parse256(good)
	if err != nil || d.String() != good {
		t.Fatalf("got %v, %v", d, err)
	}
	for name, text := range map[string]string{
		"upper case": strings.ToUpper(good), "a digit short": good[1:], "a digit long": good + "0", "nothing": "",
		"no digit first": "g" + good[1:], "no digit last": good[1:] + "/", "a colon": ":" + good[1:], "a backquote": "`" + good[1:], "not ASCII": "é" + good[2:],
	} {
		if _, err := digest.Parse256(text); !errors.Is(err, digest.ErrFormat) {
			t.Errorf("%s: got %v", name, err)
		}
		var d digest.SHA256
		if err := d.UnmarshalText([]byte(text)); !errors.Is(err, digest.ErrFormat) {
			t.Errorf("%s as text: got %v", name, err)
		}
	}
}

// FuzzParse holds the reader against package hex, which takes upper case, too.
func FuzzParse(f *testing.F) {
	f.Add(strings.Repeat("09af", 24))
	f.Add(strings.Repeat("0F", 48))
	f.Fuzz(func(t *testing.T, text string) {
		d, err := digest.Parse384(text)
		b, hexErr := hex.DecodeString(text)
		good := hexErr == nil && len(b) == 48 && strings.ToLower(text) == text
		if good != (err == nil) || good && (string(d[:]) != string(b) || d.String() != text) {
			t.Fatalf("%q: %v, %v", text, d, err)
		}
	})
}
