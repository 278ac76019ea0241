package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"cocoon/measurements/digest"
)

// WrappingKey makes the key that a machine's keys are wrapped with: root is
// what the hardware derived for this machine and these measurements, config the
// hash of the measured config, label the kind of sealer (RFC 5869).
func WrappingKey(root []byte, config digest.SHA256, label string) ([]byte, error) {
	if len(root) < 16 || zero(root) {
		return nil, errors.New("deriving wrapping key: the hardware gave no key")
	}
	k, err := hkdf.Key(sha256.New, root, config[:], label, 32)
	if err != nil {
		return nil, fmt.Errorf("deriving wrapping key: %w", err)
	}
	return k, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Overhead is by how much a wrapped key is longer than the key: nonce and tag
// of AES-256-GCM.
const Overhead = 12 + 16

// Wrap encrypts a key under a wrapping key and appends it to header, which is
// authenticated and stays readable. A wrapping key wraps a handful of keys in
// a machine's life: random nonces never meet.
func Wrap(wrapping, header, key []byte, random io.Reader) ([]byte, error) {
	if len(key) == 0 || len(key) > MaxKey {
		return nil, fmt.Errorf("sealing: key of %d bytes, want 1 to %d", len(key), MaxKey)
	}
	gcm, err := newGCM(wrapping)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	out := append(append([]byte{}, header...), nonce...)
	return gcm.Seal(out, nonce, key, header), nil
}

// Unwrap is the opposite; header is the length of what Wrap was given. What
// does not authenticate is ErrRefused.
func Unwrap(wrapping, blob []byte, header int) ([]byte, error) {
	gcm, err := newGCM(wrapping)
	if err != nil {
		return nil, err
	}
	if len(blob) < header+Overhead || len(blob) > MaxBlob {
		return nil, Refused(fmt.Errorf("sealed key of %d bytes", len(blob)))
	}
	nonce := blob[header : header+gcm.NonceSize()]
	key, err := gcm.Open(nil, nonce, blob[header+gcm.NonceSize():], blob[:header])
	if err != nil {
		return nil, Refused(err)
	}
	return key, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return gcm, nil
}
