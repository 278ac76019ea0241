package ledger_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
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

// drive drives chain, worker and client, each its own process, through random
// actions, and kills them meanwhile.
type drive struct {
	*flow
	w     *world
	rng   *rand.Rand
	dir   string
	lines chan string
	procs map[string]*child
	next  []string // to be killed
	kills map[string]int
	// had is what the client had signed for in this job when one of the three
	// was first killed in it; resumed counts the jobs in which it signed for more
	// after that.
	had     map[string]coin.Nano
	resumed map[string]int

	id  uint64 // of the last command
	n   uint64 // of the job
	job *replay
	// What is reached in all jobs together.
	done                     map[uint64]int
	refused                  map[exitcode.Code]int
	closed, renewed, inParts int
}

type child struct {
	*exec.Cmd
	in *json.Encoder
}

var roles = []string{roleDevnet, roleWorker, roleClient}

func newDrive(w *world, seed uint64) *drive {
	cfg, err := w.net.ConfigJSON()
	w.ok(err)
	d := &drive{
		flow: &flow{Listen: w.net.Addr(), Config: cfg, Terms: w.terms, NetDir: w.dir}, w: w, rng: rand.New(rand.NewPCG(seed, 9)), dir: w.t.TempDir(),
		lines: make(chan string, 1<<16), procs: map[string]*child{}, kills: map[string]int{},
		resumed: map[string]int{}, done: map[uint64]int{}, refused: map[exitcode.Code]int{},
	}
	doc, err := json.Marshal(d.flow)
	w.ok(err)
	w.ok(os.WriteFile(filepath.Join(d.dir, "flow.json"), doc, 0o600))
	devnettest.Close(w.t, w.net)
	w.t.Cleanup(func() {
		for _, c := range d.procs {
			_ = c.Process.Kill() // may be gone
			_ = c.Wait()
		}
	})
	for _, role := range roles {
		d.spawn(role)
	}
	return d
}

func (d *drive) spawn(role string) {
	d.w.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFlowChild$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), envRole+"="+role, envDir+"="+d.dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	d.w.ok(err)
	out, err := cmd.StdoutPipe()
	d.w.ok(err)
	d.w.ok(cmd.Start())
	d.procs[role] = &child{cmd, json.NewEncoder(in)}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			d.lines <- s.Text()
		}
	}()
}

// kill kills one of the three and has it come back; what is on disk in between
// is held against itself.
func (d *drive) kill() string {
	d.w.t.Helper()
	if len(d.next) == 0 {
		for _, i := range d.rng.Perm(len(roles)) {
			d.next = append(d.next, roles[i])
		}
	}
	role := d.next[0]
	d.next = d.next[1:]
	d.w.ok(d.procs[role].Process.Kill())
	if err := d.procs[role].Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		d.w.t.Fatalf("the %s ended by itself: %v", role, err)
	}
	d.kills[role]++
	if _, _, signed := d.logs(); d.had[role] == 0 && signed > 0 {
		d.had[role] = signed
	}
	d.spawn(role)
	return role
}

// await waits until a command has been done, well or not.
func (d *drive) await(id uint64) {
	d.w.t.Helper()
	for {
		select {
		case l := <-d.lines:
			if strings.HasPrefix(l, fmt.Sprintf("done %d ", id)) {
				return
			}
			if strings.HasPrefix(l, "--- FAIL") {
				d.w.t.Fatalf("a child says %s", l)
			}
		case <-d.w.ctx.Done():
			d.w.t.Fatal("the flow stands still")
		}
	}
}

// do has a party do something, and may kill any of the three somewhere inside
// it. What comes of it, the chain says.
func (d *drive) do(role, what string, n uint64) {
	d.w.t.Helper()
	d.id++
	d.w.ok(d.procs[role].in.Encode(command{ID: d.id, Do: what, Job: d.n, N: n}))
	killed := ""
	if d.rng.IntN(3) == 0 {
		time.Sleep(time.Duration(d.rng.IntN(40_000)) * time.Microsecond)
		killed = d.kill()
	}
	if killed != role && killed != roleDevnet {
		d.await(d.id)
	}
	d.hold()
}

// hold replays on the model what the chain has done, waits until the payments
// have arrived where they belong, and holds chain and disks together.
func (d *drive) hold() {
	w, j := d.w, d.job
	w.t.Helper()
	err := retry(w.ctx, func() error {
		var had [2]coin.Nano
		for i, a := range []toncell.Address{j.job.State.Terms.Payout, *j.job.State.Terms.Gateway} {
			st, err := w.chain.Account(w.ctx, a.Addr())
			if err != nil {
				return err
			}
			had[i] = coin.Nano(st.Balance.Uint64())
		}
		if err := j.follow(); err != nil {
			return err
		}
		if !j.arrived(had[0], had[1]) {
			return errors.New("a payment is under way")
		}
		return nil
	})
	w.ok(err)
	owed, _, signed := d.logs()
	if paid := coin.Nano(j.job.State.Paid); paid > signed || paid > owed {
		w.t.Fatalf("%d is paid, %d signed for, %d delivered", paid, signed, owed)
	}
}

// logs holds what both sides have on disk against each other, and returns what
// was delivered, what the worker has vouchers for, and what the client signed.
func (d *drive) logs() (owed, promised, promises coin.Nano) {
	t := d.w.t
	t.Helper()
	// What was given out is on the giver's disk: read it after the taker's.
	client, worker := filepath.Join(jobDir(d.dir, d.n), "client.log"), filepath.Join(jobDir(d.dir, d.n), "worker.log")
	had, _, err := readLog(client)
	d.w.ok(err)
	issued, accepted, err := readLog(worker)
	d.w.ok(err)
	_, signed, err := readLog(client)
	d.w.ok(err)
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
		promises = max(promises, v.Voucher.Amount)
	}
	for _, v := range accepted {
		if was := bySeq[v.Voucher.Seq]; was == nil || *was != *v {
			t.Fatalf("voucher %d is not one that the client has written down", v.Voucher.Seq)
		}
		promised = v.Voucher.Amount
	}
	if n := len(issued); n > 0 {
		owed = issued[n-1].Receipt.Cumulative
	}
	if owed > promised+flowCredit {
		t.Fatalf("%d is delivered for %d and a credit of %d", owed, promised, flowCredit)
	}
	return owed, promised, promises
}

// open begins another job.
func (d *drive) open() {
	w := d.w
	w.t.Helper()
	d.n++
	d.had = map[string]coin.Nano{}
	w.ok(os.Mkdir(jobDir(d.dir, d.n), 0o700))
	terms := d.terms(d.n)
	at, err := terms.Address()
	w.ok(err)
	d.job = &replay{w: w, at: at, log: filepath.Join(jobDir(d.dir, d.n), "client.log"), job: model.NewJob(*terms), done: d.done, refused: d.refused}
	for d.job.job.State.Deposited == 0 {
		d.do(roleClient, "open", 150_000+d.rng.Uint64N(200_000))
	}
}

// act does one action, whether the job is such that it can be done or not.
func (d *drive) act() {
	if s := d.job.job.State.Status; s == job.Funded && d.rng.IntN(2) == 0 {
		d.do(roleWorker, "release", 0)
		return
	}
	switch k := d.rng.IntN(32); {
	case k < 4:
		d.do(roleClient, "top up", 1+d.rng.Uint64N(200_000))
	case k < 10:
		d.do(roleWorker, "release", 0)
	case k < 20:
		d.do(roleClient, "buy", 1+d.rng.Uint64N(4))
	case k < 29:
		d.do(roleWorker, "redeem", d.rng.Uint64N(3))
	case k < 31:
		d.do(roleWorker, "finish", 0)
	default:
		d.do(roleClient, "close", 0)
	}
}

// end closes the job as both sides do who care for their money: the worker
// redeems what it has before the delay is over.
func (d *drive) end() {
	w, s := d.w, &d.job.job.State
	w.t.Helper()
	for s.Status != job.Closing && s.Status != job.Closed {
		d.do(roleClient, "close", 0)
	}
	// A purchase that was begun before the job was seen to close ends first.
	d.id++
	w.ok(d.procs[roleClient].in.Encode(command{ID: d.id, Do: "rest", Job: d.n}))
	d.await(d.id)
	for {
		_, promised, _ := d.logs()
		if s.Status == job.Closed || s.Paid >= uint64(promised) {
			break
		}
		d.do(roleWorker, "redeem", 0)
	}
	for s.Status != job.Closed {
		w.ok(retry(w.ctx, func() error { _, err := devnet.NewAdmin(w.dir).Advance(w.ctx, s.Terms.CloseDelay); return err }))
		d.do(roles[1+d.rng.IntN(2)], "finish", 0)
	}
	owed, promised, signed := d.logs()
	if coin.Nano(s.Paid) < promised || owed > coin.Nano(s.Paid)+flowCredit {
		w.t.Fatalf("closed: delivered for %d, vouchers for %d, paid %d, credit %d", owed, promised, s.Paid, flowCredit)
	}
	d.closed++
	if len(s.Verdicts) > 1 {
		d.renewed++
	}
	if d.job.redeemed > 1 {
		d.inParts++
	}
	for role, had := range d.had {
		if signed > had {
			d.resumed[role]++
		}
	}
}

// reached reports whether every action has done something, each of the three
// was killed often enough and went on with what it had, and money was asked for
// twice.
func (d *drive) reached(kills int) bool {
	for _, op := range []uint64{job.OpDeposit, job.OpVerdictGood, job.OpRedeem, job.OpClose, job.OpFinish} {
		if d.done[op] == 0 {
			return false
		}
	}
	for _, role := range roles {
		if d.kills[role] < kills || d.resumed[role] == 0 {
			return false
		}
	}
	return d.renewed > 0 && d.inParts > 0 && d.refused[exitcode.VoucherReplayed] > 0
}

// Random actions of client and worker on one job after another, while chain,
// worker and client, each its own process, are killed at random points in them.
// Whatever the chain did, by its proof, the model of the contracts does too; of
// the money nothing appears, vanishes, is paid twice or sticks; nothing is given
// out that is not on disk, no number is signed twice, and whoever delivered gets
// what was signed for and loses at most the credit. COCOON_SOAK=1 kills for long.
func TestKilledAtAnyMomentInRandomActionsTheModelHolds(t *testing.T) {
	kills, limit := 2, 10*time.Minute
	if os.Getenv("COCOON_SOAK") != "" {
		kills, limit = 100, 80*time.Minute
	}
	w := newWorldFor(t, limit, func(*registry.State) {})
	d := newDrive(w, 9)
	for !d.reached(kills) {
		d.open()
		for range 16 + d.rng.IntN(16) {
			if s := d.job.job.State.Status; s == job.Closing || s == job.Closed {
				break
			}
			d.act()
		}
		d.end()
	}
	t.Logf("%d actions on %d jobs, killed: %v, done: %x, refused: %v", d.id, d.closed, d.kills, d.done, d.refused)
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
			dir := t.TempDir()
			book, err := receipt.OpenBook(bookOptions(dir, w.job, st))
			w.ok(err)
			payer, err := receipt.OpenPayer(payerOptions(dir, w.job, st))
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
