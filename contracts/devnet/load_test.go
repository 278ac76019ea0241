package devnet_test

import (
	"bytes"
	"context"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/devnet"
	"cocoon/internal/fault"
)

func nano(ton float64) *big.Int { return big.NewInt(int64(ton * 1e9)) }

// about says that an account has this much less at most 1000 nanoton of storage
// fees.
func about(st *chain.State, nano int64) bool {
	return st.Balance.Int64() <= nano && st.Balance.Int64() > nano-1000
}

// idle is a contract that takes any message; its data is whatever it was
// deployed with.
func idle(data *cell.Cell) *tlb.StateInit {
	return &tlb.StateInit{Code: cell.BeginCell().MustStoreUInt(0xff00, 16).EndCell(), Data: data} // SETCP0
}

func TestEqualSeedsClocksAndMessagesGiveEqualBlocks(t *testing.T) {
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	run := func(seed string) ([]devnet.Wallet, string) {
		d := start(t, devnet.Options{TVM: engine, Seed: seed, Wallets: 3, Clock: func() time.Time { return at }})
		ctx := context.Background()
		if err := d.Faucet(ctx, numbered(7), nano(2.5)); err != nil {
			t.Fatal(err)
		}
		if err := d.Advance(ctx, 25*time.Hour); err != nil {
			t.Fatal(err)
		}
		head, err := open(t, d).Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ws := d.Wallets()
		for i := range ws {
			ws[i].Key = ""
		}
		return ws, fmt.Sprintf("%d %x %x", head.SeqNo, head.RootHash, head.FileHash)
	}
	w1, head1 := run("one")
	w2, head2 := run("one")
	if d := cmp.Diff(w1, w2); d != "" || head1 != head2 {
		t.Errorf("heads %s and %s, wallets %s", head1, head2, d)
	}
	if w3, head3 := run("another"); cmp.Equal(w1, w3) || head1 == head3 {
		t.Error("another seed gives the same chain")
	}
	if _, err := devnet.Start(context.Background(), devnet.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", TVM: engine, Wallets: -1}); !fault.Has(err, "ton.devnet.wallets") {
		t.Errorf("-1 wallets gave %v", err)
	}
}

// TestAccountsOfManyCellsAreServedAndProven: from 26 cells on the account
// carries the hash of its storage dictionary, which older parsers cannot read.
func TestAccountsOfManyCellsAreServedAndProven(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	d := start(t, devnet.Options{TVM: engine, Wallets: 1})
	c := open(t, d)
	w := wallets(t, ctx, d, c)[0]
	for _, n := range []uint64{10, 60, 1500} {
		dict := cell.NewDict(64)
		for i := range n {
			v := cell.BeginCell().MustStoreRef(cell.BeginCell().MustStoreUInt(i, 64).EndCell()).EndCell()
			if err := dict.SetIntKey(new(big.Int).SetUint64(i), v); err != nil {
				t.Fatal(err)
			}
		}
		data := cell.BeginCell().MustStoreDict(dict).EndCell()
		// A message may carry 8192 cells; larger ones are refused by the node, too.
		addr, _, err := w.Deploy(ctx, idle(data), nano(5), nil)
		if err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
		st, err := c.WaitAccount(ctx, addr, func(s *chain.State) bool { return s.Status == proof.Active })
		if err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
		if !bytes.Equal(st.Data.Hash(), data.Hash()) || st.Balance.Cmp(nano(4.9)) < 0 {
			t.Errorf("%d entries: balance %s, data %x", n, st.Balance, st.Data.Hash())
		}
		// And it goes on: a second message, and a proof that is kept.
		if _, err := w.Send(ctx, chain.Message{To: addr, Nano: nano(1)}); err != nil {
			t.Fatal(err)
		}
		doc, st, err := c.ExportAccountProof(ctx, addr)
		if err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
		if st.Balance.Cmp(nano(5.9)) < 0 {
			t.Errorf("%d entries: balance %s after the second message", n, st.Balance)
		}
		t.Logf("%d entries: a proof of %d bytes", n, len(doc))
	}
}

// TestTenThousandTransactionsAndARestart fills a chain, starts it anew, and
// reads both ends of its history.
func TestTenThousandTransactionsAndARestart(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 4
	}
	const each = 250
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	dir := t.TempDir()
	d := start(t, devnet.Options{Dir: dir, TVM: engine, Wallets: 1})
	c := open(t, d)
	w := wallets(t, ctx, d, c)[0]
	var msgs []chain.Message
	for i := range each {
		msgs = append(msgs, chain.Message{To: numbered(uint64(i)), Nano: big.NewInt(1_000_000)})
	}
	began := time.Now()
	for range rounds {
		if _, err := w.Send(ctx, msgs...); err != nil {
			t.Fatal(err)
		}
	}
	n := rounds * (each + 1)
	t.Logf("%d transactions in %v, %d blocks", n, time.Since(began).Round(time.Millisecond), d.Seqno())
	before, err := c.Account(ctx, w.Address())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	d = start(t, devnet.Options{Dir: dir, TVM: engine})
	t.Logf("started again in %v", time.Since(began).Round(time.Millisecond))
	c = open(t, d)
	after, err := c.Account(ctx, w.Address())
	if err != nil || after.LastLT != before.LastLT || after.Balance.Cmp(before.Balance) != 0 {
		t.Fatalf("the wallet after the restart: %+v, %v", after, err)
	}
	for _, i := range []uint64{0, each / 2, each - 1} {
		st, err := c.Account(ctx, numbered(i))
		if err != nil || !about(st, int64(rounds)*1_000_000) {
			t.Fatalf("account %d: %+v, %v", i, st, err)
		}
		txs, err := c.Transactions(ctx, numbered(i), st, 256)
		if err != nil || len(txs) != rounds {
			t.Errorf("account %d: %d transactions, %v", i, len(txs), err)
		}
	}
	trace, err := d.Trace()
	if err != nil || len(trace.Steps) != n {
		t.Errorf("%d transactions are stored, %v", len(trace.Steps), err)
	}
}

// TestClientsAtOnce lets several clients with a connection and a wallet each
// send and read at the same time.
func TestClientsAtOnce(t *testing.T) {
	const clients, sends = 6, 8
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	d := start(t, devnet.Options{TVM: engine, Wallets: clients})
	all := wallets(t, ctx, d, open(t, d))
	var wg sync.WaitGroup
	for i := range clients {
		c := open(t, d)
		w := wallets(t, ctx, d, c)[i]
		wg.Go(func() {
			for n := range sends {
				if _, err := w.Send(ctx, chain.Message{To: all[(i+1)%clients].Address(), Nano: nano(1)},
					chain.Message{To: numbered(uint64(1000 * i)), Nano: nano(0.001)}); err != nil {
					t.Errorf("client %d, send %d: %v", i, n, err)
					return
				}
				if _, err := c.Account(ctx, numbered(uint64(1000*i))); err != nil {
					t.Errorf("client %d, read %d: %v", i, n, err)
				}
			}
		})
	}
	wg.Wait()
	c := open(t, d)
	for i := range clients {
		st, err := c.Account(ctx, numbered(uint64(1000*i)))
		if err != nil || !about(st, sends*1_000_000) {
			t.Errorf("the account of client %d: %v, %v", i, st, err)
		}
	}
}

// BenchmarkConfirmedSend is the time from a wallet's Send to its confirmation
// by proven state; the project wants 50 ms or less.
func BenchmarkConfirmedSend(b *testing.B) {
	ctx := context.Background()
	d := start(b, devnet.Options{TVM: engine, Wallets: 1})
	c := open(b, d)
	w := wallets(b, ctx, d, c)[0]
	if _, err := w.Send(ctx, chain.Message{To: numbered(1), Nano: nano(1)}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := w.Send(ctx, chain.Message{To: numbered(1), Nano: nano(0.001)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/send")
}
