// Package keyfile keeps private keys in files: PKCS #8 in PEM (RFC 5958, RFC
// 7468), readable by their owner only.
package keyfile

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

const maxSize = 64 << 10

// ErrPermissions is returned for key files that others than the owner can
// read.
var ErrPermissions = errors.New("key file is readable by others than its owner")

// Write stores a private key in a new file. An existing file is never
// replaced.
func Write(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding private key: %w", err)
	}
	return create(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// WriteCert stores a certificate in a new PEM file.
func WriteCert(path string, c *x509.Certificate) error {
	return create(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o644)
}

func create(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("creating key file: %w", err)
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(fmt.Errorf("writing key file: %w", err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing key file: %w", err)
	}
	return nil
}

// Read loads a private key.
func Read(path string) (crypto.Signer, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("reading key file %s: %w: mode %v, want 0600", path, ErrPermissions, st.Mode().Perm())
	}
	der, err := block(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading key file %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("reading key file %s: a key of type %T cannot sign", path, key)
	}
	return signer, nil
}

// ReadEd25519 loads a private key that must be an Ed25519 one.
func ReadEd25519(path string) (ed25519.PrivateKey, error) {
	key, err := Read(path)
	if err != nil {
		return nil, err
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading key file %s: it has a key of type %T, want Ed25519", path, key)
	}
	return k, nil
}

// ReadCert loads a certificate from a PEM file with nothing else in it.
func ReadCert(path string) (*x509.Certificate, error) {
	der, err := block(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading certificate file %s: %w", path, err)
	}
	return c, nil
}

func block(path, typ string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading PEM file: %w", err)
	}
	p, rest := pem.Decode(b)
	if len(b) > maxSize || p == nil || p.Type != typ || len(rest) != 0 {
		return nil, fmt.Errorf("reading PEM file %s: want one block of type %s", path, typ)
	}
	return p.Bytes, nil
}
