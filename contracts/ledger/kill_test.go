package ledger_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/internal/toncell"
)

// readLog reads the receipts and vouchers of a log that may be written
// meanwhile, or was cut short.
func readLog(path string) (rs []*receipt.Signed, vs []*receipt.SignedVoucher, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var rec struct{ Receipt, Voucher json.RawMessage }
		if err := json.Unmarshal(line[9:], &rec); err != nil {
			return nil, nil, err
		}
		if rec.Receipt != nil {
			s, err := receipt.Parse(rec.Receipt)
			if err != nil {
				return nil, nil, err
			}
			rs = append(rs, s)
			continue
		}
		v, err := receipt.ParseVoucher(rec.Voucher)
		if err != nil {
			return nil, nil, err
		}
		vs = append(vs, v)
	}
	return rs, vs, nil
}

// children are the processes of a flow.
type children struct {
	w     *world
	dir   string
	lines chan string
	procs map[string]*exec.Cmd
}

func (c *children) spawn(role string) {
	c.w.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFlowChild$")
	cmd.Env = append(os.Environ(), envRole+"="+role, envDir+"="+c.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	c.w.ok(err)
	c.w.ok(cmd.Start())
	c.procs[role] = cmd
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
}

func (c *children) kill(role string) {
	c.w.t.Helper()
	c.w.ok(c.procs[role].Process.Kill())
	if err := c.procs[role].Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		c.w.t.Fatalf("the %s ended by itself: %v", role, err)
	}
}

// paid waits until the client has paid for n more answers.
func (c *children) paid(n int) { c.w.t.Helper(); c.await(n, "paid ") }

// await waits until the children have said something n times more.
func (c *children) await(n int, what string) {
	c.w.t.Helper()
	for n > 0 {
		select {
		case l := <-c.lines:
			if strings.HasPrefix(l, what) {
				n--
			} else if strings.Contains(l, "FAIL") {
				c.w.t.Fatalf("a child says %s", l)
			}
		case <-c.w.ctx.Done():
			c.w.t.Fatal("the flow stands still")
		}
	}
}

// check compares what both sides have on disk.
func (c *children) check() {
	t := c.w.t
	t.Helper()
	// What was given out is on the giver's disk: read it after the taker's.
	had, _, err := readLog(filepath.Join(c.dir, "client.log"))
	c.w.ok(err)
	issued, accepted, err := readLog(filepath.Join(c.dir, "worker.log"))
	c.w.ok(err)
	_, signed, err := readLog(filepath.Join(c.dir, "client.log"))
	c.w.ok(err)
	if len(had) > len(issued) {
		t.Fatalf("the client has %d receipts, the worker has written down %d", len(had), len(issued))
	}
	for i, s := range had {
		if *s != *issued[i] || s.Receipt.Seq != uint64(i+1) {
			t.Fatalf("receipt %d is not the one that the worker has written down", i+1)
		}
	}
	bySeq := map[uint64]*receipt.SignedVoucher{}
	for _, v := range signed {
		if was := bySeq[v.Voucher.Seq]; was != nil && *was != *v {
			t.Fatalf("voucher %d was signed twice", v.Voucher.Seq)
		}
		bySeq[v.Voucher.Seq] = v
	}
	var promised coin.Nano
	for _, v := range accepted {
		if was := bySeq[v.Voucher.Seq]; was == nil || *was != *v {
			t.Fatalf("voucher %d is not one that the client has written down", v.Voucher.Seq)
		}
		promised = v.Voucher.Amount
	}
	if n := len(issued); n > 0 && issued[n-1].Receipt.Cumulative > promised+flowCredit {
		t.Fatalf("%d is delivered for %d and a credit of %d", issued[n-1].Receipt.Cumulative, promised, flowCredit)
	}
}

// Chain, worker and client are processes that are killed at random points, in
// turn, while answers are delivered, paid for and redeemed. Nothing is given out
// that is not on disk, nobody is owed more than the credit, no number is signed
// twice, and in the end the chain has paid once what the client has signed.
// COCOON_SOAK=1 kills for long.
func TestKilledAtAnyMomentTheFlowLosesNothing(t *testing.T) {
	kills := 6
	if os.Getenv("COCOON_SOAK") != "" {
		kills = 300
	}
	w := newWorldFor(t, 2*time.Minute+time.Duration(kills)*10*time.Second, func(*registry.State) {})
	w.open(coin.TON)
	st := w.release()
	verdict, ok := st.ReleasedTo(job.Hash(public(key("receipt"))))
	if !ok {
		t.Fatal("not released")
	}
	cfg, err := w.net.ConfigJSON()
	w.ok(err)
	f := &flow{Listen: w.net.Addr(), Config: cfg, Job: w.job, Verdict: receipt.Hash(verdict), Deposit: coin.Nano(st.Deposited), PriceCap: st.Terms.PriceCap, NetDir: w.dir}
	c := &children{w: w, dir: t.TempDir(), lines: make(chan string, 1<<16), procs: map[string]*exec.Cmd{}}
	doc, err := json.Marshal(f)
	w.ok(err)
	w.ok(os.WriteFile(filepath.Join(c.dir, "flow.json"), doc, 0o600))
	w.ok(os.WriteFile(filepath.Join(c.dir, "worker.addr"), []byte("127.0.0.1:1"), 0o600))
	w.ok(w.net.Close())
	t.Cleanup(func() {
		for _, cmd := range c.procs {
			_ = cmd.Process.Kill() // may be gone
		}
	})
	roles := []string{roleDevnet, roleWorker, roleClient}
	for _, role := range roles {
		c.spawn(role)
	}
	rng := rand.New(rand.NewPCG(9, uint64(kills)))
	for i := range kills {
		c.paid(3 + rng.IntN(6))
		// Somewhere inside what follows.
		time.Sleep(time.Duration(rng.IntN(20_000)) * time.Microsecond)
		role := roles[i%len(roles)]
		c.kill(role)
		c.check()
		c.spawn(role)
	}
	c.await(1, "redeemed ")
	for _, role := range roles {
		c.kill(role)
	}
	c.check()

	// All come back once more, and settle.
	w.net = w.start(f.Listen)
	book, err := receipt.OpenBook(f.book(c.dir))
	w.ok(err)
	payer, err := receipt.OpenPayer(f.payer(c.dir))
	w.ok(err)
	before := w.state()
	if v := book.Voucher(); v == nil || coin.Nano(before.Paid) > v.Voucher.Amount {
		t.Errorf("the chain has paid %d, the worker holds %+v", before.Paid, v)
	}
	if before.Paid == 0 {
		t.Error("nothing was redeemed on the way")
	}
	last, err := payer.Voucher()
	w.ok(err)
	w.ok(book.Accept(last))
	owed, promised := book.Owed()
	if owed-promised > flowCredit || promised != payer.Owed() {
		t.Errorf("owed %d, promised %d, the client says %d", owed, promised, payer.Owed())
	}
	if coin.Nano(before.Paid) < promised {
		_, err = w.ledger.Redeem(w.ctx, w.anyone, last)
		w.ok(err)
	}
	_, err = w.ledger.Redeem(w.ctx, w.anyone, last)
	w.want(err, "contract.voucher_replayed")
	fee := coin.Nano(w.terms.Fee(uint64(promised)))
	if got := w.state().Paid; coin.Nano(got) != promised || !w.has(w.payout, promised-fee) || !w.has(w.gateway, fee) {
		t.Errorf("%d was paid for vouchers of %d: payout %d, gateway %d", got, promised, w.balance(w.payout), w.balance(w.gateway))
	}
	w.settle(promised)
	w.ok(errors.Join(book.Close(), payer.Close()))
	t.Logf("%d kills, %d nanoton owed, %d paid", kills, owed, promised)
}

// has says whether an account that was only paid to has this balance, but for
// the storage fees of the seconds between the payments.
func (w *world) has(a toncell.Address, want coin.Nano) bool {
	w.t.Helper()
	got := w.balance(a)
	return got <= want && want-got < 1000
}

// settle closes the job and checks that all that was not paid goes back.
func (w *world) settle(paid coin.Nano) {
	w.t.Helper()
	_, _, err := w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
	w.ok(w.net.Advance(w.ctx, w.terms.CloseDelay))
	escrow, lt := w.escrow()
	s, tx, err := w.ledger.Finish(w.ctx, w.anyone, w.job)
	w.ok(err)
	if s.Status != job.Closed || s.Paid != uint64(paid) || tx.Paid(w.terms.Client) != escrow-w.storage(lt) || w.balance(w.job) != 0 {
		w.t.Errorf("closed: %+v, the client got %d of %d", s, tx.Paid(w.terms.Client), escrow)
	}
}

// Whoever stops gets nothing further, and loses at most the credit: a client
// that signs no more gets no more answers, and a worker that answers no more is
// paid no more than was signed for.
func TestDevnetWhoeverStopsGetsNothingFurther(t *testing.T) {
	for name, clientStops := range map[string]bool{"the client stops signing": true, "the worker stops answering": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.open(coin.TON)
			st := w.release()
			verdict, _ := st.ReleasedTo(job.Hash(public(key("receipt"))))
			f := &flow{Job: w.job, Verdict: receipt.Hash(verdict), Deposit: coin.Nano(st.Deposited), PriceCap: st.Terms.PriceCap}
			dir := t.TempDir()
			book, err := receipt.OpenBook(f.book(dir))
			w.ok(err)
			payer, err := receipt.OpenPayer(f.payer(dir))
			w.ok(err)
			for n := uint64(1); ; n++ {
				s, err := issue(book, delivery(n))
				if n > 5 && clientStops && err != nil {
					w.want(err, "job.credit_used")
					break
				}
				w.ok(err)
				if n > 5 && clientStops {
					continue
				}
				d := delivery(n)
				v, err := payer.Accept(s, receipt.Expect{Request: d.Request, Response: &d.Response, Most: flowMost})
				w.ok(err)
				w.ok(book.Accept(v))
				if n == 5 && !clientStops {
					break
				}
			}
			owed, promised := book.Owed()
			if clientStops && owed == promised || owed-promised > flowCredit {
				t.Errorf("owed %d, promised %d", owed, promised)
			}
			if again, err := payer.Voucher(); err != nil || again.Voucher.Amount != promised {
				t.Errorf("without an answer the client signs %+v, %v", again, err)
			}
			// Whatever else the worker makes up, it is not the client's voucher.
			more := book.Voucher().Voucher
			more.Seq, more.Amount = more.Seq+1, owed+1
			forged, err := more.Sign(key("receipt"))
			w.ok(err)
			_, err = w.ledger.Redeem(w.ctx, w.worker, forged)
			w.want(err, "contract.voucher_signature")
			_, err = w.ledger.Redeem(w.ctx, w.worker, book.Voucher())
			w.ok(err)
			w.settle(promised)
			if fee := coin.Nano(w.terms.Fee(uint64(promised))); !w.has(w.payout, promised-fee) {
				t.Errorf("the worker has %d of %d", w.balance(w.payout), promised)
			}
			w.ok(errors.Join(book.Close(), payer.Close()))
		})
	}
}
