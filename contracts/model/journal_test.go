package model_test

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
	"cocoon/contracts/receipt"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// journals is what is known of the jobs that a worker serves, by what client and
// worker have on disk.
type journals struct {
	n      uint64 // of the job
	feeCap uint16 // of the registry
	// had is what the client had signed for in this job when one of the three
	// was first killed in it; resumed counts the jobs in which it signed for more
	// after that.
	had                map[string]coin.Nano
	resumed            map[string]int
	closed, servedJobs int
	emptied            bool // storage has left too little for what was signed for
}

// opened begins with another job.
func (d *drive) opened() {
	d.t.Helper()
	d.n++
	d.had, d.emptied = map[string]coin.Nano{}, false
	d.ok(os.Mkdir(jobDir(d.dir, d.n), 0o700))
}

// killed notes how far a job was when one of the three was killed.
func (d *drive) killed(role string) {
	if d.r == nil || !d.r.served() {
		return
	}
	if _, _, signed := d.logs(); d.had[role] == 0 && signed > 0 {
		d.had[role] = signed
	}
}

// hold holds chain and disks together.
func (d *drive) hold() {
	d.t.Helper()
	if !d.r.served() {
		return
	}
	owed, _, signed := d.logs()
	if paid := coin.Nano(d.r.job.State.Paid); paid > signed || paid > owed {
		d.t.Fatalf("%d is paid, %d signed for, %d delivered", paid, signed, owed)
	}
}

// logs holds what both sides have on disk against each other, and returns what
// was delivered, what the worker has vouchers for, and what the client signed.
func (d *drive) logs() (owed, promised, promises coin.Nano) {
	t := d.t
	t.Helper()
	// What was given out is on the giver's disk: read it after the taker's.
	client, worker := filepath.Join(jobDir(d.dir, d.n), "client.log"), filepath.Join(jobDir(d.dir, d.n), "worker.log")
	had, _, err := readLog(client)
	d.ok(err)
	issued, accepted, err := readLog(worker)
	d.ok(err)
	_, signed, err := readLog(client)
	d.ok(err)
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

// verdict turns the registry's word into one that the registry gives, as far as
// it would, and says how the worker gets it. A word from anybody else stays.
func (d *drive) verdict(w *model.Word, from *toncell.Address) *command {
	d.t.Helper()
	r := d.r
	if *from != r.addr("registry") && *from != d.registry {
		return nil
	}
	c := &w.Common
	c.GlobalID, w.FeeCap = devnet.GlobalID, d.feeCap
	if w.RenewalsOnly {
		c.Manifest = sum("old manifest")
	}
	w.RenewalsOnly = c.Manifest == sum("old manifest")
	if !w.Until.After(r.now) {
		w.Until = r.now.Add(10 * time.Minute)
	}
	hash, err := c.Hash()
	d.ok(err)
	sig, err := verdictcell.Sign(key("verifier"), hash, uint64(r.now.Unix())-10, uint64(w.Until.Unix()))
	d.ok(err)
	v, err := verdictcell.New(*c, sig)
	d.ok(err)
	return &command{Do: "release", At: r.jobAt, Wallet: d.names[w.Sender], Verdict: v}
}

// voucher has the client buy some answers and takes one of the vouchers that the
// worker has for them, the newest or an older one. Only what spoils a voucher for
// good stays of kind; without one it is negative.
func (d *drive) voucher(v *receipt.Voucher, kind int) int {
	d.t.Helper()
	if _, ok := d.r.job.State.ReleasedTo(public("receipt 1")); ok && d.r.job.State.Status == job.Released {
		d.purchases++
		d.do(roleClient, command{Do: "buy", At: d.r.jobAt, N: 1 + d.rng.Uint64N(4)})
		d.hold()
	}
	_, had, err := readLog(filepath.Join(jobDir(d.dir, d.n), "worker.log"))
	d.ok(err)
	if len(had) == 0 {
		return -1
	}
	*v = had[len(had)-1].Voucher
	switch {
	case kind < 4:
		*v = had[d.rng.IntN(len(had))].Voucher
		return 9
	case kind == 4:
		v.Job = d.r.workAt
	}
	return kind
}

// settle is what a worker does that cares for its money, before the job is over:
// it redeems what it has.
func (d *drive) settle() {
	d.t.Helper()
	r := d.r
	// A purchase that was begun before ends first.
	d.id++
	d.ok(d.procs[roleClient].in.Encode(command{ID: d.id, Do: "rest"}))
	d.await(d.id)
	_, had, err := readLog(filepath.Join(jobDir(d.dir, d.n), "worker.log"))
	d.ok(err)
	s := &r.job.State
	if len(had) == 0 || s.Paid >= uint64(had[len(had)-1].Voucher.Amount) {
		return
	}
	r.n++
	in := model.Message{From: r.addr("payout"), Value: job.RedeemValue, Now: r.now}
	r.redeemAs(in, had[len(had)-1].Voucher, true, "client")
	d.emptied = r.job.Balance == 0
}

// ended checks a job whose money is all out: whoever delivered has what was
// signed for, but for the credit and what storage left, and the payments are
// where they belong.
func (d *drive) ended() {
	d.t.Helper()
	r, s := d.r, &d.r.job.State
	d.closed++
	d.ok(retry(d.ctx, func() error {
		want := map[toncell.Address]uint64{}
		want[s.Terms.Payout] += r.toWorker
		want[s.Terms.Client] += r.toClient
		if s.Terms.Gateway != nil {
			want[*s.Terms.Gateway] += r.toGateway
		}
		for at, amount := range want {
			got, err := d.got(at)
			if err != nil {
				return err
			}
			if got > amount {
				d.t.Fatalf("%s has got %d, the job has paid %d", at, got, amount)
			}
			if got < amount {
				return errors.New("a payment is under way")
			}
		}
		return nil
	}))
	if !r.served() {
		return
	}
	d.hold()
	owed, promised, signed := d.logs()
	if coin.Nano(s.Paid) < promised && !d.emptied || owed > promised+flowCredit {
		d.t.Fatalf("closed: delivered for %d, vouchers for %d, paid %d, credit %d", owed, promised, s.Paid, flowCredit)
	}
	if s.Paid > 0 {
		d.servedJobs++
	}
	for role, had := range d.had {
		if signed > had {
			d.resumed[role]++
		}
	}
}

// got is what the job has paid somebody, by the history there.
func (d *drive) got(at toncell.Address) (uint64, error) {
	st, err := d.chain.Account(d.ctx, at.Addr())
	if err != nil || st.LastLT == 0 {
		return 0, err
	}
	txs, err := d.chain.Transactions(d.ctx, at.Addr(), st, 512)
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, tx := range txs {
		if tx.IO.In.MsgType != tlb.MsgTypeInternal {
			continue
		}
		in := tx.IO.In.AsInternal()
		if in.Bounced || !in.SrcAddr.Equals(d.r.jobAt.Addr()) {
			continue
		}
		s := toncell.NewReader(in.Body)
		if s.Uint(32) != job.OpPaid {
			continue
		}
		s.Uint(64)
		sum += s.Coins()
	}
	return sum, nil
}

// reached reports whether each of the three was killed often enough and went on
// with what it had.
func (d *drive) reached(kills int) bool {
	for _, role := range roles {
		if d.kills[role] < kills || d.resumed[role] == 0 {
			return false
		}
	}
	return true
}
