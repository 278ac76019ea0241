package shared_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"cocoon/internal/fault"
	"cocoon/internal/needtool"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/server"
	"cocoon/verifier/server/shared"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// process is a Redis or Valkey server of its own, on a socket of the test's.
type process struct {
	t   *testing.T
	bin string
	dir string
	cmd *exec.Cmd
}

// real starts a server.
func real(t *testing.T) *process {
	t.Helper()
	bin := needtool.Find(t, "redis-server", "valkey-server")
	dir, err := os.MkdirTemp("", "store") // short: a socket's path has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, bin: bin, dir: dir}
	t.Cleanup(func() { p.kill(); os.RemoveAll(dir) })
	p.start()
	return p
}

func (p *process) url() string { return "unix://" + filepath.Join(p.dir, "s") + "?db=0" }

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.bin, "--port", "0", "--unixsocket", filepath.Join(p.dir, "s"), "--dir", p.dir, "--save", "", "--requirepass", "secret", "--daemonize", "no")
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	s := p.open(shared.Options{})
	for deadline := time.Now().Add(time.Minute); s.Ready(context.Background()) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(filepath.Join(p.dir, "log"))
			p.t.Fatalf("the store does not answer: %s", b)
		}
	}
}

// kill ends the server as a crash does.
func (p *process) kill() {
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

func (p *process) open(o shared.Options) *shared.Store {
	p.t.Helper()
	o.URL, o.Password = p.url(), "secret"
	if o.Timeout == 0 {
		o.Timeout = time.Minute // a busy machine
	}
	s, err := shared.Open(context.Background(), o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = s.Close() })
	return s
}

// do sends a command by another client than the service's.
func (p *process) do(args ...any) any {
	p.t.Helper()
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(p.dir, "s"), Password: "secret", ReadTimeout: time.Minute})
	defer c.Close()
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil {
		p.t.Fatalf("%v: %v", args, err)
	}
	return v
}

func TestARealStoreServesAChallengeOnce(t *testing.T) {
	p := real(t)
	a, b := p.open(shared.Options{}), p.open(shared.Options{})
	for range 50 {
		d := issue(t, a)
		var n atomic.Int64
		var wg sync.WaitGroup
		for _, s := range []*shared.Store{a, b, a, b} {
			wg.Go(func() {
				ours, _, err := s.Take(context.Background(), purpose, []digest.SHA256{d, d})
				if err != nil {
					t.Error(err)
				}
				n.Add(int64(len(ours)))
			})
		}
		wg.Wait()
		if n.Load() != 1 {
			t.Fatalf("taken %d times", n.Load())
		}
	}
	short, err := a.Issue(t.Context(), purpose, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); p.do("DBSIZE") != int64(0); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("an open challenge does not expire: %v", p.do("KEYS", "*"))
		}
	}
	if took(t, b, short) {
		t.Error("it was taken after its time")
	}
}

// TestARealStoreThatCrashesForgetsChallenges kills the store after it took a
// challenge that its snapshot still has as open.
func TestARealStoreThatCrashesForgetsChallenges(t *testing.T) {
	p := real(t)
	s := p.open(shared.Options{})
	d, open := issue(t, s), issue(t, s)
	p.do("SAVE")
	if !took(t, s, d) {
		t.Fatal("not taken")
	}
	p.kill()
	if ours, _, err := s.Take(context.Background(), purpose, []digest.SHA256{d}); err == nil || len(ours) != 0 {
		t.Errorf("while it is away: %v, %v", ours, err)
	}
	p.start()
	if p.do("DBSIZE") != int64(2) {
		t.Fatalf("the snapshot is of another moment: %v", p.do("KEYS", "*"))
	}
	forgotten(t, s, d, open)
}

// TestARealStoreKeepsWhatReplicasShare runs its scripts as that server has them.
func TestARealStoreKeepsWhatReplicasShare(t *testing.T) {
	p := real(t)
	ctx := t.Context()
	hash := func(i int) digest.SHA256 { return digest.Sum256([]byte{byte(i)}) }

	verdicts := shared.Verdicts{Store: p.open(shared.Options{MaxVerdicts: 3})}
	for i := range 5 {
		if err := verdicts.Put(ctx, &server.Given{EvidenceSHA256: hash(i), EAR: "token", NotAfter: tpmtest.Now}, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if g, ok, err := verdicts.Get(ctx, hash(i)); err != nil || ok != (i >= 2) || ok && g.EAR != "token" {
			t.Errorf("verdict %d: %+v, %v, %v", i, g, ok, err)
		}
	}

	fewBytes(t, shared.Verdicts{Store: p.open(shared.Options{Prefix: "bytes", MaxVerdictBytes: 12 << 10})})

	keepsFetched(t, p.open(shared.Options{}))

	limits := shared.Limits{Store: p.open(shared.Options{})}
	allowed := 0
	for range 10 {
		ok, err := limits.Allow(ctx, netip.MustParsePrefix("192.0.2.1/32"), 0.001, 3)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			allowed++
		}
	}
	if allowed != 3 {
		t.Errorf("%d requests were allowed, want 3", allowed)
	}

	enrolments := shared.Enrolments{Store: p.open(shared.Options{})}
	for i := range tpm.MaxPendingPerEK + 1 {
		if err := enrolments.Put(ctx, hash(i), hash(100), []byte{byte(i)}, time.Hour, tpm.MaxPendingPerEK+1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // the oldest is of another millisecond
	}
	if err := enrolments.Put(ctx, hash(50), hash(101), nil, time.Hour, tpm.MaxPendingPerEK); !errors.Is(err, tpm.ErrPendingFull) {
		t.Errorf("one more than there may be: %v", err)
	}
	for i := range tpm.MaxPendingPerEK + 1 {
		b, err := enrolments.Take(ctx, hash(i))
		if err != nil || (b != nil) != (i > 0) || b != nil && b[0] != byte(i) {
			t.Errorf("session %d: %v, %v", i, b, err)
		}
		if again, err := enrolments.Take(ctx, hash(i)); err != nil || again != nil {
			t.Errorf("session %d once more: %v, %v", i, again, err)
		}
	}
	for _, k := range p.do("KEYS", "*").([]any) {
		if _, of, _ := strings.Cut(k.(string), ":"); strings.HasSuffix(of, ":order") || strings.HasSuffix(of, ":count") || strings.HasSuffix(of, ":sizes") {
			continue // of what is bounded in number
		}
		if ttl := p.do("PTTL", k).(int64); ttl <= 0 {
			t.Errorf("%s does not expire: %d", k, ttl)
		}
	}
}

// TestReplicasOnARealStoreGiveOneVerdict sends one evidence to both at once.
func TestReplicasOnARealStoreGiveOneVerdict(t *testing.T) {
	p, w := real(t), tpmtest.NewWorld(t)
	a, _ := replica(t, w, p.open(shared.Options{}))
	b, _ := replica(t, w, p.open(shared.Options{}))
	for range 4 {
		ch, err := a.Challenge(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ev := w.Evidence(t, ch.Challenge)
		var given atomic.Int64
		var wg sync.WaitGroup
		for _, c := range []*client.Client{a, b} {
			wg.Go(func() {
				switch _, err := c.Verify(context.Background(), ev); {
				case err == nil:
					given.Add(1)
				case !fault.Has(err, "nonce.challenge"):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if given.Load() != 1 {
			t.Errorf("%d verdicts on one challenge", given.Load())
		}
	}
}
