package shared

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"cocoon/measurements/digest"
	"cocoon/verifier/tpm"
)

// Enrolments are those under way, of all replicas. It implements tpm.Pending.
type Enrolments struct{ *Store }

var _ tpm.Pending = Enrolments{}

// putEnrolment keeps a record within bounds, by the store's clock. KEYS: the
// record, the sessions of its endorsement key, all sessions. ARGV: session,
// record, milliseconds, most of all, most of one key, prefix of records.
var putEnrolment = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[5]) then
  local oldest = redis.call('ZPOPMIN', KEYS[2])
  redis.call('DEL', ARGV[6] .. oldest[1])
  redis.call('ZREM', KEYS[3], oldest[1])
end
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[4]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
for i = 2, 3 do
  redis.call('ZADD', KEYS[i], now + ARGV[3], ARGV[1])
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
return 1`)

// enrolKeys are the names of what belongs to enrolments in one run of the store.
type enrolKeys struct{ records, ofKey, all string }

func (s *Store) enrolKeys(run string) enrolKeys {
	base := s.prefix + ":" + run + ":enrol"
	return enrolKeys{base + ":session:", base + ":ek:", base + ":all"}
}

// Put implements tpm.Pending.
func (s Enrolments) Put(ctx context.Context, session, ek digest.SHA256, record []byte, ttl time.Duration, most int) error {
	if len(record) > tpm.MaxPendingRecord {
		return fmt.Errorf("keeping enrolment: %d bytes", len(record))
	}
	var kept int
	err := s.during(func(run string) error {
		k := s.enrolKeys(run)
		id := hex.EncodeToString(session[:])
		var err error
		kept, err = putEnrolment.Run(ctx, s.rdb, []string{k.records + id, k.ofKey + hex.EncodeToString(ek[:]), k.all},
			id, record, ttl.Milliseconds(), most, tpm.MaxPendingPerEK, k.records).Int()
		return err
	})
	if err != nil {
		return fmt.Errorf("keeping enrolment: %w", err)
	}
	if kept == 0 {
		return tpm.ErrPendingFull
	}
	return nil
}

// takeEnrolment returns a record and removes it. KEYS: the record, all sessions.
// ARGV: session.
var takeEnrolment = redis.NewScript(`
local record = redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return record`)

// Take implements tpm.Pending.
func (s Enrolments) Take(ctx context.Context, session digest.SHA256) ([]byte, error) {
	var record string
	err := s.during(func(run string) error {
		k := s.enrolKeys(run)
		id := hex.EncodeToString(session[:])
		var err error
		record, err = takeEnrolment.Run(ctx, s.rdb, []string{k.records + id, k.all}, id).Text()
		return err
	})
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("taking enrolment: %w", err)
	}
	return []byte(record), nil
}

// Len implements tpm.Pending: the store is not asked.
func (s Enrolments) Len() int { return 0 }
