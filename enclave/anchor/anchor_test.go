package anchor_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/ledger"
	"cocoon/contracts/tvm"
	"cocoon/contracts/worker"
	"cocoon/enclave/anchor"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

var engine *tvm.Engine

func TestMain(m *testing.M) { devnettest.Main(m, &engine) }

func addr(name string) toncell.Address { return toncell.Address{Hash: sha256.Sum256([]byte(name))} }

// net is a chain with the worker contract of an owner, as the owner sees it.
type net struct {
	*devnet.Devnet
	ledger *ledger.Ledger
	owner  chain.Sender
	worker toncell.Address
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newNet(t testing.TB, ctx context.Context, seed string) *net {
	t.Helper()
	d := devnettest.Start(t, devnet.Options{TVM: engine, Seed: seed})
	n := &net{Devnet: d}
	c := n.open(t, nil)
	n.ledger = ledger.New(c, nil)
	key := sha256.Sum256([]byte("owner"))
	var err error
	n.owner, err = c.Wallet(ctx, ed25519.NewKeyFromSeed(key[:]))
	ok(t, err)
	ok(t, d.Faucet(ctx, n.owner.Address(), (100*coin.TON).Big()))
	own, err := toncell.FromAddr(n.owner.Address())
	ok(t, err)
	n.worker, _, err = n.ledger.OpenWorker(ctx, n.owner, &worker.Terms{Owner: own, Payout: addr("payout"), Registry: addr("registry"),
		Machine: addr("machine").Hash, LeaveDelay: time.Hour}, coin.TON)
	ok(t, err)
	return n
}

func (n *net) open(t testing.TB, rec *anchor.Record) *chain.Client {
	t.Helper()
	cfg, err := n.ConfigJSON()
	ok(t, err)
	o := chain.Options{TVM: engine}
	if rec != nil {
		o.Start = rec.KeyBlock.ID()
	}
	c, err := chain.Open(cfg, o)
	ok(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

type guest struct {
	*ledger.Ledger
	*chain.Client
}

// boot holds the disk in dir as a machine does; announce is whether the owner
// does what it asks for.
func (n *net) boot(t testing.TB, ctx context.Context, dir string, announce bool, change func(*anchor.Options)) (*anchor.Anchor, error) {
	t.Helper()
	rec, err := anchor.Read(dir)
	if err != nil {
		return nil, err
	}
	c := n.open(t, rec)
	o := anchor.Options{Dir: dir, Worker: &n.worker, Payout: addr("payout"), Registry: addr("registry"), GlobalID: devnet.GlobalID,
		Chain: guest{ledger.New(c, nil), c}, Poll: time.Millisecond}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.Await = func(why error) {
		if !fault.Has(why, anchor.CodeNotAnnounced) {
			t.Errorf("the machine asks with %v", why)
		}
		if !announce {
			cancel()
			return
		}
		s, _, err := n.ledger.Worker(ctx, n.worker)
		ok(t, err)
		_, _, err = n.ledger.Advance(ctx, n.owner, n.worker, s.Generation+1)
		ok(t, err)
	}
	if change != nil {
		change(&o)
	}
	return anchor.Hold(ctx, o)
}

// copyDisk is the host putting a disk aside, or back.
func copyDisk(t testing.TB, from, to string) {
	t.Helper()
	ok(t, os.RemoveAll(to))
	ok(t, os.CopyFS(to, os.DirFS(from)))
}

// The host keeps a copy of the disk at every boot and puts each of them back.
func TestADiskThatWasRolledBackIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n := newNet(t, ctx, "a")
	disk, copies := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	ok(t, os.Mkdir(disk, 0o700))
	as := func(gen string) string { return filepath.Join(copies, gen) }
	copyDisk(t, disk, as("unused"))
	var held *anchor.Anchor
	for _, gen := range []string{"1", "2", "3"} {
		var err error
		held, err = n.boot(t, ctx, disk, true, nil)
		ok(t, err)
		if announced, err := held.Check(ctx); !announced || err != nil {
			t.Errorf("boot %s: %v, %v", gen, announced, err)
		}
		ok(t, os.WriteFile(filepath.Join(disk, "books"), []byte(gen), 0o600))
		copyDisk(t, disk, as(gen))
	}
	for _, gen := range []string{"unused", "1", "2"} {
		copyDisk(t, as(gen), disk)
		if _, err := n.boot(t, ctx, disk, true, nil); !fault.Has(err, anchor.CodeRolledBack) {
			t.Errorf("the disk of boot %s: %v", gen, err)
		}
		// Refused again, and not changed by it.
		if gen != "unused" {
			if _, err := n.boot(t, ctx, disk, true, nil); !fault.Has(err, anchor.CodeRolledBack) {
				t.Errorf("the disk of boot %s again: %v", gen, err)
			}
		}
	}
	copyDisk(t, as("3"), disk)
	again, err := n.boot(t, ctx, disk, true, nil)
	ok(t, err)
	// The machine that ran from the other copy learns that it is no longer the
	// one.
	if _, err := held.Check(ctx); !fault.Has(err, anchor.CodeSuperseded) {
		t.Errorf("boot 3, after boot 4: %v", err)
	}
	if announced, err := again.Check(ctx); !announced || err != nil {
		t.Errorf("boot 4: %v, %v", announced, err)
	}
	// A blank disk is nothing old.
	blank := t.TempDir()
	if _, err := n.boot(t, ctx, blank, true, func(o *anchor.Options) { o.Blank = true }); err != nil {
		t.Errorf("a blank disk: %v", err)
	}
}

// A machine whose boot nobody announces does not go on, however often it is
// started, and then goes on with the same number.
func TestABootThatIsNotAnnouncedWaits(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n := newNet(t, ctx, "a")
	disk := t.TempDir()
	for range 3 {
		if _, err := n.boot(t, ctx, disk, false, nil); !fault.Has(err, anchor.CodeNotAnnounced) {
			t.Fatalf("got %v", err)
		}
		if rec, err := anchor.Read(disk); err != nil || rec.Generation != 1 {
			t.Fatalf("the disk carries %+v, %v", rec, err)
		}
	}
	_, err := n.boot(t, ctx, disk, true, nil)
	ok(t, err)
}

func TestTheHostCannotUntieADisk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n := newNet(t, ctx, "a")
	disk := t.TempDir()
	_, err := n.boot(t, ctx, disk, true, nil)
	ok(t, err)
	other := addr("other")
	for _, tc := range []struct {
		name, code string
		change     func(*anchor.Options)
	}{
		{"no contract named", anchor.CodeNoWorker, func(o *anchor.Options) { o.Worker = nil }},
		{"another contract", anchor.CodeOtherWorker, func(o *anchor.Options) { o.Worker = &other }},
		{"another payout", anchor.CodeTerms, func(o *anchor.Options) { o.Payout = other }},
		{"another registry", anchor.CodeTerms, func(o *anchor.Options) { o.Registry = other }},
		{"another network", anchor.CodeNetwork, func(o *anchor.Options) { o.GlobalID++ }},
	} {
		if _, err := n.boot(t, ctx, disk, true, tc.change); !fault.Has(err, tc.code) {
			t.Errorf("%s: got %v, want %s", tc.name, err, tc.code)
		}
	}
	if _, err := n.boot(t, ctx, disk, true, nil); err != nil {
		t.Errorf("the disk was changed by refusals: %v", err)
	}

	// A chain of the host's own making, where the contract has counted as many
	// boots as an old copy needs.
	fake := newNet(t, ctx, "b")
	fake.worker = n.worker
	if _, err := fake.boot(t, ctx, disk, true, nil); fault.ExitCode(err) != fault.ExitNetwork && fault.ExitCode(err) != fault.ExitRefused || fault.Has(err, anchor.CodeNotAnnounced) {
		t.Errorf("on another chain: %v", err)
	}
}

// A chain that shows fewer boots than the disk has seen is an old one.
func TestAContractBehindTheDiskIsNotBelieved(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n, past := newNet(t, ctx, "twin"), newNet(t, ctx, "twin")
	disk := t.TempDir()
	for range 2 {
		_, err := n.boot(t, ctx, disk, true, nil)
		ok(t, err)
	}
	past.worker = n.worker
	c := past.open(t, nil)
	_, err := past.boot(t, ctx, disk, true, func(o *anchor.Options) { o.Chain = guest{ledger.New(c, nil), c} })
	if !fault.Has(err, anchor.CodeAhead) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoRecordIsRefused(t *testing.T) {
	disk := t.TempDir()
	for _, doc := range []string{"", "{", `{"format":"cocoon-anchor/2"}`, string(make([]byte, 5000))} {
		ok(t, os.WriteFile(filepath.Join(disk, "anchor.json"), []byte(doc), 0o600))
		if _, err := anchor.Hold(t.Context(), anchor.Options{Dir: disk}); !fault.Has(err, anchor.CodeRecord) {
			t.Errorf("%.20q: %v", doc, err)
		}
	}
	ok(t, os.Remove(filepath.Join(disk, "anchor.json")))
	if a, err := anchor.Hold(t.Context(), anchor.Options{Dir: disk}); a != nil || err != nil {
		t.Errorf("a disk that is tied to nothing: %v, %v", a, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"format":"cocoon-anchor/1","generation":1,"key_block":{"file_hash":"` + addr("f").String()[2:] + `","root_hash":"` + addr("r").String()[2:] + `","seqno":1},"worker":"` + addr("w").String() + `"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		r, err := anchor.Parse(doc)
		if err != nil {
			if !fault.Has(err, anchor.CodeRecord) {
				t.Fatalf("no code in %v", err)
			}
			return
		}
		if r.Generation == 0 || r.KeyBlock.ID().SeqNo != r.KeyBlock.Seqno {
			t.Errorf("%+v", r)
		}
	})
}
