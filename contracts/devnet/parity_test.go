package devnet_test

import (
	"context"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/parity"
	"cocoon/contracts/tvm"
)

// TestTransactionsAreThoseOfTheSandbox makes deploys, transfers, bounces,
// failures and refusals, and repeats them in @ton/sandbox. The contracts of
// this project are compared in package ledger.
func TestTransactionsAreThoseOfTheSandbox(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	d := start(t, devnet.Options{TVM: engine, Wallets: 2})
	c := open(t, d)
	ws := wallets(t, ctx, d, c)
	send := func(w *chain.Wallet, msgs ...chain.Message) {
		t.Helper()
		if _, err := w.Send(ctx, msgs...); err != nil {
			t.Fatal(err)
		}
	}
	text := cell.BeginCell().MustStoreUInt(0, 32).MustStoreStringSnake("hello").EndCell()
	send(ws[0], chain.Message{To: numbered(1), Nano: nano(1), Body: text}, chain.Message{To: ws[1].Address(), Nano: nano(2), Bounce: true})
	send(ws[0], chain.Message{To: numbered(2), Nano: nano(1), Bounce: true}) // comes back
	addr, _, err := ws[1].Deploy(ctx, idle(cell.BeginCell().EndCell()), nano(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitAccount(ctx, addr, func(s *chain.State) bool { return s.Status == proof.Active }); err != nil {
		t.Fatal(err)
	}
	send(ws[1], chain.Message{To: addr, Nano: nano(0.5), Body: text})
	// Code that throws 55 at any message, with and without a way back, and code
	// that is no code.
	throws := &tlb.StateInit{Code: cell.BeginCell().MustStoreUInt(0xf22000|55<<0, 24).EndCell(), Data: cell.BeginCell().EndCell()}
	for _, init := range []*tlb.StateInit{throws, {Code: cell.BeginCell().MustStoreUInt(0xfe, 8).EndCell(), Data: text}} {
		to, err := chain.ContractAddress(init)
		if err != nil {
			t.Fatal(err)
		}
		send(ws[1], chain.Message{To: to, Nano: nano(0.3), Init: init}, chain.Message{To: to, Nano: nano(0.3), Init: init, Bounce: true},
			chain.Message{To: to, Nano: nano(0.000001), Bounce: true})
	}
	if err := d.Advance(ctx, 400*24*time.Hour); err != nil { // storage debts
		t.Fatal(err)
	}
	send(ws[0], chain.Message{To: numbered(1), Nano: nano(0.1)}, chain.Message{To: addr, Nano: nano(0.1), Bounce: true})
	if _, err := ws[0].Send(ctx, chain.Message{To: numbered(1), Nano: nano(1e6)}); err == nil { // skipped action
		t.Error("an overdraft was sent")
	}

	trace, err := d.Trace()
	if err != nil {
		t.Fatal(err)
	}
	// What an account does not accept leaves no transaction; both emulators
	// must refuse it with the same exit code.
	var refusals []parity.Refusal
	config, err := cell.FromBOC(trace.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []*cell.Cell{cell.BeginCell().EndCell(), text, cell.BeginCell().MustStoreUInt(0x7369676e, 32).MustStoreSlice(make([]byte, 100), 800).EndCell()} {
		for _, a := range trace.Final[:3] {
			id, err := hex.DecodeString(a.ID)
			if err != nil {
				t.Fatal(err)
			}
			account, err := cell.FromBOC(a.Account)
			if err != nil {
				t.Fatal(err)
			}
			msg, err := tlb.ToCell(&tlb.ExternalMessage{DstAddr: addressOf(id), Body: body})
			if err != nil {
				t.Fatal(err)
			}
			req := tvm.EmulateRequest{Account: account, Message: msg, Config: config, Now: uint32(d.Now().Unix()), LT: 1 << 40}
			_, err = engine.Emulate(ctx, req)
			var refused *tvm.NotAcceptedError
			if !errors.As(err, &refused) {
				continue // it takes anything
			}
			refusals = append(refusals, parity.Refusal{ID: a.ID, Account: a.Account, Message: msg.ToBOCWithFlags(false), Now: req.Now,
				LT: req.LT, Seed: hex.EncodeToString(req.RandSeed[:]), ExitCode: refused.ExitCode})
		}
	}
	r, err := parity.Check(ctx, trace, refusals...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)
	if r.Transactions != len(trace.Steps) || r.Accounts != len(trace.Final) || r.Deploys < 3 || r.Bounced < 2 || r.Failed < 2 || r.Skipped < 2 || r.Refusals < 3 {
		t.Errorf("the history is too poor: %+v", *r)
	}

	// The comparison itself notices a difference.
	trace.Steps[2].Now++
	if _, err := parity.Check(ctx, trace); err == nil {
		t.Error("a transaction at another time compares equal")
	}
}
