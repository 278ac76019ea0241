package chain_test

import (
	"context"
	"crypto/ed25519"
	"math/big"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

var engine *tvm.Engine

func TestMain(m *testing.M) { devnettest.Main(m, &engine) }

func nano(ton float64) *big.Int { return big.NewInt(int64(ton * 1e9)) }

func start(t testing.TB, o devnet.Options) *devnet.Devnet {
	t.Helper()
	o.TVM = engine
	return devnettest.Start(t, o)
}

// stands returns a clock that stands: a devnet makes no block because its newest
// is old, however slow the machine is.
func stands() func() time.Time {
	now := time.Now()
	return func() time.Time { return now }
}

func open(t testing.TB, d *devnet.Devnet) *chain.Client {
	t.Helper()
	return devnettest.Open(t, d, engine)
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func funded(t testing.TB, ctx context.Context, d *devnet.Devnet, c *chain.Client, seed byte, amount *big.Int) *chain.Wallet {
	t.Helper()
	w, err := c.Wallet(ctx, ed25519.NewKeyFromSeed(append(make([]byte, 31), seed)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Faucet(ctx, w.Address(), amount); err != nil {
		t.Fatal(err)
	}
	return w
}

func address100(b byte) *address.Address {
	return address.NewAddress(0, 0, append(make([]byte, 31), b)).Bounce(false)
}

func TestDevnetTransferIsProvenToTheNanoton(t *testing.T) {
	ctx := testContext(t)
	d := start(t, devnet.Options{})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	if id, err := c.GlobalID(ctx); err != nil || id != devnet.GlobalID {
		t.Fatalf("global id %d, %v", id, err)
	}
	to := address100(7)
	before, err := c.Account(ctx, to)
	if err != nil || before.Status != proof.Absent {
		t.Fatalf("before: %v, %v", before, err)
	}
	began := time.Now()
	sent, err := w.Send(ctx, chain.Message{To: to, Nano: nano(1.25)}, chain.Message{To: to, Nano: nano(0.25)})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("deploy, send and wait: %v", time.Since(began))
	after, err := c.Account(ctx, to)
	if err != nil || after.Status != proof.Uninit || after.Balance.Cmp(nano(1.5)) != 0 {
		t.Fatalf("after: %+v, %v", after, err)
	}
	left := new(big.Int).Sub(nano(10), nano(1.5))
	left.Sub(left, sent.Fees)
	if sent.State.Balance.Cmp(left) != 0 {
		t.Errorf("the wallet has %s, 10 TON less amounts and fees is %s", sent.State.Balance, left)
	}
	began = time.Now()
	const n = 10
	for range n {
		if _, err := w.Send(ctx, chain.Message{To: to, Nano: nano(0.01)}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("send and wait: %.1f ms", float64(time.Since(began).Microseconds())/1000/n)
	txs, err := c.Transactions(ctx, to, must(t)(c.Account(ctx, to)), 100)
	if err != nil || len(txs) != n+2 {
		t.Errorf("%d transactions, %v", len(txs), err)
	}
}

func must(t testing.TB) func(*chain.State, error) *chain.State {
	return func(s *chain.State, err error) *chain.State {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func TestDevnetDeployAndGetMethodRunOnProvenState(t *testing.T) {
	ctx := testContext(t)
	d := start(t, devnet.Options{})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	// Another wallet's code serves as the contract: it has get methods.
	pub := ed25519.NewKeyFromSeed(append(make([]byte, 31), 2)).Public().(ed25519.PublicKey)
	init, err := wallet.GetStateInit(pub, wallet.V4R2, wallet.DefaultSubwallet)
	if err != nil {
		t.Fatal(err)
	}
	addr, _, err := w.Deploy(ctx, init, nano(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := c.WaitAccount(ctx, addr, func(s *chain.State) bool { return s.Status == proof.Active })
	if err != nil || string(st.Code.Hash()) != string(init.Code.Hash()) {
		t.Fatalf("%+v, %v", st, err)
	}
	res, err := c.RunGetMethod(ctx, addr, "get_public_key")
	if err != nil {
		t.Fatal(err)
	}
	if res.Stack[0].(*big.Int).Cmp(new(big.Int).SetBytes(pub)) != 0 {
		t.Errorf("stack %v", res.Stack)
	}
	if _, err := c.RunGetMethod(ctx, addr, "no_such_method"); !fault.Has(err, "ton.method.failed") {
		t.Errorf("an unknown method gave %v", err)
	}
	if _, err := c.RunGetMethod(ctx, address100(9), "seqno"); !fault.Has(err, "ton.account.not_active") {
		t.Errorf("a method of nobody gave %v", err)
	}
}

func TestDevnetBouncesAndRefusals(t *testing.T) {
	ctx := testContext(t)
	d := start(t, devnet.Options{})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1), Bounce: true}); err != nil {
		t.Fatal(err)
	}
	st := must(t)(w.State(ctx))
	if st.Balance.Cmp(nano(9.9)) < 0 {
		t.Errorf("after the bounce the wallet has %s", st.Balance)
	}
	if got := must(t)(c.Account(ctx, address100(7))); got.Status != proof.Absent {
		t.Errorf("the receiver of a bounced message is %s", got.Status)
	}
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1000)}); !fault.Has(err, "ton.wallet.skipped") {
		t.Errorf("an overdraft gave %v", err)
	}
	poor, err := c.Wallet(ctx, ed25519.NewKeyFromSeed(append(make([]byte, 31), 9)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := poor.Send(ctx, chain.Message{To: w.Address(), Nano: nano(1)}); !fault.Has(err, "ton.wallet.empty") {
		t.Errorf("an empty wallet gave %v", err)
	}
	junk := &tlb.ExternalMessage{DstAddr: w.Address(), Body: cell.BeginCell().MustStoreUInt(1, 32).EndCell()}
	if err := c.Send(ctx, junk); !fault.Has(err, "ton.message.not_accepted") {
		t.Errorf("a junk message gave %v", err)
	}
}

func TestDevnetDeliversLeftoverMessagesInTheNextBlock(t *testing.T) {
	ctx := testContext(t)
	d := start(t, devnet.Options{Clock: stands()})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(100))
	const n = 130
	var msgs []chain.Message
	for i := range n {
		msgs = append(msgs, chain.Message{To: address100(byte(i)), Nano: nano(0.1), Bounce: true})
	}
	at := d.Seqno()
	sent, err := w.Send(ctx, msgs...)
	if err != nil {
		t.Fatal(err)
	}
	// One transaction of the wallet, n that bounce, n bounced back: just more
	// than a block takes.
	if d.Seqno() != at+2 {
		t.Errorf("%d blocks were made", d.Seqno()-at)
	}
	st := must(t)(w.State(ctx))
	txs, err := c.Transactions(ctx, w.Address(), st, 256)
	if err != nil {
		t.Fatal(err)
	}
	bounced := 0
	for i, tx := range txs {
		if tx.IO.In.MsgType == tlb.MsgTypeInternal && tx.IO.In.AsInternal().Bounced {
			bounced++
		}
		if i > 0 && tx.LT >= txs[i-1].LT {
			t.Errorf("logical time goes from %d to %d", tx.LT, txs[i-1].LT)
		}
	}
	if bounced != n {
		t.Errorf("%d of %d messages came back", bounced, n)
	}
	if lost := new(big.Int).Sub(nano(100), st.Balance); lost.Cmp(nano(1)) > 0 || lost.Cmp(sent.Fees) < 0 {
		t.Errorf("%s nanotons went on fees", lost)
	}
}

func TestDevnetSetsMessagesToTheMasterchainAside(t *testing.T) {
	ctx := testContext(t)
	d := start(t, devnet.Options{})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	if _, err := w.Send(ctx, chain.Message{To: address.NewAddress(0, 0xff, make([]byte, 32)), Nano: nano(1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1)}); err != nil {
		t.Fatalf("the chain does not go on: %v", err)
	}
	if _, err := c.Account(ctx, address.NewAddress(0, 0xff, make([]byte, 32))); !fault.Has(err, "ton.server.error") {
		t.Errorf("a masterchain account gave %v", err)
	}
}

func TestDevnetTimeTravelReachesWalletsAndStorageFees(t *testing.T) {
	ctx := testContext(t)
	d := start(t, devnet.Options{})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1)}); err != nil {
		t.Fatal(err)
	}
	before := must(t)(w.State(ctx))
	if err := d.Advance(ctx, 365*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	sent, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1)})
	if err != nil {
		t.Fatal(err)
	}
	if sent.State.Utime < before.Utime+365*24*3600 {
		t.Errorf("time went from %d to %d", before.Utime, sent.State.Utime)
	}
	if sent.Transaction.Description.(tlb.TransactionDescriptionOrdinary).StoragePhase.StorageFeesCollected.Nano().Sign() <= 0 {
		t.Error("a year of storage cost nothing")
	}
	if err := d.Advance(ctx, 100*365*24*time.Hour); !fault.Has(err, "ton.devnet.time_range") {
		t.Errorf("going past 2106 gave %v", err)
	}
	if err := d.Advance(ctx, -time.Hour); !fault.Has(err, "ton.devnet.time_backwards") {
		t.Errorf("going back gave %v", err)
	}
}

func TestDevnetRestartKeepsWhatWasConfirmed(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	d := start(t, devnet.Options{Dir: dir})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1)}); err != nil {
		t.Fatal(err)
	}
	if err := d.Advance(ctx, time.Hour); err != nil {
		t.Fatal(err)
	}
	want := must(t)(w.State(ctx))
	doc, _, err := c.ExportAccountProof(ctx, w.Address())
	if err != nil {
		t.Fatal(err)
	}
	devnettest.Close(t, d)
	if _, err := w.State(ctx); !fault.Has(err, "ton.network.unreachable") {
		t.Errorf("with the devnet down: %v", err)
	}
	d2 := start(t, devnet.Options{Dir: dir, Listen: d.Addr()})
	// The same client goes on: same keys, same init block, same port.
	got := must(t)(w.State(ctx))
	if got.LastLT != want.LastLT || got.Balance.Cmp(want.Balance) != 0 || got.Utime < want.Utime {
		t.Errorf("after the restart %+v, before %+v", got.Account, want.Account)
	}
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1)}); err != nil {
		t.Fatal(err)
	}
	cfg, err := d2.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chain.VerifyAccountProof(doc, cfg, w.Address()); err != nil {
		t.Errorf("a proof from before the restart: %v", err)
	}
}

func TestExportedProofIsCheckedOffline(t *testing.T) {
	ctx := testContext(t)
	d := start(t, devnet.Options{})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	cfg, err := d.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	other, err := start(t, devnet.Options{}).ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	doc, st, err := c.ExportAccountProof(ctx, w.Address())
	if err != nil {
		t.Fatal(err)
	}
	none, absent, err := c.ExportAccountProof(ctx, address100(99))
	if err != nil || absent.Status != proof.Absent {
		t.Fatalf("%+v, %v", absent, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	got := must(t)(chain.VerifyAccountProof(doc, cfg, w.Address()))
	if got.Balance.Cmp(st.Balance) != 0 || got.Utime != st.Utime || got.GlobalID != devnet.GlobalID {
		t.Errorf("offline %+v, online %+v", got, st)
	}
	if got := must(t)(chain.VerifyAccountProof(none, cfg, address100(99))); got.Status != proof.Absent {
		t.Errorf("the absent account is %s offline", got.Status)
	}
	for name, tc := range map[string]struct {
		doc, cfg []byte
		addr     *address.Address
		code     string
	}{
		"under another network's config": {doc, other, w.Address(), "ton.proof.untrusted"},
		"for another account":            {doc, cfg, address100(7), "ton.proof.address"},
		"cut short":                      {doc[:len(doc)/2], cfg, w.Address(), "ton.proof.malformed"},
		"under a broken config":          {doc, []byte("{}"), w.Address(), "ton.config.malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := chain.VerifyAccountProof(tc.doc, tc.cfg, tc.addr); !fault.Has(err, tc.code) {
				t.Errorf("got %v, want %s", err, tc.code)
			}
		})
	}
}
