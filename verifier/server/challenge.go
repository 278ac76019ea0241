package server

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/measurements/digest"
)

// challenges makes and takes nonce contributions without keeping those that
// are open: a challenge is its expiry (8 bytes, Unix seconds, big-endian), 8
// random bytes, and 16 bytes of HMAC-SHA-256 over its purpose and both. Without
// a configured key that of the MAC lives as long as the process: after a
// restart every challenge of before is unknown. Those that were used are kept
// until they expire.
type challenges struct {
	key  [32]byte
	ttl  time.Duration
	used UsedChallenges
}

const challengeBody = 16

// UsedChallenges remembers challenges that were used. Use reports whether this
// is the first time; an error uses nothing up and lets nothing through.
// Replicas that accept each other's challenges share one.
type UsedChallenges interface {
	Use(ctx context.Context, challenge digest.SHA256, expires, now time.Time) (first bool, err error)
}

func newChallenges(key []byte, ttl time.Duration, used UsedChallenges) (*challenges, error) {
	c := &challenges{ttl: ttl, used: used}
	switch len(key) {
	case len(c.key):
		copy(c.key[:], key)
	case 0:
		if _, err := rand.Read(c.key[:]); err != nil {
			return nil, fmt.Errorf("making challenge key: %w", err)
		}
	default:
		return nil, fmt.Errorf("challenge key has %d bytes, want %d", len(key), len(c.key))
	}
	return c, nil
}

func (c *challenges) mac(purpose verifierv1.Purpose, body []byte) []byte {
	h := hmac.New(sha256.New, c.key[:])
	h.Write([]byte{byte(purpose)})
	h.Write(body)
	return h.Sum(nil)[:challengeBody]
}

// issue returns a new challenge and its expiry.
func (c *challenges) issue(purpose verifierv1.Purpose, now time.Time) (digest.SHA256, time.Time, error) {
	expires := now.Add(c.ttl).Truncate(time.Second)
	var d digest.SHA256
	binary.BigEndian.PutUint64(d[:], uint64(expires.Unix()))
	if _, err := rand.Read(d[8:challengeBody]); err != nil {
		return d, expires, fmt.Errorf("making challenge: %w", err)
	}
	copy(d[challengeBody:], c.mac(purpose, d[:challengeBody]))
	return d, expires, nil
}

// take returns those of the contributions that are challenges of ours, for the
// purpose, in force and unused, and uses them up. Where there is none it says
// why.
func (c *challenges) take(ctx context.Context, purpose verifierv1.Purpose, inputs []digest.SHA256, now time.Time) ([]digest.SHA256, string, error) {
	why := "no challenge of this verifier"
	var out []digest.SHA256
	for _, d := range inputs {
		if !hmac.Equal(d[challengeBody:], c.mac(purpose, d[:challengeBody])) {
			continue
		}
		expires := time.Unix(int64(binary.BigEndian.Uint64(d[:8])), 0)
		if !now.Before(expires) {
			why = "an expired challenge"
			continue
		}
		// The clock was set back since it was issued: what was used before that
		// may be forgotten by now.
		if expires.Sub(now) > c.ttl {
			why = "a challenge from the future"
			continue
		}
		first, err := c.used.Use(ctx, d, expires, now)
		switch {
		case errors.Is(err, ErrTooManyUsed):
			why = "a challenge, but too many are in use"
		case err != nil:
			return nil, "", err
		case !first:
			why = "a challenge that was used before"
		default:
			out = append(out, d)
		}
	}
	return out, why, nil
}

// ErrTooManyUsed is returned where one more challenge cannot be remembered:
// forgetting another would let it be used again.
var ErrTooManyUsed = errors.New("too many challenges are in use")

// usedInMemory keeps used challenges by the minute that they expire in, so that
// a minute is dropped as a whole once it has passed.
type usedInMemory struct {
	max int

	mu      sync.Mutex
	n       int
	highest int64 // latest minute that was dropped: nothing before it is believed
	minutes map[int64]map[digest.SHA256]struct{}
}

// NewUsed returns a UsedChallenges in memory that keeps at most max.
func NewUsed(max int) UsedChallenges {
	return &usedInMemory{max: max, minutes: map[int64]map[digest.SHA256]struct{}{}, highest: -1 << 62}
}

// Use notes a challenge.
func (u *usedInMemory) Use(_ context.Context, c digest.SHA256, expires, now time.Time) (bool, error) {
	minute, present := expires.Unix()/60, now.Unix()/60
	u.mu.Lock()
	defer u.mu.Unlock()
	for m, set := range u.minutes {
		if m < present {
			u.n -= len(set)
			u.highest = max(u.highest, m)
			delete(u.minutes, m)
		}
	}
	if minute <= u.highest {
		return false, nil // the clock went back over what was forgotten
	}
	if _, again := u.minutes[minute][c]; again {
		return false, nil
	}
	if u.n >= u.max {
		return false, ErrTooManyUsed
	}
	if u.minutes[minute] == nil {
		u.minutes[minute] = map[digest.SHA256]struct{}{}
	}
	u.minutes[minute][c] = struct{}{}
	u.n++
	return true, nil
}
