package ledger_test

import (
	"testing"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/registry"
	"cocoon/internal/verdictcell"
)

// Every message of package registry, built in Go, on the real TVM.
func TestDevnetOwnersAndVerifiersOfARegistry(t *testing.T) {
	w := newWorld(t)
	second := public(key("second"))
	id := verdictcell.KeyID(second)

	// A vetoed order is gone; one that nobody vetoes is executed, once.
	p := registry.New(registry.NewOwners(1, second), true).Parameters
	p.VerifierFee, p.MinBond = uint64(coin.TON/100), uint64(2*coin.TON)
	bad, err := w.order(registry.VerifierEntry{Public: second, Until: registry.Forever, Listed: true})
	w.ok(err)
	s, st, err := w.ledger.Registry(w.ctx, w.registry)
	w.ok(err)
	who, _, ok := s.Scheduled(bad.Number)
	if !ok || who != (registry.ID{Kind: registry.KindVerifier, Hash: id}) || s.Listed() != 1 {
		t.Fatalf("scheduled: %+v", s.Waiting)
	}
	veto, err := s.Owners.SignVeto(key("owner 3"), st.GlobalID, w.registry, must(registry.ScheduledHash(bad.Number, who)))
	w.ok(err)
	_, err = w.ledger.VetoScheduled(w.ctx, w.anyone, w.registry, who, []registry.OwnerSignature{veto})
	w.ok(err)
	_, err = w.ledger.VetoScheduled(w.ctx, w.anyone, w.registry, who, []registry.OwnerSignature{veto})
	w.want(err, "contract.order_not_pending")
	w.ok(w.apply(registry.ParametersEntry{Parameters: p}))
	w.want(w.apply(registry.VerifierEntry{Public: second, Until: registry.Forever, Listed: true}), "contract.verifier_bond_low")

	// The bond, then the key; the fee of a verdict, then its claim.
	body, err := registry.PostBond(0, key("second"), st.GlobalID, w.registry, w.addr(w.worker), p.MinBond)
	w.ok(err)
	_, err = w.ledger.Tell(w.ctx, w.anyone, w.registry, coin.Nano(p.MinBond), body)
	w.ok(err)
	w.ok(w.apply(registry.VerifierEntry{Public: second, Until: registry.Forever, Listed: true}, registry.ThresholdEntry{K: 1}))
	v := w.signed(nil, key("second"), -10*time.Second, 30*time.Minute)
	// For whoever wants to know: here the sender.
	_, _, err = w.ledger.SendVerdict(w.ctx, w.anyone, w.registry, w.addr(w.anyone), coin.Nano(p.VerifierFee), v)
	w.ok(err)
	s, st, err = w.ledger.Registry(w.ctx, w.registry)
	w.ok(err)
	if s.Verifiers[id].Earned != p.VerifierFee || s.Owed != p.VerifierFee+p.MinBond || s.Bonds[id].Amount != p.MinBond {
		t.Fatalf("after the verdict: %+v, owed %d, bonds %+v", s.Verifiers[id], s.Owed, s.Bonds)
	}
	for _, fee := range []uint64{p.VerifierFee, 0} {
		q := registry.Question{Verdict: v, Registry: w.registry, GlobalID: st.GlobalID, VerifierFee: fee, Now: w.net.Now()}
		if got, want := s.Answer(q), map[bool]exitcode.Code{true: exitcode.OK, false: exitcode.VerifierFeeLow}[fee > 0]; got != want {
			t.Errorf("with a fee of %d the rules in Go answer %v", fee, got)
		}
	}
	before := w.balance(w.payout)
	body, err = registry.Claim(0, key("second"), st.GlobalID, w.registry, w.payout, w.net.Now().Add(time.Minute))
	w.ok(err)
	_, err = w.ledger.Tell(w.ctx, w.anyone, w.registry, 0, body)
	w.ok(err)
	if got := w.balance(w.payout) - before; got != coin.Nano(p.VerifierFee) {
		t.Errorf("the claim paid %s", got)
	}

	// Out, and slashed on the way by two verdicts for one evidence.
	body, err = registry.Unbond(0, id)
	w.ok(err)
	_, err = w.ledger.Tell(w.ctx, w.anyone, w.registry, 0, body)
	w.want(err, "contract.not_bond_owner")
	_, err = w.ledger.Tell(w.ctx, w.worker, w.registry, 0, body)
	w.ok(err)
	body, err = registry.WithdrawBond(0, id)
	w.ok(err)
	_, err = w.ledger.Tell(w.ctx, w.worker, w.registry, 0, body)
	w.want(err, "contract.bond_locked")
	other := w.signed(func(c *verdictcell.Common) { c.ReceiptKey = sum("another") }, key("second"), -10*time.Second, time.Minute)
	body, accused, err := registry.Slash(0, append(s.Keys(), second), v, other)
	w.ok(err)
	if accused != id {
		t.Errorf("accused %x", accused)
	}
	_, err = w.ledger.Tell(w.ctx, w.anyone, w.registry, 0, body)
	w.ok(err)
	s, _, err = w.ledger.Registry(w.ctx, w.registry)
	w.ok(err)
	if _, listed := s.Verifiers[id]; listed || s.Owed != 0 || len(s.Bonds) != 0 {
		t.Errorf("after the proof: %v, owed %d, bonds %+v", s, s.Owed, s.Bonds)
	}
}
