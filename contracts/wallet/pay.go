package wallet

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/coin"
	"cocoon/internal/fault"
)

const (
	// expiryMargin is how far the chain's proven time must be past a message's
	// end before it counts as dead: shards may lag behind the masterchain that
	// proves them.
	expiryMargin = 60
	// resendEvery is how many blocks pass before an unconfirmed message is sent
	// again, in case that it was lost.
	resendEvery = 20
	// historyPage and historyPages bound the search for a message.
	historyPage  = 256
	historyPages = 64
	// A payment without an id is taken up again for an hour: after that, equal
	// messages are another payment.
	adoptFor    = 3600
	adoptWindow = 256
	// MaxID bounds a caller's id, in bytes.
	MaxID = 128
)

// Send pays without an id. A payment of exactly these messages that is under
// way, or whose outcome no caller has learned, is taken up instead of made
// again; one whose outcome was returned is made again, because that is what two
// equal calls mean. Whoever cannot tell the two apart after a crash uses Pay.
func (w *Wallet) Send(ctx context.Context, msgs ...chain.Message) (*chain.Sent, error) {
	sent, _, err := w.pay(ctx, "", msgs)
	return sent, err
}

// Pay pays under an id of the caller's, at most once however often it is called
// with it: a payment that was made is returned, one under way is waited for, and
// only one that provably was not and cannot be executed any more is made anew.
// The same id with other messages is ton.wallet.id_used.
//
// The wallet's caps are ton.wallet.cap_day and ton.wallet.cap_job, an empty
// wallet ton.wallet.empty, a payment that the local execution refuses
// ton.wallet.dry_run; none of these signs anything. An error after the signing
// leaves the payment in the journal: ask again with the same id.
func (w *Wallet) Pay(ctx context.Context, id string, msgs ...chain.Message) (*chain.Sent, *Entry, error) {
	if id == "" || len(id) > MaxID {
		return nil, nil, fault.New(fault.ExitInternal, "ton.wallet.id", fmt.Sprintf("name one of 1 to %d bytes", MaxID), "paying: bad id")
	}
	return w.pay(ctx, id, msgs)
}

func (w *Wallet) pay(ctx context.Context, id string, msgs []chain.Message) (*chain.Sent, *Entry, error) {
	if w.key == nil || w.net == nil || w.engine == nil {
		return nil, nil, errors.New("paying: the wallet is open for reading only")
	}
	sum, payments, err := digest(msgs)
	if err != nil {
		return nil, nil, err
	}
	w.mu.Lock()
	locked := true
	unlock := func() {
		if locked {
			w.mu.Unlock()
			locked = false
		}
	}
	defer unlock()
	e, err := w.known(ctx, id, sum[:])
	if err != nil {
		return nil, nil, err
	}
	if e == nil {
		if !w.account.parallel() {
			// A message under way has the seqno that this one would get.
			if err := w.settleAll(ctx); err != nil {
				return nil, nil, err
			}
		}
		if e, err = w.enter(ctx, id, sum[:], payments, msgs); err != nil {
			return nil, nil, err
		}
	}
	if w.account.parallel() {
		unlock()
	}
	return w.finish(ctx, e)
}

// known returns the entry that this call is about if there is one already.
func (w *Wallet) known(ctx context.Context, id string, sum []byte) (*Entry, error) {
	if id != "" {
		e, err := w.book.byID(id)
		if err != nil || e == nil {
			return nil, err
		}
		if !bytes.Equal(e.Digest[:], sum) {
			return nil, fault.New(fault.ExitRefused, "ton.wallet.id_used", "name another id", "paying %q: that id stands for another payment", id)
		}
		if !e.counts() {
			return nil, nil
		}
		return e, nil
	}
	st, err := w.State(ctx)
	if err != nil {
		return nil, err
	}
	es, err := w.book.newest(adoptWindow)
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		if uint64(e.Signed)+adoptFor > uint64(st.Utime) && e.ID == "" && !e.Told && e.counts() && bytes.Equal(e.Digest[:], sum) {
			return e, nil
		}
	}
	return nil, nil
}

// enter executes the payment locally, signs it, and writes it to the journal.
func (w *Wallet) enter(ctx context.Context, id string, sum []byte, payments []Payment, msgs []chain.Message) (*Entry, error) {
	st, err := w.State(ctx)
	if err != nil {
		return nil, err
	}
	if st.Status == proof.Absent || st.Balance.Sign() == 0 {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.wallet.empty", "balance of "+w.Address().String(), "some nanotons", "none",
			"fund the wallet first; on a devnet: cocoon devnet faucet --to "+w.Address().String()+" --amount 10")
	}
	e := &Entry{ID: id, Digest: [32]byte(sum), State: Signed, Payments: payments, Signed: st.Utime, Since: st.LastLT}
	var s *signed
	err = w.book.add(e, w.profile.Caps, func(number uint64) error {
		if s, err = w.account.sign(w.key, st, number, msgs); err != nil {
			return err
		}
		if err := w.rehearse(ctx, st, s, len(msgs)); err != nil {
			return err
		}
		c, err := tlb.ToCell(s.message)
		if err != nil {
			return fmt.Errorf("writing a message: %w", err)
		}
		e.Message, e.Body = c.ToBOC(), [32]byte(s.message.Body.Hash())
		e.Slot, e.ValidUntil = s.slot, s.validUntil
		return nil
	})
	if err != nil {
		return nil, err
	}
	w.step("journaled")
	return e, nil
}

func (w *Wallet) step(name string) {
	if w.crash != nil {
		w.crash(name)
	}
}

// finish waits until the entry's fate is proven and tells it.
func (w *Wallet) finish(ctx context.Context, e *Entry) (*chain.Sent, *Entry, error) {
	sent, err := w.settle(ctx, e)
	if e.State != Signed && !e.Told {
		e.Told = true
		if err2 := w.book.settle(e); err2 != nil {
			return nil, e, errors.Join(err, err2)
		}
	}
	return sent, e, err
}

// Recover settles all payments that a former process left under way: it sends
// them again and waits until they are executed or dead.
func (w *Wallet) Recover(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settleAll(ctx)
}

// settleAll settles every open entry. How one ended is no error here: its own
// caller asks for it.
func (w *Wallet) settleAll(ctx context.Context) error {
	open, err := w.book.open()
	if err != nil {
		return err
	}
	for _, e := range open {
		if _, err := w.settle(ctx, e); err != nil && e.State == Signed {
			return err
		}
	}
	return nil
}

// settle sends a signed entry, again if need be, until the wallet's proven
// history shows its transaction or that there will be none.
func (w *Wallet) settle(ctx context.Context, e *Entry) (*chain.Sent, error) {
	head, err := w.net.Head(ctx)
	for round := 0; ; round++ {
		if err != nil {
			return nil, w.pending(e, err)
		}
		st, err2 := w.net.AccountAt(ctx, head, w.account.Address())
		if err2 != nil {
			return nil, w.pending(e, err2)
		}
		sent, err2 := w.look(ctx, st, e)
		if err2 != nil && e.State == Signed {
			return nil, w.pending(e, err2)
		}
		if e.State != Signed {
			return sent, err2
		}
		if round%resendEvery == 0 {
			if err := w.resend(ctx, e); err != nil {
				return nil, w.pending(e, err)
			}
			w.step("sent")
		}
		head, err = w.net.Wait(ctx, head.SeqNo+1)
	}
}

func (w *Wallet) pending(e *Entry, err error) error {
	return fault.New(fault.ExitNetwork, "ton.wallet.pending", "ask again with the same id, or run `cocoon wallet settle`; it is never paid twice",
		"waiting for payment %d, which may still be executed until %d: %w", e.Number, e.ValidUntil, err)
}

func (w *Wallet) resend(ctx context.Context, e *Entry) error {
	c, err := cell.FromBOC(e.Message)
	if err != nil {
		return corrupt(err)
	}
	var m tlb.ExternalMessage
	if err := tlb.LoadFromCell(&m, c.BeginParse()); err != nil {
		return corrupt(err)
	}
	err = w.net.Send(ctx, &m)
	if fault.Has(err, "ton.message.not_accepted") || fault.Has(err, "ton.server.error") {
		// One server's word. It may have been executed a moment ago; the proven
		// history decides.
		return nil
	}
	return err
}

// look reads the entry's fate from the proven state and its history.
func (w *Wallet) look(ctx context.Context, st *chain.State, e *Entry) (*chain.Sent, error) {
	if e.State == Done {
		return w.recall(ctx, st, e)
	}
	tx, later, err := w.find(ctx, st, e)
	if err != nil {
		return nil, err
	}
	if tx == nil {
		if e.State != Signed {
			return nil, unpaid(e)
		}
		state, over, err := w.account.over(st, e)
		if err != nil || !over {
			return nil, err
		}
		e.State = state
		if err := w.book.settle(e); err != nil {
			return nil, err
		}
		return nil, unpaid(e)
	}
	sent, err := w.account.executed(tx, later, st, e)
	if sent == nil && err == nil {
		return nil, nil // under way
	}
	if e.State == Signed {
		w.step("confirmed")
		e.State, e.LT, e.Transaction, e.At = Done, tx.LT, [32]byte(tx.Hash), tx.Now
		if err != nil {
			e.State = Skipped
		} else if sent.Fees.IsUint64() {
			e.Fees = coin.Nano(sent.Fees.Uint64())
		}
		if err := w.book.settle(e); err != nil {
			return nil, err
		}
	}
	return sent, err
}

// recall fetches the transaction of a payment that was made.
func (w *Wallet) recall(ctx context.Context, st *chain.State, e *Entry) (*chain.Sent, error) {
	cursor := *st
	cursor.LastLT, cursor.LastHash = e.LT, e.Transaction[:]
	txs, err := w.net.Transactions(ctx, w.account.Address(), &cursor, 1)
	if err != nil {
		return nil, err
	}
	if len(txs) != 1 {
		return nil, fault.New(fault.ExitNetwork, "ton.wallet.history", "ask a lite-server that keeps more", "fetching the transaction of payment %d", e.Number)
	}
	return &chain.Sent{Transaction: txs[0], State: st, Fees: e.Fees.Big()}, nil
}

func unpaid(e *Entry) error {
	if e.State == Skipped {
		return fault.New(fault.ExitRefused, "ton.wallet.skipped", "check the balance and pay again", "waiting for payment %d: not everything went out", e.Number)
	}
	if e.State == Replaced {
		return fault.New(fault.ExitRefused, "ton.wallet.replaced", "pay again; and find out who else uses the key",
			"waiting for payment %d: another message took its seqno", e.Number)
	}
	return fault.New(fault.ExitNetwork, "ton.wallet.expired", "pay again", "waiting for payment %d: it was not executed in its time", e.Number)
}

// find searches the history from the proven state back to where the entry was
// signed, and returns its transaction and the later ones, oldest first.
func (w *Wallet) find(ctx context.Context, st *chain.State, e *Entry) (*tlb.Transaction, []*tlb.Transaction, error) {
	cursor := *st
	var later []*tlb.Transaction
	for range historyPages {
		if cursor.LastLT <= e.Since {
			return nil, later, nil
		}
		txs, err := w.net.Transactions(ctx, w.account.Address(), &cursor, historyPage)
		if err != nil {
			return nil, nil, err
		}
		if len(txs) == 0 {
			return nil, nil, fault.New(fault.ExitNetwork, "ton.wallet.history", "ask another lite-server", "reading the wallet's history: it ends at %d", cursor.LastLT)
		}
		for _, tx := range txs {
			if tx.LT <= e.Since {
				return nil, later, nil
			}
			if in := tx.IO.In; in != nil && in.MsgType == tlb.MsgTypeExternalIn && bytes.Equal(in.AsExternalIn().Body.Hash(), e.Body[:]) {
				return tx, later, nil
			}
			later = append([]*tlb.Transaction{tx}, later...)
			cursor.LastLT, cursor.LastHash = tx.PrevTxLT, tx.PrevTxHash
		}
	}
	return nil, nil, fault.New(fault.ExitNetwork, "ton.wallet.history", "pay from this wallet less often than it is paid", "searching the wallet's history: it is too long")
}
