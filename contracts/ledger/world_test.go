package ledger_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

var engine *tvm.Engine

func TestMain(m *testing.M) {
	devnettest.Main(m, &engine)
}

func sum(text string) job.Hash { return sha256.Sum256([]byte(text)) }

func key(name string) ed25519.PrivateKey {
	seed := sum("test key " + name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// world is a devnet with a registry, wallets and a job's terms.
type world struct {
	t      testing.TB
	ctx    context.Context
	dir    string
	net    *devnet.Devnet
	chain  *chain.Client
	ledger *ledger.Ledger

	owner, client, worker, anyone chain.Sender
	payout, gateway               toncell.Address // cold: nothing but payments touches them

	registry toncell.Address
	terms    job.Terms
	job      toncell.Address
}

func newWorld(t testing.TB) *world { t.Helper(); return newWorldOf(t, func(*registry.State) {}) }

// newWorldOf is newWorld with a changed registry.
func newWorldOf(t testing.TB, change func(*registry.State)) *world {
	t.Helper()
	return newWorldFor(t, 5*time.Minute, change)
}

// newWorldFor is newWorldOf for a test that takes long.
func newWorldFor(t testing.TB, limit time.Duration, change func(*registry.State)) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, dir: t.TempDir()}
	w.net = w.start("127.0.0.1:0")
	w.chain = devnettest.Open(t, w.net, engine)
	w.ledger = ledger.New(w.chain, nil)
	for name, at := range map[string]*chain.Sender{
		"owner": &w.owner, "client": &w.client, "worker": &w.worker, "anyone": &w.anyone,
	} {
		var err error
		*at, err = w.chain.Wallet(ctx, key(name))
		w.ok(err)
		w.ok(w.net.Faucet(ctx, (*at).Address(), (100 * coin.TON).Big()))
	}
	owners := registry.NewOwners(2, public(key("owner 1")), public(key("owner 2")), public(key("owner 3")))
	reg := registry.New(owners, true)
	reg.AddVerifier(public(key("verifier")), w.net.Now())
	reg.Manifests[sum("manifest")] = registry.Manifest{State: registry.Active}
	reg.Models[sum("model")] = registry.Model{NameHash: sum("name"), Active: true}
	reg.Policies[sum("policy")] = w.net.Now()
	change(reg)
	var err error
	w.registry, err = w.ledger.DeployRegistry(ctx, w.owner, reg, coin.TON)
	w.ok(err)
	w.payout, w.gateway = toncell.Address{Hash: sum("payout")}, toncell.Address{Hash: sum("gateway")}
	w.terms = job.Terms{
		Client: w.addr(w.client), ClientKey: job.Hash(public(key("client key"))), Payout: w.payout,
		Registry: w.registry, ModelRoot: sum("model"), PolicyHash: sum("policy"), PriceCap: 1_000_000,
		Gateway: &w.gateway, FeeBps: 500, CloseDelay: time.Hour, Salt: sum("salt"),
	}
	return w
}

func (w *world) start(listen string) *devnet.Devnet {
	w.t.Helper()
	return devnettest.Start(w.t, devnet.Options{Dir: w.dir, Listen: listen, TVM: engine})
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

func (w *world) addr(wal chain.Sender) toncell.Address {
	a, err := toncell.FromAddr(wal.Address())
	w.ok(err)
	return a
}

// order sends an order of the first two owners.
func (w *world) order(entries ...registry.Entry) (*registry.Order, error) {
	w.t.Helper()
	o, s, err := w.ledger.NewOrder(w.ctx, w.registry, time.Hour, entries...)
	w.ok(err)
	var sigs []registry.OwnerSignature
	for _, n := range []string{"owner 1", "owner 2"} {
		sig, err := s.Owners.Sign(key(n), o)
		w.ok(err)
		sigs = append(sigs, sig)
	}
	_, err = w.ledger.Propose(w.ctx, w.anyone, o, sigs)
	return o, err
}

// apply sends an order, waits its time lock and executes it.
func (w *world) apply(entries ...registry.Entry) error {
	w.t.Helper()
	o, err := w.order(entries...)
	if err != nil || !o.Later {
		return err
	}
	w.ok(w.net.Advance(w.ctx, registry.DefaultDelay))
	if o.Schedule {
		return nil // active by now
	}
	_, err = w.ledger.ExecuteOrder(w.ctx, w.anyone, w.registry, o.Number)
	return err
}

func (w *world) open(deposit coin.Nano) {
	w.t.Helper()
	var err error
	w.job, _, err = w.ledger.OpenJob(w.ctx, w.client, &w.terms, deposit)
	w.ok(err)
}

func (w *world) common() verdictcell.Common {
	return verdictcell.Common{
		GlobalID: devnet.GlobalID, Registry: w.registry, TrustClass: verdictcell.VTPM,
		ReceiptKey: [32]byte(public(key("receipt"))), Payout: w.payout, Manifest: sum("manifest"),
		ModelRoot: sum("model"), PolicyHash: sum("policy"), EvidenceSHA256: sum("evidence"),
	}
}

// verdict signs a common cell as it is now, for half an hour.
func (w *world) verdict(change func(*verdictcell.Common)) *verdictcell.Verdict {
	w.t.Helper()
	return w.signed(change, key("verifier"), -10*time.Second, 30*time.Minute)
}

func (w *world) signed(change func(*verdictcell.Common), k ed25519.PrivateKey, from, until time.Duration) *verdictcell.Verdict {
	w.t.Helper()
	return w.signedBy(change, from, until, k)
}

func (w *world) signedBy(change func(*verdictcell.Common), from, until time.Duration, keys ...ed25519.PrivateKey) *verdictcell.Verdict {
	w.t.Helper()
	c := w.common()
	if change != nil {
		change(&c)
	}
	hash, err := c.Hash()
	w.ok(err)
	now := w.net.Now()
	var sigs []verdictcell.Signature
	for _, k := range keys {
		s, err := verdictcell.Sign(k, hash, uint64(now.Add(from).Unix()), uint64(now.Add(until).Unix()))
		w.ok(err)
		sigs = append(sigs, s)
	}
	v, err := verdictcell.New(c, sigs...)
	w.ok(err)
	return v
}

func (w *world) release() *job.State {
	w.t.Helper()
	st, _, err := w.ledger.Release(w.ctx, w.anyone, w.job, w.verdict(nil))
	w.ok(err)
	return st
}

// voucher signs a voucher with the client's key; change may spoil it first.
func (w *world) voucher(seq uint64, amount coin.Nano, change func(*receipt.Voucher)) *receipt.SignedVoucher {
	w.t.Helper()
	c := w.common()
	hash, err := c.Hash()
	w.ok(err)
	v := receipt.Voucher{GlobalID: devnet.GlobalID, Job: w.job, Seq: seq, Amount: amount, ReceiptCount: seq, ReceiptsRoot: sum("root"), Verdict: hash}
	if change != nil {
		change(&v)
	}
	s, err := v.Sign(key("client key"))
	w.ok(err)
	return s
}

func (w *world) balance(a toncell.Address) coin.Nano {
	w.t.Helper()
	st, err := w.chain.Account(w.ctx, a.Addr())
	w.ok(err)
	if !st.Balance.IsUint64() {
		w.t.Fatalf("balance %s", st.Balance)
	}
	return coin.Nano(st.Balance.Uint64())
}

func (w *world) state() *job.State {
	w.t.Helper()
	s, _, err := w.ledger.Job(w.ctx, w.job)
	w.ok(err)
	return s
}

// storage returns the storage fees of the job since the transaction before
// which balance was read: the only thing that a refusal may cost it.
func (w *world) storage(since uint64) coin.Nano {
	w.t.Helper()
	st, err := w.chain.Account(w.ctx, w.job.Addr())
	w.ok(err)
	txs, err := w.chain.Transactions(w.ctx, w.job.Addr(), st, 64)
	w.ok(err)
	var fees coin.Nano
	for _, tx := range txs {
		if d, ok := tx.Description.(tlb.TransactionDescriptionOrdinary); ok && tx.LT > since && d.StoragePhase != nil {
			fees += coin.Nano(d.StoragePhase.StorageFeesCollected.Nano().Uint64())
		}
	}
	return fees
}

// escrow returns the job's balance and its last transaction.
func (w *world) escrow() (coin.Nano, uint64) {
	w.t.Helper()
	st, err := w.chain.Account(w.ctx, w.job.Addr())
	w.ok(err)
	return coin.Nano(st.Balance.Uint64()), st.LastLT
}
