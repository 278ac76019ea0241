package ledger

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/enclave/serve"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/measurements/digest"
)

const globalID = -1009

func sum(s string) [32]byte { return digest.Sum256([]byte(s)) }

func key(name string) ed25519.PrivateKey {
	seed := sum(name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func hash(k ed25519.PrivateKey) job.Hash { return job.Hash(k.Public().(ed25519.PublicKey)) }

func addr(name string) toncell.Address { return toncell.Address{Hash: sum(name)} }

// world is a chain with one job, and a worker's ledger on it.
type world struct {
	*Ledger
	mu    sync.Mutex
	now   time.Time
	state *job.State
	proof chain.State
	err   error
	asked int
	addr  toncell.Address
	key   ed25519.PrivateKey
}

// Job implements Chain.
func (w *world) Job(_ context.Context, a toncell.Address) (*job.State, *chain.State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.err != nil {
		return nil, nil, w.err
	}
	if a != w.addr {
		return nil, nil, fault.New(fault.ExitRefused, "contract.not_active", "", "no such job")
	}
	s, st := *w.state, w.proof
	return &s, &st, nil
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
	w.proof.Utime = uint32(w.now.Unix())
}

var most = serve.Usage{Prompt: 1000, Completion: 1000}

const priceCap = 2_000_000 // nanoton per million tokens: 2 nanoton a token

func newWorld(t *testing.T, change func(*world, *Options)) *world {
	t.Helper()
	w := &world{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), key: key("receipt")}
	w.state = &job.State{
		Status: job.Released, Deposited: uint64(coin.TON),
		Verdicts: map[job.Hash]job.Recorded{job.Hash(sum("verdict")): {ReceiptKey: hash(w.key), At: w.now}},
		Terms: job.Terms{
			Client: addr("client"), ClientKey: hash(key("client")), Payout: addr("payout"), Registry: addr("registry"),
			ModelRoot: job.Hash(sum("model")), PriceCap: priceCap, CloseDelay: time.Hour, Salt: job.Hash(sum("salt")),
		},
	}
	w.addr = addr("job")
	w.proof.GlobalID = globalID
	w.advance(0)
	opt := Options{
		Chain: w, GlobalID: globalID, Registry: addr("registry"), Models: []Model{{Name: "m", Root: receipt.Hash(sum("model"))}, {Name: "n", Root: receipt.Hash(sum("other model")), Price: 3}}, Payout: addr("payout"),
		Key: w.key, Dir: t.TempDir(), Manifest: func(string) (receipt.Hash, error) { return receipt.Hash(sum("manifest")), nil },
		Clock: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
	}
	if change != nil {
		change(w, &opt)
	}
	w.Ledger = New(opt)
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) open(t *testing.T) serve.Account {
	t.Helper()
	a, err := w.Open(context.Background(), w.addr.String(), "m", most)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue delivers n tokens for a request and returns the receipt.
func (w *world) issue(t *testing.T, request string, n uint64) *receipt.Signed {
	t.Helper()
	trailer, err := w.open(t).Issue(serve.Delivery{Request: sum(request), Response: sum("response"), Usage: serve.Usage{Prompt: 10, Completion: n}})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := base64.StdEncoding.DecodeString(trailer)
	if err != nil {
		t.Fatal(err)
	}
	s, err := receipt.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// voucher signs for the receipts.
func (w *world) voucher(t *testing.T, seq uint64, rs ...*receipt.Signed) []byte {
	t.Helper()
	var tree receipt.Tree
	for _, r := range rs {
		leaf, err := r.Leaf()
		if err != nil {
			t.Fatal(err)
		}
		tree.Append(leaf)
	}
	v, err := receipt.Voucher{GlobalID: globalID, Job: w.addr, Seq: seq, Amount: rs[len(rs)-1].Receipt.Cumulative,
		ReceiptCount: uint64(len(rs)), ReceiptsRoot: tree.Root(), Verdict: receipt.Hash(sum("verdict"))}.Sign(key("client"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := v.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestAReleasedJobIsServedAndPaid(t *testing.T) {
	w := newWorld(t, nil)
	one, two := w.issue(t, "one", 90), w.issue(t, "two", 40)
	if !one.Verify(w.key.Public().(ed25519.PublicKey)) {
		t.Error("the receipt key did not sign")
	}
	r := two.Receipt
	if r.Seq != 2 || r.Cumulative != 2*(10+90+10+40) || r.Job != w.addr || r.Manifest != receipt.Hash(sum("manifest")) ||
		r.ModelRoot != receipt.Hash(sum("model")) || r.Verdict != receipt.Hash(sum("verdict")) || r.Price.Max() != priceCap {
		t.Errorf("receipt is %+v", r)
	}
	answer, err := w.Accept(context.Background(), w.voucher(t, 1, one, two))
	if err != nil || string(answer) != `{"owed":"300","promised":"300"}` {
		t.Errorf("got %s, %v", answer, err)
	}
	doc, err := w.Voucher(context.Background(), w.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := receipt.ParseVoucher(doc); err != nil || v.Voucher.Amount != 300 || !v.Verify(key("client").Public().(ed25519.PublicKey)) {
		t.Errorf("voucher is %s, %v", doc, err)
	}
	if w.asked != 1 {
		t.Errorf("the chain was asked %d times within the time that a proof is good for", w.asked)
	}
}

func TestJobsThatAreNotServed(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*world)
		code   string
	}{
		{"not released", func(w *world) { w.state.Status, w.state.Verdicts = job.Funded, nil }, "job.not_released"},
		{"still pending", func(w *world) { w.state.Status = job.Funded }, "job.not_released"},
		{"released to another enclave", func(w *world) {
			w.state.Verdicts = map[job.Hash]job.Recorded{{1}: {ReceiptKey: hash(key("other"))}}
		}, "job.not_released"},
		{"closing", func(w *world) { w.state.Status = job.Closing }, "job.closing"},
		{"closed", func(w *world) { w.state.Status = job.Closed }, "job.not_released"},
		{"another payout", func(w *world) { w.state.Terms.Payout = addr("x") }, "job.wrong_payout"},
		{"another registry", func(w *world) { w.state.Terms.Registry = addr("x") }, "job.wrong_registry"},
		{"another model", func(w *world) { w.state.Terms.ModelRoot = job.Hash{} }, "job.wrong_model"},
		{"a refund before the worker can redeem", func(w *world) { w.state.Terms.CloseDelay = time.Second }, "job.close_delay"},
		{"served by an earlier boot", func(w *world) {
			w.state.Verdicts[job.Hash{1}] = job.Recorded{ReceiptKey: hash(key("other"))}
		}, CodeContinued},
		{"paid from before", func(w *world) { w.state.Paid = 1 }, CodeContinued},
		{"another network", func(w *world) { w.proof.GlobalID = -239 }, CodeNetwork},
		{"a chain that stands still", func(w *world) { w.proof.Utime -= 301 }, CodeStale},
		{"a clock a year ahead", func(w *world) { w.now = w.now.AddDate(1, 0, 0) }, CodeStale},
		{"a clock a year behind", func(w *world) { w.now = w.now.AddDate(-1, 0, 0) }, CodeClock},
		{"a clock three minutes behind", func(w *world) { w.proof.Utime += 180 }, CodeClock},
		{"no such contract", func(w *world) {
			w.addr = addr("other")
			w.err = fault.New(fault.ExitRefused, "contract.not_active", "", "x")
		}, "contract.not_active"},
		{"no lite-server", func(w *world) { w.err = fault.New(fault.ExitNetwork, "ton.network.unreachable", "", "x") }, "ton.network.unreachable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(w *world, _ *Options) { c.change(w) })
			if _, err := w.Open(context.Background(), w.addr.String(), "m", most); !fault.Has(err, c.code) {
				t.Errorf("got %v, want %s", err, c.code)
			}
			if len(w.jobs) != 0 {
				t.Error("a refused job takes room")
			}
		})
	}
	t.Run("a price cap below the operator's price", func(t *testing.T) {
		w := newWorld(t, func(_ *world, o *Options) { o.Models[0].Price = priceCap + 1 })
		if _, err := w.Open(context.Background(), w.addr.String(), "m", most); !fault.Has(err, "job.price_cap") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no address", func(t *testing.T) {
		w := newWorld(t, nil)
		if _, err := w.Open(context.Background(), "x", "m", most); !fault.Has(err, CodeMalformed) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no verdict in force", func(t *testing.T) {
		w := newWorld(t, func(_ *world, o *Options) {
			o.Manifest = func(string) (receipt.Hash, error) {
				return receipt.Hash{}, fault.New(fault.ExitNotReady, "verdict.absent", "", "x")
			}
		})
		if _, err := w.Open(context.Background(), w.addr.String(), "m", most); !fault.Has(err, "verdict.absent") {
			t.Errorf("got %v", err)
		}
	})
}

func TestTheOperatorsPriceIsCharged(t *testing.T) {
	w := newWorld(t, func(_ *world, o *Options) { o.Models[0].Price = 1_000_000 })
	if r := w.issue(t, "one", 90).Receipt; r.Cumulative != 100 || r.Price.Max() != 1_000_000 {
		t.Errorf("receipt is %+v", r)
	}
}

func TestAJobThatIsClosedLaterIsNoLongerServed(t *testing.T) {
	w := newWorld(t, nil)
	one := w.issue(t, "one", 90)
	w.state.Status = job.Closing
	w.advance(fresh - time.Second)
	w.open(t).Cancel() // the proof is still good
	w.advance(time.Second)
	if _, err := w.Open(context.Background(), w.addr.String(), "m", most); !fault.Has(err, "job.closing") {
		t.Errorf("got %v", err)
	}
	// What was delivered can still be paid.
	if _, err := w.Accept(context.Background(), w.voucher(t, 1, one)); err != nil {
		t.Errorf("the voucher was refused: %v", err)
	}
}

func TestCreditAndDeposit(t *testing.T) {
	t.Run("nothing is delivered beyond the credit without a voucher", func(t *testing.T) {
		w := newWorld(t, nil)
		const big = CreditTokens / 2
		var rs []*receipt.Signed
		for i := range 2 {
			a, err := w.Open(context.Background(), w.addr.String(), "m", serve.Usage{Prompt: 10, Completion: big - 10})
			if err != nil {
				t.Fatal(err)
			}
			trailer, err := a.Issue(serve.Delivery{Request: sum(fmt.Sprint(i)), Usage: serve.Usage{Prompt: 10, Completion: big - 10}})
			if err != nil {
				t.Fatal(err)
			}
			doc, _ := base64.StdEncoding.DecodeString(trailer)
			s, err := receipt.Parse(doc)
			if err != nil {
				t.Fatal(err)
			}
			rs = append(rs, s)
		}
		if _, err := w.Open(context.Background(), w.addr.String(), "m", serve.Usage{Completion: 1}); !fault.Has(err, "job.credit_used") {
			t.Fatalf("got %v", err)
		}
		if _, err := w.Accept(context.Background(), w.voucher(t, 1, rs...)); err != nil {
			t.Fatal(err)
		}
		w.open(t).Cancel()
	})
	t.Run("nothing is delivered beyond the deposit", func(t *testing.T) {
		w := newWorld(t, func(w *world, _ *Options) { w.state.Deposited = 3999 })
		if _, err := w.Open(context.Background(), w.addr.String(), "m", most); !fault.Has(err, "job.deposit_used") {
			t.Fatalf("got %v", err)
		}
		w.mu.Lock()
		w.state.Deposited = 4000
		w.mu.Unlock()
		w.advance(fresh)
		a := w.open(t)
		if _, err := w.Open(context.Background(), w.addr.String(), "m", serve.Usage{Completion: 1}); !fault.Has(err, "job.deposit_used") {
			t.Errorf("a reservation is not counted: %v", err)
		}
		a.Cancel()
		w.open(t).Cancel()
	})
	t.Run("a bill over the reservation is refused", func(t *testing.T) {
		w := newWorld(t, nil)
		if _, err := w.open(t).Issue(serve.Delivery{Usage: serve.Usage{Completion: 2001}}); !fault.Has(err, "receipt.over_admitted") {
			t.Errorf("got %v", err)
		}
	})
}

func TestVouchersThatAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	one := w.issue(t, "one", 90)
	good := w.voucher(t, 1, one)
	change := func(f func(*receipt.SignedVoucher)) []byte {
		v, err := receipt.ParseVoucher(good)
		if err != nil {
			t.Fatal(err)
		}
		f(v)
		doc, err := v.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	for _, c := range []struct {
		name, code string
		doc        []byte
	}{
		{"no JSON", "voucher.malformed", []byte("x")},
		{"a flipped signature", "voucher.signature", change(func(v *receipt.SignedVoucher) { v.Signature[0] ^= 1 })},
		{"a raised amount", "voucher.signature", change(func(v *receipt.SignedVoucher) { v.Voucher.Amount++ })},
		{"another job", "voucher.mismatch", change(func(v *receipt.SignedVoucher) { v.Voucher.Job = addr("x") })},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := w.Accept(context.Background(), c.doc); !fault.Has(err, c.code) {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
	if _, err := w.Voucher(context.Background(), w.addr.String()); !fault.Has(err, CodeNoVoucher) {
		t.Errorf("a refused voucher was kept: %v", err)
	}
	if _, err := w.Accept(context.Background(), good); err != nil {
		t.Errorf("the good one was refused: %v", err)
	}
}

func TestReceiptsAreGivenOnlyToThoseWhoAsked(t *testing.T) {
	w := newWorld(t, nil)
	var last *receipt.Signed
	for i := range maxRecent + 1 {
		last = w.issue(t, fmt.Sprint(i), 1)
	}
	doc, err := w.Receipt(context.Background(), w.addr.String(), last.Receipt.Request.String(), "")
	if err != nil {
		t.Fatal(err)
	}
	var got receipt.Signed
	if err := json.Unmarshal(doc, &got); err != nil || got != *last {
		t.Errorf("got %s, %v", doc, err)
	}
	for name, c := range map[string]struct{ job, request, code string }{
		"a request that was not made": {w.addr.String(), receipt.Hash{}.String(), CodeNoReceipt},
		"the oldest, which is gone":   {w.addr.String(), receipt.Hash(sum("0")).String(), CodeNoReceipt},
		"no request":                  {w.addr.String(), "", CodeMalformed},
		"another job":                 {addr("x").String(), last.Receipt.Request.String(), CodeNoReceipt},
		"no job":                      {"x", last.Receipt.Request.String(), CodeMalformed},
	} {
		if _, err := w.Receipt(context.Background(), c.job, c.request, ""); !fault.Has(err, c.code) {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
}

func TestManyRequestsOfOneJobAskTheChainOnce(t *testing.T) {
	w := newWorld(t, nil)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a, err := w.Open(context.Background(), w.addr.String(), "m", serve.Usage{Completion: 1})
			if err != nil {
				t.Error(err)
				return
			}
			a.Cancel()
		})
	}
	wg.Wait()
	if w.asked != 1 {
		t.Errorf("the chain was asked %d times", w.asked)
	}
}

func TestRefusalsRaceWithoutLosingAJob(t *testing.T) {
	w := newWorld(t, func(w *world, _ *Options) { w.state.Status = job.Funded })
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if i == 25 {
				w.mu.Lock()
				w.state.Status = job.Released
				w.mu.Unlock()
			}
			if a, err := w.Open(context.Background(), w.addr.String(), "m", serve.Usage{Completion: 1}); err == nil {
				a.Cancel()
			} else if !fault.Has(err, "job.not_released") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.open(t).Cancel()
}

func TestTheNumberOfJobsIsBounded(t *testing.T) {
	w := newWorld(t, nil)
	for i := range MaxJobs {
		w.jobs[addr(fmt.Sprint(i))] = &entry{}
	}
	if _, err := w.Open(context.Background(), w.addr.String(), "m", most); !fault.Has(err, CodeTooMany) {
		t.Errorf("got %v", err)
	}
}

func TestReceiptsOfOneBodyAreToldApartByNumber(t *testing.T) {
	w := newWorld(t, nil)
	first, second := w.issue(t, "same", 1), w.issue(t, "same", 1)
	for before, want := range map[string]uint64{"": second.Receipt.Seq, fmt.Sprint(second.Receipt.Seq): first.Receipt.Seq} {
		doc, err := w.Receipt(context.Background(), w.addr.String(), first.Receipt.Request.String(), before)
		if err != nil {
			t.Fatal(err)
		}
		var got receipt.Signed
		if err := json.Unmarshal(doc, &got); err != nil || got.Receipt.Seq != want {
			t.Errorf("before %q: receipt %d, %v, want %d", before, got.Receipt.Seq, err, want)
		}
	}
	for before, code := range map[string]string{"1": CodeNoReceipt, "x": CodeMalformed} {
		if _, err := w.Receipt(context.Background(), w.addr.String(), first.Receipt.Request.String(), before); !fault.Has(err, code) {
			t.Errorf("before %s: %v, want %s", before, err, code)
		}
	}
}

// A voucher goes to the host as soon as it is in the book, and the newest of
// them if an older one comes again.
func TestAVoucherIsInTheBookBeforeTheHostHasIt(t *testing.T) {
	var given []uint64
	var w *world
	w = newWorld(t, func(_ *world, o *Options) {
		o.OnVoucher = func(v *receipt.SignedVoucher) {
			b, err := os.ReadFile(bookPath(o.Dir, w.addr))
			if err != nil {
				t.Error(err)
			}
			doc, err := v.Marshal()
			if err != nil {
				t.Error(err)
			}
			if !bytes.Contains(b, doc) {
				t.Errorf("voucher %d is not in the book", v.Voucher.Seq)
			}
			given = append(given, v.Voucher.Seq)
		}
	})
	one := w.issue(t, "one", 90)
	first := w.voucher(t, 1, one)
	second := w.voucher(t, 2, one, w.issue(t, "two", 10))
	for _, doc := range [][]byte{first, second, second} {
		if _, err := w.Accept(context.Background(), doc); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Accept(context.Background(), first); err == nil {
		t.Error("an old voucher was accepted")
	}
	if want := []uint64{1, 2, 2}; !slices.Equal(given, want) {
		t.Errorf("the host got %v, want %v", given, want)
	}
}
