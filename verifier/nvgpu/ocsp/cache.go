package ocsp

import (
	"crypto/sha256"
	"crypto/x509"

	"cocoon/verifier/internal/lru"
)

// MaxSignatures is how many signatures a Cache keeps: those of an answer and of its
// responder's certificate, for each certificate of some hundred machines.
const MaxSignatures = 8192

// Cache keeps which signatures were good: an answer is sent again with every
// evidence until its window ends. A signature's key is the SHA-256 of the signer's
// certificate and of all that was signed and how; only good ones are kept. What an
// answer says, for which certificate, its window, its nonce and who may sign are
// checked at each verification. It is bounded and safe for concurrent use; a nil
// *Cache keeps nothing.
type Cache struct{ good *lru.Cache[struct{}] }

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{lru.New[struct{}](MaxSignatures)} }

// Len returns the number of signatures kept.
func (c *Cache) Len() int { return c.good.Len() }

// verify calls check, unless it found the same signature good before. what says of
// which kind it is.
func (c *Cache) verify(what string, signer *x509.Certificate, signed, signature []byte, check func() error) error {
	if c == nil {
		return check()
	}
	var in [4 * sha256.Size]byte
	for i, b := range [][]byte{[]byte(what), signer.Raw, signed, signature} {
		sum := sha256.Sum256(b)
		copy(in[sha256.Size*i:], sum[:])
	}
	key := sha256.Sum256(in[:])
	if _, ok := c.good.Get(&key); ok {
		return nil
	}
	err := check()
	if err == nil {
		c.good.Put(&key, struct{}{})
	}
	return err
}
