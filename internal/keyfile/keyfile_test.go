package keyfile

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestKeysComeBackAndStayPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(path, key); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEd25519(path)
	if err != nil || !got.Equal(key) {
		t.Errorf("read another key: %v", err)
	}
	if err := Write(path, key); err == nil {
		t.Error("an existing key was replaced")
	}
	if _, err := ReadCert(path); err == nil {
		t.Error("a key was read as a certificate")
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrPermissions) {
		t.Errorf("a key that the group can read: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	two := filepath.Join(t.TempDir(), "two")
	if err := os.WriteFile(two, append(b, b...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(two); err == nil {
		t.Error("two keys in a file were taken")
	}
}
