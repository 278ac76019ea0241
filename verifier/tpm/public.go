package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Limits of TPM structures, in bytes: far above what any key or quote needs.
const (
	maxPublic    = 1 << 10
	maxAttest    = 1 << 10
	maxSignature = 1 << 10
)

// ErrFormat is returned for bytes that are not, to the last one, the TPM
// structure that was asked for.
var ErrFormat = errors.New("not a well-formed TPM structure")

// unmarshal reads exactly one structure. Only its one encoding is taken: the
// library ignores trailing bytes.
func unmarshal[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](what string, b []byte, limit int) (*T, error) {
	if len(b) > limit {
		return nil, fmt.Errorf("reading %s of %d bytes: %w", what, len(b), ErrFormat)
	}
	v, err := tpm2.Unmarshal[T, P](b)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w: %w", what, ErrFormat, err)
	}
	if !bytes.Equal(tpm2.Marshal(*v), b) {
		return nil, fmt.Errorf("reading %s: %w", what, ErrFormat)
	}
	return v, nil
}

// parsePublic reads a TPMT_PUBLIC and its key, which must be RSA of 2048 to
// 4096 bits or a point on P-256 or P-384.
func parsePublic(b []byte) (*tpm2.TPMTPublic, crypto.PublicKey, error) {
	p, err := unmarshal[tpm2.TPMTPublic]("TPMT_PUBLIC", b, maxPublic)
	if err != nil {
		return nil, nil, err
	}
	key, err := tpm2.Pub(*p)
	if err != nil {
		return nil, nil, fmt.Errorf("reading TPMT_PUBLIC: %w: %w", ErrFormat, err)
	}
	if err := soundKey(key); err != nil {
		return nil, nil, err
	}
	return p, key, nil
}

// soundKey refuses keys that are not RSA of 2048 to 4096 bits or a point on
// P-256 or P-384.
func soundKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 || k.E != 65537 {
			return fmt.Errorf("reading key: %w: RSA key of %d bits, exponent %d", ErrFormat, n, k.E)
		}
	case *ecdsa.PublicKey:
		if _, err := k.ECDH(); err != nil {
			return fmt.Errorf("reading key: %w: %w", ErrFormat, err)
		}
		if n := k.Params().BitSize; n != 256 && n != 384 {
			return fmt.Errorf("reading key: %w: curve of %d bits", ErrFormat, n)
		}
	default:
		return fmt.Errorf("reading key: %w: key of type %T", ErrFormat, key)
	}
	return nil
}

// checkAK refuses public areas of keys that could sign anything else than
// what the TPM itself made (TPM 2.0 Library, Part 1, section 26.5 "Restricted
// attribute"), or that could live elsewhere than in one TPM.
func checkAK(p *tpm2.TPMTPublic) error {
	a := p.ObjectAttributes
	var errs []error
	for _, c := range []struct {
		name      string
		got, want bool
	}{
		{"restricted", a.Restricted, true}, {"sign", a.SignEncrypt, true}, {"decrypt", a.Decrypt, false},
		{"fixedTPM", a.FixedTPM, true}, {"fixedParent", a.FixedParent, true}, {"sensitiveDataOrigin", a.SensitiveDataOrigin, true},
	} {
		if c.got != c.want {
			errs = append(errs, fmt.Errorf("attribute %s is %v", c.name, c.got))
		}
	}
	if p.NameAlg != tpm2.TPMAlgSHA256 && p.NameAlg != tpm2.TPMAlgSHA384 {
		errs = append(errs, fmt.Errorf("name algorithm %#04x", uint16(p.NameAlg)))
	}
	if s := schemeOf(p); hashes[s.hash] == 0 {
		errs = append(errs, errors.New("signing scheme is not ECDSA, RSASSA or RSAPSS with SHA-256 or SHA-384"))
	}
	return errors.Join(errs...)
}

// schemeOf returns the one scheme that a signing key is fixed to, the zero
// value for a key that is not or that signs in another way.
func schemeOf(p *tpm2.TPMTPublic) scheme {
	switch p.Type {
	case tpm2.TPMAlgECC:
		d, err := p.Parameters.ECCDetail()
		if err != nil || d.Scheme.Scheme != tpm2.TPMAlgECDSA {
			return scheme{}
		}
		if s, err := d.Scheme.Details.ECDSA(); err == nil {
			return scheme{tpm2.TPMAlgECDSA, s.HashAlg}
		}
	case tpm2.TPMAlgRSA:
		d, err := p.Parameters.RSADetail()
		if err != nil {
			return scheme{}
		}
		switch d.Scheme.Scheme {
		case tpm2.TPMAlgRSASSA:
			if s, err := d.Scheme.Details.RSASSA(); err == nil {
				return scheme{tpm2.TPMAlgRSASSA, s.HashAlg}
			}
		case tpm2.TPMAlgRSAPSS:
			if s, err := d.Scheme.Details.RSAPSS(); err == nil {
				return scheme{tpm2.TPMAlgRSAPSS, s.HashAlg}
			}
		}
	}
	return scheme{}
}

// checkEK refuses public areas that are not those of a storage key which only
// decrypts what was made for it: credential activation rests on that (TPM 2.0
// Library, Part 1, section 24 "Credential Protection").
func checkEK(p *tpm2.TPMTPublic) error {
	a := p.ObjectAttributes
	var errs []error
	for _, c := range []struct {
		name      string
		got, want bool
	}{
		{"restricted", a.Restricted, true}, {"decrypt", a.Decrypt, true}, {"sign", a.SignEncrypt, false},
		{"fixedTPM", a.FixedTPM, true}, {"fixedParent", a.FixedParent, true},
	} {
		if c.got != c.want {
			errs = append(errs, fmt.Errorf("attribute %s is %v", c.name, c.got))
		}
	}
	if p.NameAlg != tpm2.TPMAlgSHA256 && p.NameAlg != tpm2.TPMAlgSHA384 {
		errs = append(errs, fmt.Errorf("name algorithm %#04x", uint16(p.NameAlg)))
	}
	if !wrapsWithAES(p) {
		errs = append(errs, errors.New("symmetric scheme is not AES in CFB mode"))
	}
	return errors.Join(errs...)
}

func wrapsWithAES(p *tpm2.TPMTPublic) bool {
	var sym tpm2.TPMTSymDefObject
	switch p.Type {
	case tpm2.TPMAlgECC:
		d, err := p.Parameters.ECCDetail()
		if err != nil {
			return false
		}
		sym = d.Symmetric
	case tpm2.TPMAlgRSA:
		d, err := p.Parameters.RSADetail()
		if err != nil || d.Scheme.Scheme != tpm2.TPMAlgNull {
			return false
		}
		sym = d.Symmetric
	}
	if sym.Algorithm != tpm2.TPMAlgAES {
		return false
	}
	bits, err := sym.KeyBits.AES()
	if err != nil || *bits != 128 && *bits != 256 {
		return false
	}
	mode, err := sym.Mode.AES()
	return err == nil && *mode == tpm2.TPMAlgCFB
}

// sameKey reports whether a certificate is for a key.
func sameKey(c *x509.Certificate, key crypto.PublicKey) bool { return equalKeys(c.PublicKey, key) }

func equalKeys(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// ParseKey reads an attestation key as people have it: a TPMT_PUBLIC or
// TPM2B_PUBLIC, whose public area is returned, too, or a PEM public key, whose
// attributes nobody knows.
func ParseKey(b []byte) (key crypto.PublicKey, public []byte, err error) {
	if block, rest := pem.Decode(b); block != nil {
		if block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) != 0 {
			return nil, nil, fmt.Errorf("reading key: %w: PEM of type %.32q", ErrFormat, block.Type)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("reading key: %w: %w", ErrFormat, err)
		}
		if err := soundKey(key); err != nil {
			return nil, nil, err
		}
		return key, nil, nil
	}
	if len(b) > 2 && int(b[0])<<8|int(b[1]) == len(b)-2 {
		b = b[2:] // TPM2B_PUBLIC: the size before it
	}
	_, key, err = parsePublic(b)
	return key, b, err
}

// ParseSignature refuses bytes that are no TPMT_SIGNATURE.
func ParseSignature(b []byte) error {
	_, err := unmarshal[tpm2.TPMTSignature]("TPMT_SIGNATURE", b, maxSignature)
	return err
}
