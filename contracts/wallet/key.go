package wallet

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"

	"cocoon/internal/fault"
)

// Sealer keeps a secret from whoever reads the disk: a passphrase here, the TPM
// or TEE of an enclave where the wallet lives in one.
type Sealer interface {
	// Seal returns a blob that only Unseal of an equal Sealer opens.
	Seal(secret []byte) (blob []byte, err error)
	Unseal(blob []byte) (secret []byte, err error)
}

// Passphrase seals in the age format (age-encryption.org/v1, scrypt): the age
// program opens the file as well.
type Passphrase struct {
	Text string
	// Work is the scrypt work factor as a power of two; 0 means DefaultWork.
	Work int
}

// Work factors of Passphrase.
const (
	DefaultWork = 18 // about a second and 256 MB for each guess
	// MaxWork bounds what a foreign file may ask of this machine.
	MaxWork = 22
)

const (
	keyFile    = "key.age"
	sealedFile = "key.sealed"
	maxKey     = 64 << 10
)

// Seal implements Sealer.
func (p Passphrase) Seal(secret []byte) ([]byte, error) {
	if p.Text == "" {
		return nil, errNoPassphrase()
	}
	r, err := age.NewScryptRecipient(p.Text)
	if err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	r.SetWorkFactor(DefaultWork)
	if p.Work != 0 {
		r.SetWorkFactor(p.Work)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	if _, err := w.Write(secret); err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	return out.Bytes(), nil
}

// Unseal implements Sealer.
func (p Passphrase) Unseal(blob []byte) ([]byte, error) {
	if p.Text == "" {
		return nil, errNoPassphrase()
	}
	id, err := age.NewScryptIdentity(p.Text)
	if err != nil {
		return nil, fmt.Errorf("opening a key: %w", err)
	}
	id.SetMaxWorkFactor(MaxWork)
	r, err := age.Decrypt(bytes.NewReader(blob), id)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, fault.New(fault.ExitRefused, "ton.wallet.passphrase", "check the passphrase", "opening a key: the passphrase does not fit")
	}
	if err != nil {
		return nil, errBadKey(err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxKey))
	if err != nil {
		return nil, errBadKey(err)
	}
	return b, nil
}

func errNoPassphrase() error {
	return fault.New(fault.ExitInternal, "ton.wallet.no_passphrase", "name a file with it, or type it at a terminal", "opening a key: no passphrase")
}

func errBadKey(err error) error {
	return fault.New(fault.ExitParse, "ton.wallet.key_malformed", "restore the wallet's directory from a copy", "opening a key: %w", err)
}

// sealedName is where a sealer's blob lies: an age file is named like one.
func sealedName(s Sealer) string {
	if _, ok := s.(Passphrase); ok {
		return keyFile
	}
	return sealedFile
}

// newKey makes a key and stores it sealed. It never overwrites one: coins may
// depend on it.
func newKey(dir string, s Sealer) (ed25519.PrivateKey, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand.Reader, seed[:]); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	blob, err := s.Seal(seed[:])
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, sealedName(s))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.exists", "name another directory", "making a wallet in %s: there is one", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	_, err = f.Write(blob)
	if err := errors.Join(err, f.Sync(), f.Close(), syncDir(dir)); err != nil {
		return nil, fmt.Errorf("writing a key: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed[:]), nil
}

func loadKey(dir string, s Sealer) (ed25519.PrivateKey, error) {
	blob, err := os.ReadFile(filepath.Join(dir, sealedName(s)))
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.missing", "make one with `cocoon wallet new`", "opening a wallet: %w", err)
	}
	if len(blob) > maxKey {
		return nil, errBadKey(errors.New("the file is too large"))
	}
	seed, err := s.Unseal(blob)
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, errBadKey(fmt.Errorf("it holds %d bytes", len(seed)))
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
