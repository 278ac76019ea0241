package model_test

import (
	"cocoon/contracts/model"
	"cocoon/contracts/worker"
)

func (r *run) stake(amount uint64) {
	in := r.message(r.someone(), amount+worker.StakeGas+worker.StorageReserve)
	if r.n == 0 {
		in.Value = amount + worker.StakeGas + worker.StorageReserve
	}
	body, err := worker.Stake(r.n, amount)
	r.ok(err)
	r.onWorker(sent{in, true, body, &command{Do: "stake", Stake: &r.worker.State.Terms, N: amount}}, func(w *model.Worker, in model.Message) model.Outcome { return w.Stake(in, amount) })
}

func (r *run) owner() {
	from := r.addr("owner")
	if r.rng.IntN(6) == 0 {
		from = r.someone()
	}
	in := r.message(from, worker.OwnerValue)
	switch r.rng.IntN(4) {
	case 0:
		r.stake(r.amount())
	case 1:
		amount := r.worker.State.Stake
		if r.rng.IntN(2) == 0 {
			amount = r.amount()
		}
		body, err := worker.Leave(r.n, amount)
		r.ok(err)
		r.onWorker(sent{in, true, body, &command{Do: "leave", At: r.workAt, N: amount}}, func(w *model.Worker, in model.Message) model.Outcome { return w.Leave(in, amount) })
	case 2:
		body, err := worker.Withdraw(r.n)
		r.ok(err)
		r.onWorker(sent{in, true, body, &command{Do: "withdraw", At: r.workAt}}, func(w *model.Worker, in model.Message) model.Outcome { return w.Withdraw(in) })
	case 3:
		g := r.worker.State.Generation + r.rng.Uint64N(3)
		body, err := worker.Advance(r.n, g)
		r.ok(err)
		r.onWorker(sent{in, true, body, &command{Do: "advance", At: r.workAt, N: g}}, func(w *model.Worker, in model.Message) model.Outcome { return w.Advance(in, g) })
	}
}
