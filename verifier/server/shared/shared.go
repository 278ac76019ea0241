// Package shared keeps what replicas of a verifier have in common in a store
// that speaks the Redis protocol (redis.io/docs, version 6.2 or later, with
// scripts): challenges, enrolments of TPM keys under way, the latest verdicts, what
// was fetched from the makers' services and the limits of clients. In come
// challenges that were issued and evidence's contributions; out comes, once for
// each, whether one is in force. Everything in the store expires, and is bounded in
// number or by its expiry.
//
// An open challenge is a key in the store; taking it removes the key, in one
// command. So whatever the store loses is refused, and no clock of a replica
// counts. A store that comes back from its disk may have forgotten that a
// challenge was taken: keys carry the store's run id, which every start changes,
// so that none of before a start counts. A store that fails over to a copy of
// itself that lags behind would hand out a challenge twice: give each its own
// address.
package shared

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/measurements/digest"
	"cocoon/verifier/server"
)

// Defaults of Options.
const (
	DefaultPrefix  = "cocoon"
	DefaultTimeout = 2 * time.Second // of one command, waiting for a connection included
)

// Options of a Store.
type Options struct {
	URL      string        // redis://, rediss:// or unix://, without a password
	Password string        // "": none
	Prefix   string        // of every key; "": DefaultPrefix
	Timeout  time.Duration // 0: DefaultTimeout
	// MaxVerdicts is how many of the latest verdicts are kept; 0: MaxVerdicts.
	MaxVerdicts int
	// MaxVerdictBytes is what they take at most; 0: MaxVerdictBytes.
	MaxVerdictBytes int64
}

// Store is the shared state. It implements server.Challenges.
type Store struct {
	rdb             *redis.Client
	prefix          string
	maxVerdicts     int
	maxVerdictBytes int64
	run             atomic.Pointer[string] // of the server that the latest connection reached
}

var _ server.Challenges = (*Store)(nil)

// ErrRestarted is returned for a command during which the store was started
// again.
var ErrRestarted = errors.New("the shared store was started again")

// Open returns a Store. The server is asked once, and need not answer yet.
func Open(ctx context.Context, o Options) (*Store, error) {
	ro, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("opening shared store: %w", err)
	}
	if ro.Password != "" {
		return nil, errors.New("opening shared store: the URL has a password: give a file with it")
	}
	ro.Password = o.Password
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if strings.ContainsAny(o.Prefix, ": \n") || len(o.Prefix) > 64 {
		return nil, errors.New("opening shared store: prefix must be up to 64 characters without colon and space")
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxVerdicts <= 0 {
		o.MaxVerdicts = MaxVerdicts
	}
	if o.MaxVerdictBytes <= 0 {
		o.MaxVerdictBytes = MaxVerdictBytes
	}
	s := &Store{prefix: o.Prefix, maxVerdicts: o.MaxVerdicts, maxVerdictBytes: o.MaxVerdictBytes}
	ro.DialTimeout, ro.ReadTimeout, ro.WriteTimeout, ro.PoolTimeout = o.Timeout, o.Timeout, o.Timeout, o.Timeout
	ro.ContextTimeoutEnabled = true
	// A command whose answer is lost may have been carried out: sent again, it
	// would find the challenge taken, which refuses it. That is safe, and rare.
	ro.MaxRetries = 1
	ro.OnConnect = s.connected
	s.rdb = redis.NewClient(ro)
	_ = s.Ready(ctx) // to learn the run id; whoever needs the store says that it is away
	return s, nil
}

// connected learns the run id of the server, before the connection is used.
func (s *Store) connected(ctx context.Context, c *redis.Conn) error {
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		return fmt.Errorf("asking the shared store for its run id: %w", err)
	}
	id, ok := runID(info)
	if !ok {
		return errors.New("the shared store has no run id")
	}
	s.run.Store(&id)
	return nil
}

// runID finds the run id in a store's answer. It becomes part of keys.
func runID(info string) (string, bool) {
	for line := range strings.Lines(info) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); ok && id != "" && len(id) <= 64 {
			return id, true
		}
	}
	return "", false
}

// during runs commands on keys of one run of the store.
func (s *Store) during(f func(run string) error) error {
	before := s.run.Load()
	if before == nil {
		if err := s.Ready(context.Background()); err != nil {
			return err
		}
		if before = s.run.Load(); before == nil {
			return errors.New("the shared store has no run id")
		}
	}
	if err := f(*before); err != nil {
		return err
	}
	if after := s.run.Load(); *after != *before {
		return ErrRestarted
	}
	return nil
}

func (s *Store) key(run string, purpose verifierv1.Purpose, d digest.SHA256) string {
	return fmt.Sprintf("%s:%s:challenge:%d:%s", s.prefix, run, purpose, hex.EncodeToString(d[:]))
}

// Issue implements server.Challenges.
func (s *Store) Issue(ctx context.Context, purpose verifierv1.Purpose, ttl time.Duration) (digest.SHA256, error) {
	var d digest.SHA256
	if _, err := rand.Read(d[:]); err != nil {
		return d, fmt.Errorf("making challenge: %w", err)
	}
	err := s.during(func(run string) error { return s.rdb.Set(ctx, s.key(run, purpose, d), 1, ttl).Err() })
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("keeping challenge: %w", err)
	}
	return d, nil
}

// Take implements server.Challenges.
func (s *Store) Take(ctx context.Context, purpose verifierv1.Purpose, inputs []digest.SHA256) ([]digest.SHA256, string, error) {
	taken := make([]*redis.IntCmd, len(inputs))
	err := s.during(func(run string) error {
		_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, d := range inputs {
				taken[i] = p.Del(ctx, s.key(run, purpose, d))
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("taking challenge: %w", err)
	}
	var out []digest.SHA256
	for i, d := range inputs {
		if taken[i].Val() == 1 {
			out = append(out, d)
		}
	}
	return out, "no challenge of this verifier, or one that was used before or has expired", nil
}

// Ready implements server.Challenges.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.rdb.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("asking the shared store: %w", err)
	}
	return nil
}

// Close ends the connections.
func (s *Store) Close() error { return s.rdb.Close() }
