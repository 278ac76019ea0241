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
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/lite"
	"cocoon/contracts/chain/proof"
	"cocoon/internal/fault"
)

const (
	// messageTTL is how long a signed message stays valid, in chain time.
	messageTTL = 3 * time.Minute
	// maxWalletMessages is what one V5 message may carry.
	maxWalletMessages = 255
	// walletSendMode: pay fees separately, skip failing actions. The V5
	// contract demands the second of external messages; Send looks for skipped
	// actions afterwards.
	walletSendMode = wallet.PayGasSeparately + wallet.IgnoreErrors
)

// Wallet is a V5R1 wallet in workchain 0. Its methods may be called
// concurrently; messages go out one at a time, because each needs the seqno
// that the one before it leaves.
type Wallet struct {
	client   *Client
	key      ed25519.PrivateKey
	globalID int32
	addr     *address.Address
	init     *tlb.StateInit
	mu       sync.Mutex
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
	pub := key.Public().(ed25519.PublicKey)
	version := wallet.ConfigV5R1Final{NetworkGlobalID: id}
	init, err := wallet.GetStateInit(pub, version, 0)
	if err != nil {
		return nil, fmt.Errorf("making a wallet: %w", err)
	}
	addr, err := wallet.AddressFromPubKey(pub, version, 0)
	if err != nil {
		return nil, fmt.Errorf("making a wallet: %w", err)
	}
	return &Wallet{client: c, key: key, globalID: id, addr: addr, init: init}, nil
}

// Address returns the wallet's address in non-bounceable form.
func (w *Wallet) Address() *address.Address { return w.addr.Bounce(false) }

// State returns the wallet's proven state.
func (w *Wallet) State(ctx context.Context) (*State, error) { return w.client.Account(ctx, w.addr) }

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
	st, err := w.client.Account(ctx, w.addr)
	if err != nil {
		return nil, err
	}
	if st.Status == proof.Absent || st.Balance.Sign() == 0 {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.wallet.empty", "balance of "+w.Address().String(), "some nanotons", "none",
			"fund the wallet first; on a devnet: cocoon devnet faucet --to "+w.Address().String()+" --amount 10")
	}
	ext, err := w.external(st, msgs)
	if err != nil {
		return nil, err
	}
	if err := w.client.Send(ctx, ext); err != nil {
		return nil, err
	}
	tx, after, err := w.client.waitExternal(ctx, w.addr, st, ext)
	if err != nil {
		return nil, err
	}
	return w.sent(tx, after, len(msgs))
}

// external builds the signed message (wallet v5 r1: op, wallet id, valid until,
// seqno, actions, signature over the hash of what precedes it).
func (w *Wallet) external(st *State, msgs []Message) (*tlb.ExternalMessage, error) {
	if len(msgs) == 0 || len(msgs) > maxWalletMessages {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.messages", "send 1 to 255 messages", "sending %d messages", len(msgs))
	}
	ext := &tlb.ExternalMessage{DstAddr: w.addr}
	var seqno uint64
	if st.Status == proof.Active {
		data := st.Data.BeginParse()
		_, err1 := data.LoadBoolBit()
		var err2 error
		seqno, err2 = data.LoadUInt(32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("reading the wallet's seqno: %w", err)
		}
	} else {
		ext.StateInit = w.init
	}
	actions := cell.BeginCell().EndCell()
	for _, m := range msgs {
		out, err := m.cell()
		if err != nil {
			return nil, err
		}
		actions = cell.BeginCell().MustStoreRef(actions).MustStoreUInt(0x0ec3c86d, 32). // action_send_msg
												MustStoreUInt(walletSendMode, 8).MustStoreRef(out).EndCell()
	}
	id := wallet.V5R1ID{NetworkGlobalID: w.globalID}
	body := cell.BeginCell().MustStoreUInt(0x7369676e, 32).MustStoreUInt(uint64(id.Serialized()), 32).
		// The chain's clock counts, not this machine's.
		MustStoreUInt(uint64(st.Utime)+uint64(messageTTL/time.Second), 32).
		MustStoreUInt(seqno, 32).
		MustStoreBoolBit(true).MustStoreRef(actions).MustStoreBoolBit(false)
	sig := body.EndCell().Sign(w.key)
	ext.Body = cell.BeginCell().MustStoreBuilder(body).MustStoreSlice(sig, 512).EndCell()
	return ext, nil
}

func (m *Message) cell() (*cell.Cell, error) {
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

// sent checks that every message went out.
func (w *Wallet) sent(tx *tlb.Transaction, after *State, want int) (*Sent, error) {
	d, ok := tx.Description.(tlb.TransactionDescriptionOrdinary)
	if !ok || d.ActionPhase == nil || !d.ActionPhase.Success || d.ActionPhase.SkippedActions != 0 || int(tx.OutMsgCount) != want {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.wallet.skipped", "messages that the wallet sent", fmt.Sprint(want),
			fmt.Sprint(tx.OutMsgCount), "check that its balance covers the amounts and the fees")
	}
	s := &Sent{Transaction: tx, State: after, Fees: new(big.Int).Set(tx.TotalFees.Coins.Nano())}
	if d.ActionPhase.TotalFwdFees != nil {
		s.Fees.Add(s.Fees, d.ActionPhase.TotalFwdFees.Nano())
		if d.ActionPhase.TotalActionFees != nil {
			// The action fees are the collected part of the forward fees and
			// are in the total already.
			s.Fees.Sub(s.Fees, d.ActionPhase.TotalActionFees.Nano())
		}
	}
	return s, nil
}

// Send hands an external message to a lite-server. A message that its contract
// does not accept is ton.message.not_accepted; acceptance here is no proof of
// execution.
func (c *Client) Send(ctx context.Context, ext *tlb.ExternalMessage) error {
	msg, err := tlb.ToCell(ext)
	if err != nil {
		return fmt.Errorf("writing an external message: %w", err)
	}
	status, err := ask(ctx, c, ton.SendMessage{Body: msg.ToBOCWithFlags(false)}, lite.SendStatus)
	var ls *lite.Error
	if errors.As(err, &ls) && strings.Contains(ls.Text, "not accepted") {
		return fault.New(fault.ExitRefused, "ton.message.not_accepted", "check signature, seqno, expiry and balance",
			"sending an external message to %s: %w", ext.DstAddr, ls)
	}
	if err != nil {
		return err
	}
	if status != 1 {
		return fault.Mismatch(fault.ExitRefused, "ton.message.not_accepted", "status of an external message", "1", fmt.Sprint(status), "")
	}
	return nil
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
		if txs, failed = c.Transactions(ctx, addr, st, maxTransactions); failed != nil {
			return true
		}
		for _, tx := range txs {
			if tx.LT <= before.LastLT {
				break
			}
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
