package wallet

import (
	"context"
	"encoding/binary"
	"math/big"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

var engine *tvm.Engine

func TestMain(m *testing.M) { devnettest.Main(m, &engine) }

// network passes everything on, but for what a test does with messages.
type network struct {
	chain.Network
	send func(pass func() error, ext *tlb.ExternalMessage) error
}

func (n *network) Send(ctx context.Context, ext *tlb.ExternalMessage) error {
	pass := func() error { return n.Network.Send(ctx, ext) }
	if n.send == nil {
		return pass()
	}
	return n.send(pass, ext)
}

func (n *network) Wait(ctx context.Context, seqno uint32) (ton.BlockIDExt, error) {
	return n.Network.Wait(ctx, seqno)
}

// world is a devnet with one funded wallet.
type world struct {
	t      testing.TB
	ctx    context.Context
	net    *devnet.Devnet
	client *chain.Client
	flaky  *network
	dir    string
	seal   Sealer
	wallet *Wallet
}

func newWorld(t testing.TB, kind Kind, caps Caps) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, dir: t.TempDir(), seal: Passphrase{"open sesame", 10}}
	var err error
	w.net = devnettest.Start(t, devnet.Options{TVM: engine, Quiet: 5 * time.Millisecond})
	w.client = devnettest.Open(t, w.net, engine)
	w.flaky = &network{Network: w.client}
	first, err := Create(w.dir, w.seal, kind, devnet.GlobalID, caps)
	w.ok(err)
	w.ok(w.net.Faucet(ctx, first.Address(), (1000 * coin.TON).Big()))
	w.ok(first.Close())
	w.open()
	t.Cleanup(func() { _ = w.wallet.Close() })
	return w
}

var wide = Caps{Day: 100_000 * coin.TON, Job: 100_000 * coin.TON}

func (w *world) open() {
	w.t.Helper()
	var err error
	w.wallet, err = Open(Options{Dir: w.dir, Sealer: w.seal, Network: w.flaky, TVM: engine})
	w.ok(err)
}

// crashed runs a payment that ends at a step, as a process would, and opens the
// wallet anew.
func (w *world) crashed(step string, pay func() error) {
	w.t.Helper()
	type end struct{}
	w.wallet.crash = func(s string) {
		if s == step {
			panic(end{})
		}
	}
	func() {
		defer func() {
			if r := recover(); r != (end{}) {
				w.t.Fatalf("the payment did not end at %q: %v", step, r)
			}
		}()
		w.t.Errorf("the payment got past %q: %v", step, pay())
	}()
	// Nothing of the old process writes any more; its file lock goes with it.
	w.ok(w.wallet.book.db.Close())
	w.open()
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) want(err error, code string) {
	w.t.Helper()
	if !fault.Has(err, code) {
		w.t.Fatalf("got %v, want %s", err, code)
	}
}

func numbered(i uint64) *address.Address {
	return address.NewAddress(0, 0, binary.BigEndian.AppendUint64(make([]byte, 24), i)).Bounce(false)
}

func pay(i uint64, ton float64) chain.Message {
	return chain.Message{To: numbered(i), Nano: big.NewInt(int64(ton * 1e9))}
}

// received says how often an address got something, and how much.
func (w *world) received(i uint64) (int, coin.Nano) {
	w.t.Helper()
	st, err := w.client.Account(w.ctx, numbered(i))
	w.ok(err)
	txs, err := w.client.Transactions(w.ctx, numbered(i), st, 100)
	w.ok(err)
	var sum coin.Nano
	for _, tx := range txs {
		sum += coin.Nano(tx.IO.In.AsInternal().Amount.Nano().Uint64())
	}
	return len(txs), sum
}

func (w *world) once(i uint64, ton float64) {
	w.t.Helper()
	if n, sum := w.received(i); n != 1 || sum != coin.Nano(ton*1e9) {
		w.t.Errorf("account %d got %s in %d payments, want %v in one", i, sum, n, ton)
	}
}
