package model_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/devnet"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

const globalID = -239 // of the TVM's config

func sum(parts ...any) job.Hash {
	h := sha256.New()
	for _, p := range parts {
		switch v := p.(type) {
		case string:
			h.Write([]byte(v))
		case uint64:
			h.Write(binary.BigEndian.AppendUint64(nil, v))
		}
	}
	return job.Hash(h.Sum(nil))
}

func key(name string) ed25519.PrivateKey {
	seed := sum("model key", name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) job.Hash { return job.Hash(key(name).Public().(ed25519.PublicKey)) }

func addr(name string) toncell.Address { return toncell.Address{Hash: sum("model address", name)} }

// run is one random sequence: jobs one after another and a worker contract
// beside them, on the model and, where on is set, by the contracts' code too: on
// the TVM in this process, or through others that are killed meanwhile.
type run struct {
	t   testing.TB
	rng *rand.Rand
	on  executor
	now time.Time
	n   uint64 // actions

	flow *drive // the processes, where on is them
	jobs uint64

	job    *model.Job
	jobAt  toncell.Address
	worker *model.Worker
	workAt toncell.Address

	verdicts []verdictcell.Common // of this job, all that it recorded
	seq      uint64

	// What went in and came out, for each contract.
	jobIn, jobOut, workIn, workOut uint64
	toWorker, toGateway, toClient  uint64
	seen                           map[exitcode.Code]int
	closed                         int
}

func newRun(t testing.TB, seed uint64, on executor) *run {
	r := &run{t: t, rng: rand.New(rand.NewPCG(seed, 7)), on: on, now: start, seen: map[exitcode.Code]int{}}
	if r.flow, _ = on.(*drive); r.flow != nil {
		r.now, r.flow.r = r.flow.began, r
	}
	terms := worker.Terms{Owner: r.addr("owner"), Payout: r.addr("payout"), Registry: r.registry(true), Machine: sum(seed), LeaveDelay: time.Hour}
	r.worker = model.NewWorker(terms)
	var err error
	r.workAt, err = terms.Address()
	r.ok(err)
	r.stake(10)
	r.openJob()
	return r
}

func (r *run) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("action %d: %v", r.n, err)
	}
}

// addr is where somebody's money is: a wallet where there are any.
func (r *run) addr(name string) toncell.Address {
	if r.flow != nil {
		return r.flow.wallets[name]
	}
	return addr(name)
}

// registry is who gives the word about verdicts: the test, which makes it up,
// or, among processes, for what is served, the contract.
func (r *run) registry(served bool) toncell.Address {
	if r.flow != nil && served {
		return r.flow.registry
	}
	return r.addr("registry")
}

// served says whether this job is one that a worker serves: every other one
// among processes. Its vouchers are those that client and worker have.
func (r *run) served() bool { return r.flow != nil && r.jobs%2 == 1 }

func (r *run) globalID() int32 {
	if r.flow != nil {
		return devnet.GlobalID
	}
	return globalID
}

func (r *run) openJob() {
	r.jobs++
	t := job.Terms{
		Client: r.addr("client"), ClientKey: public("client"), Payout: r.addr("payout"), Registry: r.registry(r.served()), ModelRoot: sum("model"),
		PolicyHash: sum("policy"), PriceCap: flowPrice, Stake: &r.workAt, CloseDelay: time.Hour, Salt: sum("salt", r.n),
	}
	if r.rng.IntN(4) > 0 {
		g := r.addr("gateway")
		t.Gateway, t.FeeBps = &g, uint16(r.rng.IntN(10001))
	}
	if r.rng.IntN(8) == 0 {
		t.Payout = r.addr("client") // its own worker; the stake does not answer for that
	}
	amount := r.amount() + 1
	if r.served() {
		amount += 2 * flowCredit
		t.FeeBps /= 10
	}
	r.job = model.NewJob(t)
	var err error
	r.jobAt, err = t.Address()
	r.ok(err)
	r.verdicts, r.seq = nil, 0
	r.jobIn, r.jobOut, r.toWorker, r.toGateway, r.toClient = 0, 0, 0, 0, 0
	if r.flow != nil {
		r.flow.opened()
	}
	r.deposit(amount)
}

// build makes a body where something reads it: the model alone does not.
func (r *run) build(body func() (*cell.Cell, error)) *cell.Cell {
	if r.on == nil {
		return nil
	}
	c, err := body()
	r.ok(err)
	return c
}

func (r *run) someone() toncell.Address {
	return r.addr([]string{"client", "payout", "gateway", "owner", "anyone"}[r.rng.IntN(5)])
}

// amount is anything from dust to a few TON.
func (r *run) amount() uint64 { return r.rng.Uint64N(1 << (1 + r.rng.IntN(32))) }

// value is mostly enough, sometimes a little less than the least.
func (r *run) value(least uint64) uint64 {
	if r.rng.IntN(12) == 0 && least > 9_000_000 {
		return least - 1 - r.rng.Uint64N(1_000_000)
	}
	return least + r.rng.Uint64N(100_000_000)
}

func (r *run) message(from toncell.Address, least uint64) model.Message {
	return model.Message{From: from, Value: r.value(least), Now: r.now}
}
