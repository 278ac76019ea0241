package chain

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/proof"
	"cocoon/internal/fault"
)

const (
	// MessageTTL is how long a signed message stays valid, in chain time.
	MessageTTL = 3 * time.Minute
	// MaxMessages is what one message of a wallet may carry.
	MaxMessages = 255
	// walletSendMode: pay fees separately, skip failing actions. The V5
	// contract demands the second of external messages; NewSent looks for
	// skipped actions afterwards.
	walletSendMode = wallet.PayGasSeparately + wallet.IgnoreErrors
)

// V5 is the wallet contract v5 r1 of one public key in workchain 0 of one
// network. It signs; it does not send.
type V5 struct {
	globalID int32
	addr     *address.Address
	init     *tlb.StateInit
}

// NewV5 returns the wallet of a key on the network with this id.
func NewV5(pub ed25519.PublicKey, globalID int32) (*V5, error) {
	version := wallet.ConfigV5R1Final{NetworkGlobalID: globalID}
	init, err := wallet.GetStateInit(pub, version, 0)
	if err != nil {
		return nil, fmt.Errorf("making a wallet: %w", err)
	}
	addr, err := wallet.AddressFromPubKey(pub, version, 0)
	if err != nil {
		return nil, fmt.Errorf("making a wallet: %w", err)
	}
	return &V5{globalID: globalID, addr: addr, init: init}, nil
}

// Address returns the wallet's address in non-bounceable form.
func (w *V5) Address() *address.Address { return w.addr.Bounce(false) }

// Signed is a signed message of a wallet. The contract executes it at most
// once: while its seqno is Seqno, and not after ValidUntil.
type Signed struct {
	Message    *tlb.ExternalMessage
	Seqno      uint32
	ValidUntil uint32 // Unix time of the chain
}

// Seqno reads the seqno of the wallet's proven state: 0 before its first
// message.
func (w *V5) Seqno(st *State) (uint32, error) {
	if st.Status != proof.Active || st.Data == nil {
		return 0, nil
	}
	data := st.Data.BeginParse()
	_, err1 := data.LoadBoolBit()
	seqno, err2 := data.LoadUInt(32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("reading the wallet's seqno: %w", err)
	}
	return uint32(seqno), nil
}

// Sign signs one external message with all the given messages for the wallet's
// proven state; it deploys the wallet if that has no code yet. (wallet v5 r1:
// op, wallet id, valid until, seqno, actions, signature over the hash of what
// precedes it.)
func (w *V5) Sign(key ed25519.PrivateKey, st *State, msgs ...Message) (*Signed, error) {
	if len(msgs) == 0 || len(msgs) > MaxMessages {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.messages", "send 1 to 255 messages", "sending %d messages", len(msgs))
	}
	seqno, err := w.Seqno(st)
	if err != nil {
		return nil, err
	}
	// The chain's clock counts, not this machine's.
	s := &Signed{Message: &tlb.ExternalMessage{DstAddr: w.addr}, Seqno: seqno, ValidUntil: st.Utime + uint32(MessageTTL/time.Second)}
	if st.Status != proof.Active {
		s.Message.StateInit = w.init
	}
	actions, err := Actions(msgs, walletSendMode)
	if err != nil {
		return nil, err
	}
	id := wallet.V5R1ID{NetworkGlobalID: w.globalID}
	body := cell.BeginCell().MustStoreUInt(0x7369676e, 32).MustStoreUInt(uint64(id.Serialized()), 32).
		MustStoreUInt(uint64(s.ValidUntil), 32).
		MustStoreUInt(uint64(seqno), 32).
		MustStoreBoolBit(true).MustStoreRef(actions).MustStoreBoolBit(false)
	sig := body.EndCell().Sign(key)
	s.Message.Body = cell.BeginCell().MustStoreBuilder(body).MustStoreSlice(sig, 512).EndCell()
	return s, nil
}

// Actions writes messages as an action list (TL-B OutList), each with this mode.
func Actions(msgs []Message, mode uint8) (*cell.Cell, error) {
	actions := cell.BeginCell().EndCell()
	for _, m := range msgs {
		out, err := m.Cell()
		if err != nil {
			return nil, err
		}
		actions = cell.BeginCell().MustStoreRef(actions).MustStoreUInt(0x0ec3c86d, 32). // action_send_msg
												MustStoreUInt(uint64(mode), 8).MustStoreRef(out).EndCell()
	}
	return actions, nil
}

// NewSent checks that a wallet's transaction sent every message and adds up what
// it cost; a message that was skipped is ton.wallet.skipped.
func NewSent(tx *tlb.Transaction, after *State, want int) (*Sent, error) {
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
