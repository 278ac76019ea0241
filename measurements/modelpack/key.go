package modelpack

import (
	"crypto/aes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"golang.org/x/crypto/xts"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// KeySize is the size of a pack's key: two of AES-256.
const KeySize = 64

// sectorSize is dm-crypt's unit: each has its own tweak, its number.
const sectorSize = 512

// Key encrypts a pack.
type Key [KeySize]byte

// NewKey makes a key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // never fails: crypto/rand
	return k
}

// ID returns what names a key without telling it.
func (k *Key) ID() digest.SHA256 {
	return digest.SHA256(sha256.Sum256(append([]byte("cocoon-model-key-v1\x00"), k[:]...)))
}

// keyFile is a key on disk.
type keyFile struct {
	Format string `json:"format"`
	Pack   string `json:"pack"` // ID of the pack that it opens
	Key    string `json:"key"`  // hex
}

const keyFormat = "cocoon-model-key/1"

// MarshalKey returns a key file for a pack.
func MarshalKey(k *Key, pack string) ([]byte, error) {
	b, err := jcs.Marshal(keyFile{Format: keyFormat, Pack: pack, Key: hex.EncodeToString(k[:])})
	return append(b, '\n'), err
}

// ParseKey reads a key file and says which pack it is for.
func ParseKey(b []byte) (k Key, pack string, err error) {
	var f keyFile
	err = jcs.Decode(b, 4<<10, &f)
	var raw []byte
	if err == nil {
		raw, err = hex.DecodeString(f.Key)
	}
	if err == nil && (f.Format != keyFormat || len(raw) != KeySize) {
		err = fmt.Errorf("format %.32q with a key of %d bytes", f.Format, len(raw))
	}
	if err == nil {
		_, _, _, err = ParseID(f.Pack)
	}
	if err != nil {
		// The text must not show the key.
		return k, "", fault.New(fault.ExitParse, CodeKey, "give the file that cocoon model pack --encrypt wrote", "reading the model's key: not a key file")
	}
	return Key(raw), f.Pack, nil
}

// coder encrypts or decrypts a device's bytes.
type coder struct{ c *xts.Cipher }

func newCoder(k *Key) (*coder, error) {
	c, err := xts.NewCipher(aes.NewCipher, k[:])
	if err != nil {
		return nil, fmt.Errorf("making the pack's cipher: %w", err)
	}
	return &coder{c}, nil
}

// encrypt replaces whole sectors at an offset of the device; decrypt takes it
// back.
func (c *coder) encrypt(offset int64, p []byte) {
	for i := 0; i < len(p); i += sectorSize {
		c.c.Encrypt(p[i:i+sectorSize], p[i:i+sectorSize], uint64(offset+int64(i))/sectorSize)
	}
}

func (c *coder) decrypt(offset int64, p []byte) {
	for i := 0; i < len(p); i += sectorSize {
		c.c.Decrypt(p[i:i+sectorSize], p[i:i+sectorSize], uint64(offset+int64(i))/sectorSize)
	}
}
