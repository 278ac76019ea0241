package chain

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/lite"
	"cocoon/contracts/chain/proof"
	"cocoon/internal/fault"
)

// Wallet is a bare V5R1 wallet in workchain 0: it keeps nothing, so a payment
// whose confirmation was lost is the caller's to find out about. Package wallet
// has the one for money that matters. Its methods may be called concurrently;
// messages go out one at a time, because each needs the seqno that the one
// before it leaves.
type Wallet struct {
	*V5
	client *Client
	key    ed25519.PrivateKey
	mu     sync.Mutex
}

// Message is one internal message that a wallet sends.
type Message struct {
	To     *address.Address
	Nano   *big.Int
	Bounce bool
	Body   *cell.Cell     // nil for an empty body
	Init   *tlb.StateInit // nil unless it deploys To
}

// Sent is a wallet message on chain.
type Sent struct {
	// Transaction is the wallet's own; the messages it sent are executed in
	// this block or later ones.
	Transaction *tlb.Transaction
	// State is the wallet's state with the transaction in its history.
	State *State
	// Fees are what the wallet paid beyond the messages' values, in nanoton.
	Fees *big.Int
}

// Wallet returns the V5R1 wallet of a key. The network's id, which the address
// depends on, comes from the proven config.
func (c *Client) Wallet(ctx context.Context, key ed25519.PrivateKey) (*Wallet, error) {
	id, err := c.GlobalID(ctx)
	if err != nil {
		return nil, err
	}
	v5, err := NewV5(key.Public().(ed25519.PublicKey), id)
	if err != nil {
		return nil, err
	}
	return &Wallet{V5: v5, client: c, key: key}, nil
}

// State returns the wallet's proven state.
func (w *Wallet) State(ctx context.Context) (*State, error) {
	return w.client.Account(ctx, w.Address())
}

// Deploy sends a message that deploys a contract with this initial state and
// returns its address. Value and body go along.
func (w *Wallet) Deploy(ctx context.Context, init *tlb.StateInit, nano *big.Int, body *cell.Cell) (*address.Address, *Sent, error) {
	to, err := ContractAddress(init)
	if err != nil {
		return nil, nil, err
	}
	sent, err := w.Send(ctx, Message{To: to, Nano: nano, Body: body, Init: init})
	return to, sent, err
}

// ContractAddress returns the address in workchain 0 of a contract with this
// initial state.
func ContractAddress(init *tlb.StateInit) (*address.Address, error) {
	c, err := tlb.ToCell(init)
	if err != nil {
		return nil, fmt.Errorf("computing a contract's address: %w", err)
	}
	return address.NewAddress(0, 0, c.Hash()), nil
}

// Send signs one external message with all the given messages, sends it, and
// returns when the wallet has executed it; the wallet deploys itself at its
// first message. A message that the wallet skipped is ton.wallet.skipped, an
// empty wallet ton.wallet.empty, no confirmation until ctx ends
// ton.wait.timeout.
func (w *Wallet) Send(ctx context.Context, msgs ...Message) (*Sent, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st, err := w.client.Account(ctx, w.Address())
	if err != nil {
		return nil, err
	}
	if st.Status == proof.Absent || st.Balance.Sign() == 0 {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.wallet.empty", "balance of "+w.Address().String(), "some nanotons", "none",
			"fund the wallet first; on a devnet: cocoon devnet faucet --to "+w.Address().String()+" --amount 10")
	}
	signed, err := w.Sign(w.key, st, msgs...)
	if err != nil {
		return nil, err
	}
	if err := w.client.Send(ctx, signed.Message); err != nil {
		return nil, err
	}
	tx, after, err := w.client.waitExternal(ctx, w.Address(), st, signed.Message)
	if err != nil {
		return nil, err
	}
	return NewSent(tx, after, len(msgs))
}

// Cell writes the message as a wallet sends it.
func (m *Message) Cell() (*cell.Cell, error) {
	if m.To == nil || m.To.Type() != address.StdAddress || m.Nano == nil || m.Nano.Sign() < 0 || m.Nano.BitLen() > 120 {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.message", "name a standard address and an amount", "building a message: bad address or amount")
	}
	body := m.Body
	if body == nil {
		body = cell.BeginCell().EndCell()
	}
	c, err := tlb.ToCell(&tlb.InternalMessage{IHRDisabled: true, Bounce: m.Bounce, DstAddr: m.To,
		Amount: tlb.FromNanoTON(m.Nano), StateInit: m.Init, Body: body})
	if err != nil {
		return nil, fmt.Errorf("building a message: %w", err)
	}
	return c, nil
}

// codeNotAccepted is no fault of the server that says it, if it is true.
const codeNotAccepted = "ton.message.not_accepted"

// Send hands an external message to the lite-servers, until one takes it. A
// message that its contract does not accept is ton.message.not_accepted. Neither
// answer proves anything: what was executed, the history shows.
func (c *Client) Send(ctx context.Context, ext *tlb.ExternalMessage) error {
	msg, err := tlb.ToCell(ext)
	if err != nil {
		return fmt.Errorf("writing an external message: %w", err)
	}
	q := ton.SendMessage{Body: msg.ToBOCWithFlags(false)}
	return c.each(ctx, 0, func(ctx context.Context, m *member) error {
		status, err := askOne(ctx, m, q, lite.SendStatus)
		var ls *lite.Error
		if errors.As(err, &ls) && strings.Contains(ls.Text, "not accepted") {
			return fault.New(fault.ExitRefused, codeNotAccepted, "check signature, seqno, expiry and balance",
				"sending an external message to %s: %w", ext.DstAddr, ls)
		}
		if err == nil && status != 1 {
			err = fault.Mismatch(fault.ExitRefused, codeNotAccepted, "status of an external message", "1", fmt.Sprint(status), "")
		}
		return err
	})
}

// SendWait sends an external message and returns the transaction that executed
// it, and the account's state after that.
func (c *Client) SendWait(ctx context.Context, ext *tlb.ExternalMessage) (*tlb.Transaction, *State, error) {
	before, err := c.Account(ctx, ext.DstAddr)
	if err != nil {
		return nil, nil, err
	}
	if err := c.Send(ctx, ext); err != nil {
		return nil, nil, err
	}
	return c.waitExternal(ctx, ext.DstAddr, before, ext)
}

// waitExternal looks for the transaction among those after the state before.
func (c *Client) waitExternal(ctx context.Context, addr *address.Address, before *State, ext *tlb.ExternalMessage) (*tlb.Transaction, *State, error) {
	seen := before.LastLT
	var found *tlb.Transaction
	var failed error
	st, err := c.WaitAccount(ctx, addr, func(st *State) bool {
		if st.LastLT == seen {
			return false
		}
		var txs []*tlb.Transaction
		if txs, failed = c.transactionsAfter(ctx, addr, st, seen, maxTransactions); failed != nil {
			return true
		}
		for _, tx := range txs {
			if tx.IO.In != nil && tx.IO.In.MsgType == tlb.MsgTypeExternalIn && bytes.Equal(tx.IO.In.AsExternalIn().Body.Hash(), ext.Body.Hash()) {
				found = tx
				return true
			}
		}
		seen = st.LastLT
		return false
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, nil, err
	}
	return found, st, nil
}
