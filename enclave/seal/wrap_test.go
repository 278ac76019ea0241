package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"cocoon/measurements/digest"
)

func TestWrappedKeysComeBackUnderTheirKeyAlone(t *testing.T) {
	config, key := digest.Sum256([]byte("config")), bytes.Repeat([]byte{7}, 96)
	for _, root := range [][]byte{nil, make([]byte, 8), make([]byte, 32)} {
		if _, err := WrappingKey(root, config, "x"); err == nil {
			t.Errorf("a root of %d bytes was taken", len(root))
		}
	}
	a, err := WrappingKey(key[:32], config, "a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := WrappingKey(key[:32], config, "b")
	if err != nil || bytes.Equal(a, b) {
		t.Errorf("labels do not part keys: %v", err)
	}
	if _, err := Wrap(a, nil, key, bytes.NewReader(nil)); err == nil {
		t.Error("sealed without entropy")
	}
	blob, err := Wrap(a, []byte("h"), key, rand.Reader)
	if err != nil || len(blob) != 1+len(key)+Overhead {
		t.Fatalf("%d bytes, %v", len(blob), err)
	}
	if got, err := Unwrap(a, blob, 1); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := Unwrap(b, blob, 1); !errors.Is(err, ErrRefused) {
		t.Errorf("under another key: %v", err)
	}
	if _, err := Unwrap(a, blob, 2); !errors.Is(err, ErrRefused) {
		t.Errorf("with another header: %v", err)
	}
}
