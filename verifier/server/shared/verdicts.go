package shared

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/result"
	"cocoon/verifier/server"
)

// Bounds of the verdicts that replicas share: the latest ones, by number and, as
// those of a replica's own, by what they take, and each until it ends.
const (
	MaxVerdicts     = 1 << 14
	MaxVerdictBytes = 256 << 20
	// With the largest checks there are, as base64, beside the token and the rest.
	maxVerdict = result.MaxChecks/3*4 + 256<<10
)

// Verdicts are the latest of all replicas, for GetVerdict. A verdict is signed:
// who takes one believes its signer, not the store.
type Verdicts struct{ *Store }

var _ server.Verdicts = Verdicts{}

// putLatest keeps a value and forgets the oldest beyond the bounds. KEYS: the
// value, their order, a counter, the sizes of those in the order and their
// total. ARGV: id, value, milliseconds, most, prefix of values, most
// bytes. One that has ended counts until it is the oldest.
var putLatest = redis.NewScript(`
local size = #ARGV[2]
local before = tonumber(redis.call('HGET', KEYS[4], ARGV[1]) or '0')
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], size)
local total = redis.call('HINCRBY', KEYS[4], 'total', size - before)
local n = redis.call('ZCARD', KEYS[2])
while n > tonumber(ARGV[4]) or (n > 1 and total > tonumber(ARGV[6])) do
  local oldest = redis.call('ZPOPMIN', KEYS[2])[1]
  redis.call('DEL', ARGV[5] .. oldest)
  total = redis.call('HINCRBY', KEYS[4], 'total', -tonumber(redis.call('HGET', KEYS[4], oldest) or '0'))
  redis.call('HDEL', KEYS[4], oldest)
  n = n - 1
end
return 1`)

// latest are the values of a kind that were put last: at most so many, of at most
// so many bytes.
type latest struct {
	*Store
	kind     string
	max      int
	maxBytes int64
}

func (l latest) key(id string) string { return l.prefix + ":" + l.kind + ":of:" + id }

func (l latest) put(ctx context.Context, id string, value []byte, ttl time.Duration) error {
	base := l.prefix + ":" + l.kind + ":"
	return putLatest.Run(ctx, l.rdb, []string{l.key(id), base + "order", base + "count", base + "sizes"},
		id, value, ttl.Milliseconds(), l.max, base+"of:", l.maxBytes).Err()
}

func (s Verdicts) latest() latest {
	return latest{s.Store, "verdict", s.maxVerdicts, s.maxVerdictBytes}
}

// Put implements server.Verdicts.
func (s Verdicts) Put(ctx context.Context, g *server.Given, ttl time.Duration) error {
	doc, err := json.Marshal(g)
	if err == nil && len(doc) > maxVerdict {
		err = fmt.Errorf("%d bytes", len(doc))
	}
	if err == nil && ttl.Milliseconds() <= 0 {
		return nil // it has ended
	}
	if err == nil {
		err = s.latest().put(ctx, hex.EncodeToString(g.EvidenceSHA256[:]), doc, ttl)
	}
	if err != nil {
		return fmt.Errorf("sharing verdict: %w", err)
	}
	return nil
}

// Get implements server.Verdicts.
func (s Verdicts) Get(ctx context.Context, evidence digest.SHA256) (server.Given, bool, error) {
	doc, err := s.rdb.Get(ctx, s.latest().key(hex.EncodeToString(evidence[:]))).Bytes()
	if errors.Is(err, redis.Nil) {
		return server.Given{}, false, nil
	}
	var g server.Given
	if err == nil {
		g, err = readVerdict(doc, evidence)
	}
	if err != nil {
		return server.Given{}, false, fmt.Errorf("looking up shared verdict: %w", err)
	}
	return g, true, nil
}

// readVerdict reads what the store has under the hash of evidence.
func readVerdict(doc []byte, evidence digest.SHA256) (server.Given, error) {
	var g server.Given
	if err := jcs.Decode(doc, maxVerdict, &g); err != nil {
		return server.Given{}, err
	}
	if g.EvidenceSHA256 != evidence {
		return server.Given{}, errors.New("it is of other evidence")
	}
	return g, nil
}
