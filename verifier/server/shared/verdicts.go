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

// Bounds of the verdicts that replicas share, as those of a replica's own: the
// latest ones, and each until it ends.
const (
	MaxVerdicts = 1 << 14
	// With the largest checks there are, as base64, beside the token and the rest.
	maxVerdict = result.MaxChecks/3*4 + 256<<10
)

// Verdicts are the latest of all replicas, for GetVerdict. A verdict is signed:
// who takes one believes its signer, not the store.
type Verdicts struct{ *Store }

var _ server.Verdicts = Verdicts{}

// putVerdict keeps a verdict and forgets the oldest beyond the bound. KEYS: the
// verdict, their order, a counter. ARGV: evidence, verdict, milliseconds, most,
// prefix of verdicts.
var putVerdict = redis.NewScript(`
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[1])
while redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[4]) do
  redis.call('DEL', ARGV[5] .. redis.call('ZPOPMIN', KEYS[2])[1])
end
return 1`)

func (s Verdicts) base() string { return s.prefix + ":verdict:" }

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
		id := hex.EncodeToString(g.EvidenceSHA256[:])
		err = putVerdict.Run(ctx, s.rdb, []string{s.base() + "of:" + id, s.base() + "order", s.base() + "count"},
			id, doc, ttl.Milliseconds(), s.maxVerdicts, s.base()+"of:").Err()
	}
	if err != nil {
		return fmt.Errorf("sharing verdict: %w", err)
	}
	return nil
}

// Get implements server.Verdicts.
func (s Verdicts) Get(ctx context.Context, evidence digest.SHA256) (server.Given, bool, error) {
	doc, err := s.rdb.Get(ctx, s.base()+"of:"+hex.EncodeToString(evidence[:])).Bytes()
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
