package server

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
	"time"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/measurements/digest"
)

// Challenges makes and takes contributions to the nonce of evidence. Each serves
// one attempt, for the purpose that it was made for, until it expires. Replicas
// behind one address share one (package shared).
//
// No clock that an administrator or a time server sets may decide: one that is
// set back would let a challenge be used again that was forgotten since.
type Challenges interface {
	// Issue returns a new challenge.
	Issue(ctx context.Context, purpose verifierv1.Purpose, ttl time.Duration) (digest.SHA256, error)
	// Take uses up those of the inputs that are in force for the purpose, and
	// returns them; where there is none, why. An error lets nothing through.
	Take(ctx context.Context, purpose verifierv1.Purpose, inputs []digest.SHA256) (ours []digest.SHA256, why string, err error)
	// Ready returns an error where neither can be done now.
	Ready(ctx context.Context) error
}

// NoChallenge is Take's reason where nothing is known of any input.
const NoChallenge = "no challenge of this verifier"

// ErrTooManyUsed is the reason where one more challenge cannot be remembered:
// forgetting another would let it be used again.
var ErrTooManyUsed = errors.New("a challenge, but too many are in use")

// memoryChallenges are those of one process. Open ones are not kept: a
// challenge is its expiry (8 bytes, milliseconds of the process's life,
// big-endian), 8 random bytes, and 16 bytes of HMAC-SHA-256 over its purpose and
// both. The key lives as long as the process: after a restart every challenge
// of before is unknown. Used ones are kept until they expire. Time is the
// process's age, which is monotonic: it takes no part in jumps of the clock.
type memoryChallenges struct {
	key  [32]byte
	macs sync.Pool // hash.Hash: HMACs under the key
	age  func() time.Duration
	max  int

	mu sync.Mutex
	n  int
	// By the minute that they expire in, so that a minute is dropped as a whole
	// once it has passed. A challenge is known by its random part: two that share
	// it count as one, which refuses the second.
	used map[int64]map[uint64]struct{}
}

const challengeBody = 16

// newMemoryChallenges remembers at most max used challenges. age is the
// process's, and never goes back.
func newMemoryChallenges(age func() time.Duration, max int) (*memoryChallenges, error) {
	m := &memoryChallenges{age: age, max: max, used: map[int64]map[uint64]struct{}{}}
	if _, err := rand.Read(m.key[:]); err != nil {
		return nil, fmt.Errorf("making challenge key: %w", err)
	}
	return m, nil
}

func (m *memoryChallenges) mac(purpose verifierv1.Purpose, body []byte) []byte {
	h, ok := m.macs.Get().(hash.Hash)
	if !ok {
		h = hmac.New(sha256.New, m.key[:])
	}
	defer m.macs.Put(h)
	h.Reset()
	h.Write([]byte{byte(purpose)})
	h.Write(body)
	return h.Sum(nil)[:challengeBody]
}

// Issue implements Challenges.
func (m *memoryChallenges) Issue(_ context.Context, purpose verifierv1.Purpose, ttl time.Duration) (digest.SHA256, error) {
	var d digest.SHA256
	binary.BigEndian.PutUint64(d[:], uint64((m.age() + ttl).Milliseconds()))
	if _, err := rand.Read(d[8:challengeBody]); err != nil {
		return d, fmt.Errorf("making challenge: %w", err)
	}
	copy(d[challengeBody:], m.mac(purpose, d[:challengeBody]))
	return d, nil
}

// Take implements Challenges.
func (m *memoryChallenges) Take(_ context.Context, purpose verifierv1.Purpose, inputs []digest.SHA256) ([]digest.SHA256, string, error) {
	why := NoChallenge
	var out []digest.SHA256
	for _, d := range inputs {
		if !hmac.Equal(d[challengeBody:], m.mac(purpose, d[:challengeBody])) {
			continue
		}
		switch expired, first, err := m.use(int64(binary.BigEndian.Uint64(d[:8])), binary.BigEndian.Uint64(d[8:])); {
		case err != nil:
			why = err.Error()
		case expired:
			why = "an expired challenge"
		case !first:
			why = "a challenge that was used before"
		default:
			out = append(out, d)
		}
	}
	return out, why, nil
}

// use notes one as used. The age is read under the lock, so that what was
// dropped as past is past for whoever comes next.
func (m *memoryChallenges) use(expires int64, random uint64) (expired, first bool, err error) {
	const minute = int64(time.Minute / time.Millisecond)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.age().Milliseconds()
	for at, set := range m.used {
		if at < now/minute {
			m.n -= len(set)
			delete(m.used, at)
		}
	}
	if now >= expires {
		return true, false, nil
	}
	set := m.used[expires/minute]
	if _, again := set[random]; again {
		return false, false, nil
	}
	if m.n >= m.max {
		return false, false, ErrTooManyUsed
	}
	if set == nil {
		set = map[uint64]struct{}{}
		m.used[expires/minute] = set
	}
	set[random] = struct{}{}
	m.n++
	return false, true, nil
}

// Ready implements Challenges.
func (m *memoryChallenges) Ready(context.Context) error { return nil }
