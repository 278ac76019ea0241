package wallet

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/contracts/devnet"
	"cocoon/internal/fault"
)

// box seals like a TPM would: only the same box opens it.
type box byte

func (b box) Seal(secret []byte) ([]byte, error) {
	out := append([]byte{byte(b)}, secret...)
	for i := range out[1:] {
		out[i+1] ^= byte(b)
	}
	return out, nil
}

func (b box) Unseal(blob []byte) ([]byte, error) {
	if len(blob) == 0 || blob[0] != byte(b) {
		return nil, errors.New("sealed elsewhere")
	}
	out := bytes.Clone(blob[1:])
	for i := range out {
		out[i] ^= byte(b)
	}
	return out, nil
}

func TestKeyIsEncryptedAtRest(t *testing.T) {
	dir := t.TempDir()
	good := Passphrase{"open sesame", 10}
	w, err := Create(dir, good, V5R1, devnet.GlobalID, wide)
	if err != nil {
		t.Fatal(err)
	}
	addr := w.Address().String()
	if _, err := Open(Options{Dir: dir}); !fault.Has(err, "ton.wallet.in_use") {
		t.Errorf("opened twice: %v", err)
	}
	seed := w.key.Seed()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, keyFile)
	blob, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	book, err := os.ReadFile(filepath.Join(dir, bookFile))
	if err != nil || bytes.Contains(blob, seed) || bytes.Contains(book, seed) {
		t.Errorf("the seed is on disk, %v", err)
	}
	open := func(s Sealer) error {
		w, err := Open(Options{Dir: dir, Sealer: s})
		if err == nil {
			if w.Address().String() != addr || !bytes.Equal(w.key.Seed(), seed) {
				t.Error("another wallet was opened")
			}
			err = w.Close()
		}
		return err
	}
	if err := open(good); err != nil {
		t.Error(err)
	}
	if err := open(Passphrase{Text: "guess"}); !fault.Has(err, "ton.wallet.passphrase") {
		t.Errorf("a wrong passphrase gave %v", err)
	}
	if err := open(Passphrase{}); !fault.Has(err, "ton.wallet.no_passphrase") {
		t.Errorf("no passphrase gave %v", err)
	}
	for i := 0; i < len(blob); i += 5 {
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(good); len(fault.All(err)) == 0 {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	if err := os.WriteFile(path, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir, good, V5R1, devnet.GlobalID, wide); !fault.Has(err, "ton.wallet.exists") {
		t.Errorf("a second wallet in one directory gave %v", err)
	}
	if w, err := Open(Options{Dir: dir}); err != nil {
		t.Errorf("for reading: %v", err)
	} else if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Open(Options{Dir: t.TempDir()}); !fault.Has(err, "ton.wallet.missing") {
		t.Errorf("no wallet gave %v", err)
	}
}

func TestKeyIsSealedByWhateverSeals(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(dir, box(7), Highload, devnet.GlobalID, wide)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = Open(Options{Dir: dir, Sealer: box(7)}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, Sealer: box(8)}); err == nil {
		t.Error("another machine opened it")
	}
}
