// Package wallet pays in Toncoin so that a crash, a lost confirmation or a
// lite-server that lies costs nothing but time: every signed message is in a
// journal on disk before it leaves the process, it can be executed at most once
// (wallet v5 r1 by its seqno, highload v3 by its query id), and its fate is what
// the wallet's proven history says. A payment that may still be executed is
// never signed a second time.
//
// In: messages, and an id by which a caller names a payment; out: the
// transaction that executed them. The key is encrypted on disk, sums are capped,
// and a payment is executed in the embedded TVM before it is signed.
//
// The journal belongs to the key: with an older copy of it the caps and ids of
// what was paid since are forgotten. Never run one key in two directories.
package wallet

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
)

// Kind is a wallet contract.
type Kind string

// The wallet contracts. A highload wallet has many messages under way at once,
// which is what a gateway needs that serves many jobs.
const (
	V5R1     Kind = "v5r1"
	Highload Kind = "highload-v3"
)

// Options open a wallet.
type Options struct {
	// Dir holds key and journal. Required.
	Dir string
	// Sealer opens the key; nil opens a wallet that cannot sign.
	Sealer Sealer
	// Network and TVM execute; nil for a wallet that only tells what it did.
	Network chain.Network
	TVM     *tvm.Engine
}

// Wallet is an open wallet. It is safe for concurrent use; one process at a
// time has it open.
type Wallet struct {
	net     chain.Network
	engine  *tvm.Engine
	book    *book
	profile *profile
	key     ed25519.PrivateKey
	account account

	mu sync.Mutex // one payment after the other, but for highload wallets

	// crash, where set, is called between the steps of a payment; tests end the
	// wallet's life there.
	crash func(step string)
}

var _ chain.Sender = (*Wallet)(nil)

// account is what differs between the wallet contracts.
type account interface {
	Address() *address.Address
	// sign signs messages for the proven state; number is the entry's.
	sign(key ed25519.PrivateKey, st *chain.State, number uint64, msgs []chain.Message) (*signed, error)
	// over is whether an unexecuted entry provably stays so, and as what.
	over(st *chain.State, e *Entry) (State, bool, error)
	// executed reads the outcome from the transaction of the external message
	// and those after it; nil means that more has to happen.
	executed(tx *tlb.Transaction, later []*tlb.Transaction, st *chain.State, e *Entry) (*chain.Sent, error)
	// parallel is whether several messages may be under way.
	parallel() bool
}

type signed struct {
	message    *tlb.ExternalMessage
	slot       uint64
	validUntil uint32
}

// Create makes a key and a journal in an empty or new directory.
func Create(dir string, s Sealer, kind Kind, globalID int32, caps Caps) (*Wallet, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a wallet: %w", err)
	}
	if kind != V5R1 && kind != Highload {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.kind", "name "+string(V5R1)+" or "+string(Highload), "making a wallet of the kind %q", kind)
	}
	key, err := newKey(dir, s)
	if err != nil {
		return nil, err
	}
	b, err := openBook(dir)
	if err != nil {
		return nil, err
	}
	p := &profile{Kind: kind, PublicKey: hexbytes.Hash(key.Public().(ed25519.PublicKey)), GlobalID: globalID, Caps: caps}
	if err := b.setProfile(p); err != nil {
		return nil, errors.Join(err, b.db.Close())
	}
	w := &Wallet{book: b, profile: p, key: key}
	if w.account, err = newAccount(p); err != nil {
		return nil, errors.Join(err, b.db.Close())
	}
	return w, nil
}

func newAccount(p *profile) (account, error) {
	pub := ed25519.PublicKey(p.PublicKey[:])
	if p.Kind == Highload {
		return newHighload(pub)
	}
	v5, err := chain.NewV5(pub, p.GlobalID)
	if err != nil {
		return nil, err
	}
	return v5Account{v5}, nil
}

// Open opens the wallet in a directory.
func Open(o Options) (_ *Wallet, err error) {
	if _, err := os.Stat(o.Dir); err != nil {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.missing", "make one with `cocoon wallet new`", "opening a wallet: %w", err)
	}
	b, err := openBook(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.db.Close())
		}
	}()
	p, err := b.profile()
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.missing", "make one with `cocoon wallet new`", "opening a wallet: there is none in %s", o.Dir)
	}
	w := &Wallet{net: o.Network, engine: o.TVM, book: b, profile: p}
	if w.account, err = newAccount(p); err != nil {
		return nil, err
	}
	if o.Sealer != nil {
		if w.key, err = loadKey(o.Dir, o.Sealer); err != nil {
			return nil, err
		}
		if hexbytes.Hash(w.key.Public().(ed25519.PublicKey)) != p.PublicKey {
			return nil, errBadKey(errors.New("it is not the key of this journal"))
		}
	}
	return w, nil
}

// Close ends the wallet; payments under way stay in the journal.
func (w *Wallet) Close() error { return w.book.db.Close() }

// Address returns the wallet's address in non-bounceable form.
func (w *Wallet) Address() *address.Address { return w.account.Address() }

// Kind and GlobalID say what the wallet is, and of which network.
func (w *Wallet) Kind() Kind { return w.profile.Kind }

// GlobalID returns the id of the network that the wallet is for.
func (w *Wallet) GlobalID() int32 { return w.profile.GlobalID }

// Caps returns the wallet's caps.
func (w *Wallet) Caps() Caps { return w.profile.Caps }

// SetCaps replaces the caps.
func (w *Wallet) SetCaps(c Caps) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := *w.profile
	p.Caps = c
	if err := w.book.setProfile(&p); err != nil {
		return err
	}
	w.profile = &p
	return nil
}

// State returns the wallet's proven state.
func (w *Wallet) State(ctx context.Context) (*chain.State, error) {
	head, err := w.net.Head(ctx)
	if err != nil {
		return nil, err
	}
	st, err := w.net.AccountAt(ctx, head, w.account.Address())
	if err != nil {
		return nil, err
	}
	if st.GlobalID != w.profile.GlobalID {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.wallet.network", "network id", fmt.Sprint(w.profile.GlobalID), fmt.Sprint(st.GlobalID),
			"name the global.config.json of the wallet's network")
	}
	return st, nil
}

// Open returns the payments whose outcome is not known, oldest first.
func (w *Wallet) Open() ([]*Entry, error) { return w.book.open() }

// Entry returns a payment by its number.
func (w *Wallet) Entry(number uint64) (*Entry, error) { return w.book.entry(number) }

// History returns up to n payments, newest first.
func (w *Wallet) History(n int) ([]*Entry, error) { return w.book.newest(n) }

// digest names what is to be paid.
func digest(msgs []chain.Message) (hexbytes.Hash, []Payment, error) {
	var payments []Payment
	h := sha256.New()
	for _, m := range msgs {
		c, err := m.Cell()
		if err != nil {
			return hexbytes.Hash{}, nil, err
		}
		h.Write(c.Hash())
		to, err := toncell.FromAddr(m.To)
		if err != nil {
			return hexbytes.Hash{}, nil, err
		}
		if !m.Nano.IsUint64() {
			return hexbytes.Hash{}, nil, fault.New(fault.ExitInternal, "ton.wallet.message", "send less", "sending %s nanoton", m.Nano)
		}
		payments = append(payments, Payment{to, coin.Nano(m.Nano.Uint64())})
	}
	return hexbytes.Hash(h.Sum(nil)), payments, nil
}
