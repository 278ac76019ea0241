package main

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"cocoon/cmd/cocoon-verifier/internal/pkcs11key"
	"cocoon/enclave/platform"
	"cocoon/enclave/seal"
	"cocoon/enclave/tpmdev"
	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/verifier/pck"
	"cocoon/verifier/server"
)

// SigningKey is a key that signs verdicts from not_before until retire_at or, if
// that is earlier, until the next one begins. One of file, pkcs11 and sealed
// says where it is.
type SigningKey struct {
	File      string    `json:"file,omitempty"` // PKCS #8 PEM, readable by its owner only
	PKCS11    *Token    `json:"pkcs11,omitempty"`
	Sealed    *Sealed   `json:"sealed,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"` // RFC 3339
	RetireAt  time.Time `json:"retire_at,omitzero"`
}

// Token is a key in a PKCS #11 token.
type Token struct {
	Module  string `json:"module"`   // path of the shared object
	Token   string `json:"token"`    // the token's label
	Label   string `json:"label"`    // the key's
	PINFile string `json:"pin_file"` // readable by its owner only
}

// Sealed is a key that the machine releases only to what it was sealed in
// (cocoon-verifier keygen --seal): its TPM after the same boot (package
// enclave/tpmdev), or its TEE to the same launch (platform.ServiceSealer).
type Sealed struct {
	File    string          `json:"file"`
	By      string          `json:"by,omitempty"`      // ByTPM or ByTEE; "": ByTPM
	TPM     string          `json:"tpm,omitempty"`     // device; "": DefaultTPM
	Enclave *SealingEnclave `json:"enclave,omitempty"` // that a TD needs, and an SNP guest does not
}

// Values of Sealed.By.
const (
	ByTPM = "tpm"
	ByTEE = "tee"
)

// DefaultTPM is the device of a sealed key.
const DefaultTPM = "/dev/tpmrm0"

// maxSecret bounds PINs and passwords.
const maxSecret = 1 << 10

func (k *SigningKey) validate() error {
	n := 0
	for _, there := range []bool{k.File != "", k.PKCS11 != nil, k.Sealed != nil} {
		if there {
			n++
		}
	}
	switch t := k.PKCS11; {
	case n != 1:
		return errors.New("one of file, pkcs11 and sealed is needed")
	case t != nil && (t.Module == "" || t.Token == "" || t.Label == "" || t.PINFile == ""):
		return errors.New("pkcs11 needs module, token, label and pin_file")
	case k.Sealed != nil:
		return k.Sealed.validate()
	}
	return nil
}

func (k *Sealed) validate() error {
	switch e := k.Enclave; {
	case k.File == "":
		return errors.New("sealed needs file")
	case k.By != "" && k.By != ByTPM && k.By != ByTEE:
		return fmt.Errorf("sealed by %.32q, want %s or %s", k.By, ByTPM, ByTEE)
	case k.By == ByTEE && k.TPM != "", k.By != ByTEE && e != nil:
		return errors.New("tpm is for keys that are sealed by a TPM, enclave for those by the TEE")
	case e != nil && (e.Address == "" || e.Signer.IsZero() || e.MinSVN == 0):
		return errors.New("a sealing enclave needs address, signer and min_svn")
	}
	return nil
}

// keystore opens signing keys.
type keystore struct {
	modules pkcs11key.Modules
	sealer  func(tpm string) (seal.Sealer, io.Closer, error) // nil: the machine's TPM
	machine func() (platform.Platform, error)                // nil: the running one
	roots   *pck.Roots                                       // of sealing enclaves; nil: Intel's
}

// open returns the signing keys of a config, and what to close when they are
// used no more.
func (s *keystore) open(c *Config) (keys []server.SigningKey, closers []io.Closer, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fault.New(fault.ExitInternal, "verifier.signing_key", "make keys with cocoon-verifier keygen, and see docs/verifier-api.md", "%w", err), closeAll(closers))
			keys, closers = nil, nil
		}
	}()
	list := c.Signing
	if c.SigningKey != "" {
		list = []SigningKey{{File: c.SigningKey}}
	}
	for _, k := range list {
		var signer crypto.Signer
		switch {
		case k.PKCS11 != nil:
			pin, err := c.readSecret(k.PKCS11.PINFile)
			if err != nil {
				return keys, closers, err
			}
			key, err := s.modules.Open(pkcs11key.Options{Module: k.PKCS11.Module, Token: k.PKCS11.Token, Label: k.PKCS11.Label, PIN: pin})
			if err != nil {
				return keys, closers, err
			}
			signer, closers = key, append(closers, key)
		case k.Sealed != nil:
			if signer, err = s.unseal(c, k.Sealed); err != nil {
				return keys, closers, err
			}
		default:
			if signer, err = keyfile.ReadEd25519(c.path(k.File)); err != nil {
				return keys, closers, err
			}
		}
		keys = append(keys, server.SigningKey{Signer: signer, NotBefore: k.NotBefore, RetireAt: k.RetireAt})
	}
	return keys, closers, nil
}

func (s *keystore) openSealer(k *Sealed) (seal.Sealer, io.Closer, error) {
	if k.By == ByTEE {
		return s.teeSealer(k)
	}
	if s.sealer != nil {
		return s.sealer(k.TPM)
	}
	tpm := k.TPM
	if tpm == "" {
		tpm = DefaultTPM
	}
	dev, err := tpmdev.Open(tpm)
	if err != nil {
		return nil, nil, err
	}
	return dev.Sealer(), dev, nil
}

// unseal has the machine release a key's seed. The device is closed again: it is
// not needed to sign.
func (s *keystore) unseal(c *Config, k *Sealed) (crypto.Signer, error) {
	blob, err := c.readFile(k.File, seal.MaxBlob)
	if err != nil {
		return nil, fmt.Errorf("reading sealed key: %w", err)
	}
	sealer, dev, err := s.openSealer(k)
	if err != nil {
		return nil, err
	}
	seed, err := sealer.Unseal(blob)
	if err := errors.Join(err, dev.Close()); err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("reading sealed key: %d bytes were sealed, want a seed of %d", len(seed), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// readSecret reads a file with a line that others than its owner cannot read.
func (c *Config) readSecret(p string) (string, error) {
	st, err := os.Stat(c.path(p))
	if err != nil {
		return "", fmt.Errorf("reading secret: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("reading %s: %w", p, keyfile.ErrPermissions)
	}
	b, err := c.readFile(p, maxSecret)
	if err != nil {
		return "", fmt.Errorf("reading secret: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

func closeAll(list []io.Closer) error {
	var errs []error
	for _, c := range list {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
