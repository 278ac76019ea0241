package server

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"cocoon/measurements/digest"
)

// challenges makes and takes nonce contributions without keeping those that
// are open: a challenge is its expiry (8 bytes, Unix seconds, big-endian), 8
// random bytes, and 16 bytes of HMAC-SHA-256 over both under a key that lives
// as long as the process. After a restart every challenge of before is
// unknown: evidence that answers one is refused. Only those that were used
// are kept, until they expire.
type challenges struct {
	key     [32]byte
	ttl     time.Duration
	maxUsed int

	mu   sync.Mutex
	used map[digest.SHA256]int64 // expiry
}

const challengeBody = 16

func newChallenges(ttl time.Duration, maxUsed int) (*challenges, error) {
	c := &challenges{ttl: ttl, maxUsed: maxUsed, used: map[digest.SHA256]int64{}}
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

// issue returns a new challenge and its expiry.
func (c *challenges) issue(now time.Time) (digest.SHA256, time.Time, error) {
	expires := now.Add(c.ttl).Truncate(time.Second)
	var d digest.SHA256
	binary.BigEndian.PutUint64(d[:], uint64(expires.Unix()))
	if _, err := rand.Read(d[8:challengeBody]); err != nil {
		return d, expires, fmt.Errorf("making challenge: %w", err)
	}
	copy(d[challengeBody:], c.mac(d[:challengeBody]))
	return d, expires, nil
}

// take returns those of the contributions that are challenges of ours, in
// force and unused, and uses them up. Where there is none it says why.
func (c *challenges) take(inputs []digest.SHA256, now time.Time) ([]digest.SHA256, string) {
	why := "no challenge of this verifier"
	var out []digest.SHA256
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range inputs {
		if !hmac.Equal(d[challengeBody:], c.mac(d[:challengeBody])) {
			continue
		}
		expires := int64(binary.BigEndian.Uint64(d[:8]))
		if now.Unix() >= expires {
			why = "an expired challenge"
			continue
		}
		if _, again := c.used[d]; again {
			why = "a challenge that was used before"
			continue
		}
		if !c.room(now) {
			// Forgetting a used challenge would let it be used again.
			why = "a challenge, but too many are in use"
			continue
		}
		c.used[d] = expires
		out = append(out, d)
	}
	return out, why
}

// room drops what has expired and reports whether one more can be kept.
func (c *challenges) room(now time.Time) bool {
	if len(c.used) < c.maxUsed {
		return true
	}
	for d, expires := range c.used {
		if now.Unix() >= expires {
			delete(c.used, d)
		}
	}
	return len(c.used) < c.maxUsed
}
