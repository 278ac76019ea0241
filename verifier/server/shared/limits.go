package shared

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/redis/go-redis/v9"

	"cocoon/verifier/server"
)

// Limits are the buckets of clients, of all replicas.
type Limits struct{ *Store }

var _ server.Limits = Limits{}

// takeToken takes one from a client's bucket, by the store's clock. A bucket is
// gone once it is full again. KEYS: the bucket. ARGV: tokens a second, size.
var takeToken = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local rate, size = tonumber(ARGV[1]), tonumber(ARGV[2])
local b = redis.call('HMGET', KEYS[1], 'n', 't')
local n = tonumber(b[1] or '') or size
local last = tonumber(b[2] or '') or now
n = math.min(size, n + math.max(0, now - last) * rate)
local ok = 0
if n >= 1 then
  n = n - 1
  ok = 1
end
redis.call('HSET', KEYS[1], 'n', string.format('%.6f', n), 't', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(size / rate * 1000) + 1000)
return ok`)

// Allow implements server.Limits.
func (s Limits) Allow(ctx context.Context, client netip.Prefix, perSecond float64, burst int) (bool, error) {
	n, err := takeToken.Run(ctx, s.rdb, []string{s.prefix + ":limit:" + client.String()}, perSecond, burst).Int()
	if err != nil {
		return false, fmt.Errorf("asking for a client's limit: %w", err)
	}
	return n == 1, nil
}
