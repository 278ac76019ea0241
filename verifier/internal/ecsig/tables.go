package ecsig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/sha256"
	"sync/atomic"

	"filippo.io/nistec"

	"cocoon/verifier/internal/lru"
)

// Uses is how often a key has verified before it gets a table. One costs as much
// as three to ten verifications: where so many keys take turns that tables are
// forgotten before they are used, a verification costs a sixth more than without.
const Uses = 64

// maxCounted bounds the keys without a table whose uses are counted.
const maxCounted = 4096

// Tables are of the keys that were used lately: multiples of each, with which a
// verification takes half of crypto/ecdsa's time on P-256 and a fifth of it on
// P-384. All other keys are left to crypto/ecdsa. The arithmetic of field and group
// is that of package filippo.io/nistec, which is the standard library's, exported.
// Nothing here is secret, and nothing is made to take equally long.
//
// It is safe for concurrent use; a nil *Tables has none and gets none.
type Tables struct {
	tables  *lru.Cache[*either]
	counted *lru.Cache[*atomic.Int32]
}

// Known is a key as Tables has it. It is immutable.
type Known struct {
	key *ecdsa.PublicKey
	id  [32]byte // SHA-256 of the point
}

// Know returns a key for Tables. It is to be made once for each key, and kept.
func Know(key *ecdsa.PublicKey) *Known {
	k := &Known{key: key}
	if point, err := key.Bytes(); err == nil {
		k.id = sha256.Sum256(point)
	}
	return k
}

// either is a table of one of the two curves. It is no interface, so that what is
// verified stays on the stack.
type either struct {
	p256 *table[nistec.P256Point, *nistec.P256Point]
	p384 *table[nistec.P384Point, *nistec.P384Point]
}

func (e *either) verify(digest, r, s []byte) bool {
	if e.p256 != nil {
		return e.p256.verify(digest, r, s)
	}
	return e.p384.verify(digest, r, s)
}

// NewTables returns an empty Tables, of at most max keys; none where max is not
// positive. A table takes 130 KiB for a key on P-256 and 350 KiB for one on P-384.
func NewTables(max int) *Tables {
	return &Tables{tables: lru.New[*either](max), counted: lru.New[*atomic.Int32](maxCounted)}
}

// Len returns the number of tables.
func (t *Tables) Len() int { return t.tables.Len() }

// Verify is the package's Verify. Keys that nobody has certified are not to be
// given: whoever has one could have a table made for it, in the place of another.
func (t *Tables) Verify(k *Known, digest, r, s []byte) bool {
	// Where only the validated module may verify, what follows is not part of it.
	if t == nil || t.tables.Max() <= 0 || fips140.Enabled() {
		return Verify(k.key, digest, r, s)
	}
	if e, ok := t.tables.Get(&k.id); ok {
		return e.verify(digest, r, s)
	}
	if !Verify(k.key, digest, r, s) { // nor does it where the key has no bytes
		return false
	}
	if t.used(&k.id) {
		if e := newEither(k.key); e != nil {
			t.tables.Put(&k.id, e)
		}
	}
	return true
}

// used counts, and reports whether it is time for a table: to one of those that
// come at a time, and from the beginning for a key whose table was forgotten.
func (t *Tables) used(id *[32]byte) bool {
	n, ok := t.counted.Get(id)
	if !ok {
		n = new(atomic.Int32)
		t.counted.Put(id, n)
	}
	if n.Add(1) != Uses {
		return false
	}
	t.counted.Put(id, new(atomic.Int32))
	return true
}

// newEither returns the table of a key, nil where it is on no curve that has
// them.
func newEither(key *ecdsa.PublicKey) *either {
	point, err := key.Bytes()
	if err != nil {
		return nil
	}
	switch key.Curve {
	case elliptic.P256():
		if p, err := nistec.NewP256Point().SetBytes(point); err == nil {
			return &either{p256: p256().table(p, keyWindow)}
		}
	case elliptic.P384():
		if p, err := nistec.NewP384Point().SetBytes(point); err == nil {
			return &either{p384: p384().table(p, keyWindow)}
		}
	}
	return nil
}
