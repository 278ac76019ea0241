package chain_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/devnet"
	"cocoon/internal/fault"
)

// openWith opens a client under a config that change may alter.
func openWith(t testing.TB, d *devnet.Devnet, change func(*liteclient.GlobalConfig), o chain.Options) *chain.Client {
	t.Helper()
	cfg := d.Config()
	if change != nil {
		change(cfg)
	}
	doc, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	o.TVM = engine
	if o.Patience == 0 {
		o.Patience = time.Minute // no good server is blamed for a slow machine
	}
	c, err := chain.Open(doc, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// relay passes a connection on and ends it after n bytes of answers.
func relay(t testing.TB, to string, n int64) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp4", to)
			if err != nil {
				_ = in.Close()
				return
			}
			go func() { _, _ = io.Copy(out, in) }()
			go func() {
				_, _ = io.CopyN(in, out, n)
				_, _ = in.Close(), out.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// deaf accepts connections and never says anything.
func deaf(t testing.TB) int { return relay(t, "127.0.0.1:0", 0) }

// TestOneBadServerOfTwoIsNamedAndDoesNoHarm puts a bad server before a good one.
func TestOneBadServerOfTwoIsNamedAndDoesNoHarm(t *testing.T) {
	var lie atomic.Value // func(query, answer any) any
	honest := func(_, a any) any { return a }
	lie.Store(honest)
	d := start(t, devnet.Options{Alter: func(q, a any) any { return lie.Load().(func(_, a any) any)(q, a) },
		More: []func(_, a any) any{nil}})
	// A devnet whose newest block is old makes another when it is asked, and a
	// chain is refused in another way before its second block than after: the
	// one's clock stands still, the other has its second block already.
	young, older := start(t, devnet.Options{Clock: stands()}), start(t, devnet.Options{})
	ctx := testContext(t)
	if err := older.Advance(ctx, 0); err != nil {
		t.Fatal(err)
	}
	w := funded(t, ctx, d, open(t, d), 1, nano(10))
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1)}, chain.Message{To: address100(200), Nano: nano(1)}); err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	t.Cleanup(func() { close(stuck) })
	first := func(port int) func(*liteclient.GlobalConfig) {
		return func(cfg *liteclient.GlobalConfig) { cfg.Liteservers[0].Port = port }
	}
	for name, tc := range map[string]struct {
		config func(*liteclient.GlobalConfig)
		lie    func(_, a any) any
		code   string
		wait   time.Duration
	}{
		"down":                           {config: first(1), code: "ton.network.unreachable"},
		"deaf":                           {config: first(deaf(t)), code: "ton.network.unreachable"},
		"cut in the middle of an answer": {config: first(relay(t, d.Addr(), 300)), code: "ton.network.unreachable"},
		"another key": {config: func(cfg *liteclient.GlobalConfig) {
			cfg.Liteservers[0].ID.Key = older.Config().Liteservers[0].ID.Key
		}, code: "ton.network.unreachable"},
		"another chain":                    {config: func(cfg *liteclient.GlobalConfig) { cfg.Liteservers[0] = older.Config().Liteservers[0] }, code: "ton.server.error"},
		"another chain at its first block": {config: func(cfg *liteclient.GlobalConfig) { cfg.Liteservers[0] = young.Config().Liteservers[0] }, code: "ton.proof.invalid"},
		"slow":                             {lie: func(_, a any) any { <-stuck; return a }, code: "ton.network.unreachable", wait: 4 * time.Second},
		"huge":                             {lie: func(_, a any) any { return tl.Raw(make([]byte, 9<<20)) }, code: "ton.network.unreachable"},
		"hiding an account": {lie: func(_, a any) any {
			if s, ok := a.(ton.AccountState); ok {
				s.Proof = append([]*cell.Cell(nil), s.Proof...)
				s.Proof[1] = replace(s.Proof[1], pathTree, func(c *cell.Cell) *cell.Cell { return prune(c) })
				s.State = nil
				return s
			}
			return a
		}, code: "ton.proof.unproven"},
		"making an account richer": {lie: func(_, a any) any {
			if s, ok := a.(ton.AccountState); ok && s.State != nil {
				s.State = richer(t, s.State)
				return s
			}
			return a
		}, code: "ton.proof.invalid"},
		"showing a head that nobody signed": {lie: func(_, a any) any {
			if m, ok := a.(ton.MasterchainInfo); ok {
				m.Last = m.Last.Copy()
				m.Last.SeqNo++
				m.Last.RootHash = make([]byte, 32)
				return m
			}
			return a
		}, code: "ton.server.error"},
		"forging the links": {lie: func(_, a any) any {
			if p, ok := a.(ton.PartialBlockProof); ok {
				for i := range p.Steps {
					l := p.Steps[i].(ton.BlockLinkForward)
					l.SignatureSet.Signatures[0].Signature[5] ^= 1
					p.Steps[i] = l
				}
				return p
			}
			return a
		}, code: "ton.proof.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.lie != nil {
				lie.Store(tc.lie)
				defer lie.Store(honest)
			}
			c := openWith(t, d, tc.config, chain.Options{Patience: tc.wait})
			for range 2 {
				st, err := c.Account(ctx, address100(7))
				if err != nil || st.Balance.Cmp(nano(1)) != 0 {
					t.Fatalf("%+v, %v", st, err)
				}
			}
			s := c.Servers()
			if s[0].Faults == 0 || !fault.Has(s[0].Last, tc.code) || s[1].Faults != 0 {
				t.Errorf("the first is blamed %d times for %v, the second %d times for %v", s[0].Faults, s[0].Last, s[1].Faults, s[1].Last)
			}
			if s[0].Last != nil && !strings.Contains(s[0].Last.Error(), s[0].Addr) {
				t.Errorf("%v does not name %s", s[0].Last, s[0].Addr)
			}
		})
	}
}

func TestWhenAllServersFailEachIsNamed(t *testing.T) {
	d := start(t, devnet.Options{More: []func(_, a any) any{nil}})
	c := openWith(t, d, func(cfg *liteclient.GlobalConfig) { cfg.Liteservers[0].Port, cfg.Liteservers[1].Port = 1, 2 }, chain.Options{})
	_, err := c.Head(testContext(t))
	if !fault.Has(err, "ton.network.unreachable") || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "127.0.0.1:2") {
		t.Errorf("%v", err)
	}
}

// TestServersThatStoodStillAreStale: one server far behind another is left, and
// servers that all agree on an old chain are refused by this machine's clock.
func TestServersThatStoodStillAreStale(t *testing.T) {
	ctx := testContext(t)
	var old atomic.Pointer[ton.MasterchainInfo]
	d := start(t, devnet.Options{Alter: func(_, a any) any {
		if m := old.Load(); m != nil {
			if _, ok := a.(ton.MasterchainInfo); ok {
				return *m
			}
		}
		return a
	}, More: []func(_, a any) any{nil}})
	w := funded(t, ctx, d, open(t, d), 1, nano(10))
	c := openWith(t, d, nil, chain.Options{})
	head, err := c.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	old.Store(&ton.MasterchainInfo{Last: &head, StateRootHash: make([]byte, 32), Init: &ton.ZeroStateIDExt{Workchain: -1, RootHash: make([]byte, 32), FileHash: make([]byte, 32)}})
	for range 50 {
		if err := d.Advance(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	fresh := openWith(t, d, nil, chain.Options{})
	got, err := fresh.Head(ctx)
	if err != nil || got.SeqNo < head.SeqNo+50 {
		t.Errorf("block %d, %v", got.SeqNo, err)
	}
	if s := fresh.Servers(); !fault.Has(s[0].Last, "ton.server.stale") || s[1].Faults != 0 {
		t.Errorf("%+v", s)
	}
	late := openWith(t, d, nil, chain.Options{Clock: func() time.Time { return d.Now().Add(time.Hour) }})
	if _, err := late.Account(ctx, w.Address()); !fault.Has(err, "ton.server.stale") {
		t.Errorf("an hour late: %v", err)
	}
	any := openWith(t, d, nil, chain.Options{Clock: func() time.Time { return d.Now().Add(time.Hour) }, MaxAge: -1})
	if _, err := any.Account(ctx, w.Address()); err != nil {
		t.Errorf("with any age allowed: %v", err)
	}
}

// TestAnOvertakenAnswerIsNotStale: of two askers at once, the one whose answer
// is older and comes later has no reason to blame the server.
func TestAnOvertakenAnswerIsNotStale(t *testing.T) {
	ctx := testContext(t)
	var hold atomic.Bool
	held, release := make(chan struct{}), make(chan struct{})
	d := start(t, devnet.Options{Clock: stands(), Alter: func(_, a any) any {
		if _, ok := a.(ton.MasterchainInfo); ok && hold.CompareAndSwap(true, false) {
			close(held)
			<-release
		}
		return a
	}})
	c := open(t, d)
	before, err := c.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	hold.Store(true)
	late := make(chan error)
	go func() {
		got, err := c.Head(ctx)
		if err == nil && got.SeqNo != before.SeqNo {
			err = fmt.Errorf("block %d, not the held %d", got.SeqNo, before.SeqNo)
		}
		late <- err
	}()
	<-held
	if err := d.Advance(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Head(ctx); err != nil || got.SeqNo <= before.SeqNo {
		t.Fatalf("block %d, %v", got.SeqNo, err)
	}
	close(release)
	if err := <-late; err != nil {
		t.Error(err)
	}
}

// TestTwoSignedChainsAreAFork: validators that sign two blocks of one height
// cannot be told apart, so that nothing is believed, whichever chain is longer
// and whichever server is asked first. The second chain has the same keys, as a
// copy of the validator's directory would.
func TestTwoSignedChainsAreAFork(t *testing.T) {
	for name, extra := range map[string]struct{ a, b int }{
		"of one height": {}, "the first is longer": {a: 3}, "the second is longer": {b: 3}, "the first is much longer": {a: 30},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			at := time.Now().Truncate(time.Second)
			clock := func() time.Time { return at }
			a := start(t, devnet.Options{Seed: "twin", Clock: clock})
			b := start(t, devnet.Options{Seed: "twin", Clock: clock})
			c := openWith(t, a, func(cfg *liteclient.GlobalConfig) {
				cfg.Liteservers = append(cfg.Liteservers, b.Config().Liteservers...)
			}, chain.Options{})
			if err := a.Faucet(ctx, address100(7), nano(1)); err != nil {
				t.Fatal(err)
			}
			if err := b.Faucet(ctx, address100(8), nano(1)); err != nil {
				t.Fatal(err)
			}
			for d, n := range map[*devnet.Devnet]int{a: extra.a, b: extra.b} {
				for range n {
					if err := d.Advance(ctx, 0); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := c.Account(context.Background(), address100(7)); !fault.Has(err, "ton.network.fork") {
				t.Errorf("two chains gave %v", err)
			}
		})
	}
}

// TestAServerAFewBlocksBehindIsNoFork: its head is an ancestor of the other's.
// A server that hides what leads there, or forges it, is blamed.
func TestAServerAFewBlocksBehindIsNoFork(t *testing.T) {
	for name, tc := range map[string]struct {
		first, second func(old ton.BlockIDExt) func(q, a any) any
		blamed        int // index of the server, -1 for none
		code          string
	}{
		"the first is behind":                            {first: showing, blamed: -1},
		"the second is behind":                           {second: showing, blamed: -1},
		"the second is behind, the first hides headers":  {first: hiding, second: showing, blamed: 0, code: "ton.server.error"},
		"the first is behind, the second forges headers": {first: showing, second: forging, blamed: 1, code: "ton.proof.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			var alter [2]atomic.Value // func(q, a any) any
			as := func(i int) func(q, a any) any {
				alter[i].Store(func(_, a any) any { return a })
				return func(q, a any) any { return alter[i].Load().(func(q, a any) any)(q, a) }
			}
			d := start(t, devnet.Options{Alter: as(0), More: []func(q, a any) any{as(1)}})
			old, err := open(t, d).Head(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				if err := d.Advance(ctx, 0); err != nil {
					t.Fatal(err)
				}
			}
			for i, make := range []func(ton.BlockIDExt) func(q, a any) any{tc.first, tc.second} {
				if make != nil {
					alter[i].Store(make(old))
				}
			}
			c := openWith(t, d, nil, chain.Options{})
			if _, err := c.Head(ctx); err != nil {
				t.Fatal(err)
			}
			for i, s := range c.Servers() {
				if (i == tc.blamed) != (s.Faults == 1) || i == tc.blamed && !fault.Has(s.Last, tc.code) {
					t.Errorf("server %d is blamed %d times for %v", i, s.Faults, s.Last)
				}
			}
		})
	}
}

func showing(old ton.BlockIDExt) func(q, a any) any {
	return func(_, a any) any {
		if m, ok := a.(ton.MasterchainInfo); ok {
			m.Last = &old
			return m
		}
		return a
	}
}

func hiding(ton.BlockIDExt) func(q, a any) any {
	return func(_, a any) any {
		if _, ok := a.(ton.BlockHeader); ok {
			return ton.LSError{Code: 651, Text: "block is not in the db"}
		}
		return a
	}
}

// forging answers with the header of the first block that it was asked for.
func forging(ton.BlockIDExt) func(q, a any) any {
	var first atomic.Value
	return func(_, a any) any {
		if h, ok := a.(ton.BlockHeader); ok {
			first.CompareAndSwap(nil, h)
			return first.Load()
		}
		return a
	}
}

// TestServerThatRefusesMessagesStopsNone: the first server knows nothing of the
// wallet and refuses its message, the second takes it.
func TestServerThatRefusesMessagesStopsNone(t *testing.T) {
	ctx := testContext(t)
	a, b := start(t, devnet.Options{Seed: "twin"}), start(t, devnet.Options{Seed: "twin"})
	alone := open(t, b)
	w := funded(t, ctx, b, alone, 1, nano(10))
	st, err := w.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := w.Sign(ed25519.NewKeyFromSeed(append(make([]byte, 31), 1)), st, chain.Message{To: address100(7), Nano: nano(1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := open(t, a).Send(ctx, signed.Message); !fault.Has(err, "ton.message.not_accepted") {
		t.Fatalf("the first alone: %v", err)
	}
	c := openWith(t, a, func(cfg *liteclient.GlobalConfig) {
		cfg.Liteservers = append(cfg.Liteservers, b.Config().Liteservers...)
	}, chain.Options{})
	if err := c.Send(ctx, signed.Message); err != nil {
		t.Fatal(err)
	}
	if got := must(t)(alone.Account(ctx, address100(7))); got.Balance.Cmp(nano(1)) != 0 {
		t.Errorf("%s arrived", got.Balance)
	}
	if s := c.Servers(); s[0].Faults != 0 {
		t.Errorf("a refusal is held against the server: %v", s[0].Last)
	}
}
