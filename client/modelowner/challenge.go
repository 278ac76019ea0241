package modelowner

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls/modelkey"
)

// challenges are contributions to the nonce of evidence, each good for one
// release. Open ones are not kept, so that nobody can fill a table: a challenge
// is its expiry (8 bytes, milliseconds of the process's age, big-endian), 8
// random bytes, and 16 bytes of HMAC-SHA-256 over both under a key of this
// process. Used ones are kept until they expire; only an accepted enclave can
// use one. The age is monotonic: a clock that is set back revives nothing.
type challenges struct {
	key [32]byte
	age func() time.Duration

	mu   sync.Mutex
	used map[digest.SHA256]time.Duration // until when
}

const challengeBody = 16

func newChallenges(age func() time.Duration) (*challenges, error) {
	c := &challenges{age: age, used: map[digest.SHA256]time.Duration{}}
	if _, err := rand.Read(c.key[:]); err != nil {
		return nil, fmt.Errorf("making challenge key: %w", err)
	}
	return c, nil
}

func (c *challenges) mac(body []byte) []byte {
	h := hmac.New(sha256.New, c.key[:])
	h.Write(body)
	return h.Sum(nil)[:challengeBody]
}

func (c *challenges) issue() (digest.SHA256, error) {
	var d digest.SHA256
	binary.BigEndian.PutUint64(d[:], uint64((c.age() + ChallengeLife).Milliseconds()))
	if _, err := rand.Read(d[8:challengeBody]); err != nil {
		return d, fmt.Errorf("making challenge: %w", err)
	}
	copy(d[challengeBody:], c.mac(d[:challengeBody]))
	return d, nil
}

// expires returns when a challenge ends; an error where it is not ours.
func (c *challenges) expires(d digest.SHA256) (time.Duration, error) {
	if !hmac.Equal(d[challengeBody:], c.mac(d[:challengeBody])) {
		return 0, replay("it answers no challenge of this service")
	}
	return time.Duration(binary.BigEndian.Uint64(d[:8])) * time.Millisecond, nil
}

// check refuses what cannot be used: before work is done for it.
func (c *challenges) check(d digest.SHA256) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.good(d)
}

func (c *challenges) good(d digest.SHA256) error {
	until, err := c.expires(d)
	if err != nil {
		return err
	}
	if c.age() >= until {
		return replay("its challenge has expired")
	}
	if _, again := c.used[d]; again {
		return replay("its challenge was used before")
	}
	return nil
}

// use uses a challenge up.
func (c *challenges) use(d digest.SHA256) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.age()
	for old, until := range c.used {
		if now >= until {
			delete(c.used, old)
		}
	}
	if err := c.good(d); err != nil {
		return err
	}
	until, err := c.expires(d)
	if err != nil {
		return err
	}
	c.used[d] = until
	return nil
}

func replay(what string) error {
	return fault.New(fault.ExitRefused, modelkey.CodeChallenge, "ask for a new challenge, and answer it with fresh evidence", "reading request for a key: %s", what)
}
