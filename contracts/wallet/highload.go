package wallet

import (
	"crypto/ed25519"
	"fmt"
	"math/big"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/internal/fault"
)

const (
	// highloadSubwallet and highloadTTL are part of the wallet's address. The
	// contract takes a message from its creation for the TTL, and remembers
	// query ids for twice that.
	highloadSubwallet = 0x10ad
	highloadTTL       = 600
	// createdBefore lets a message count in a shard whose clock is behind the
	// masterchain's.
	createdBefore = 10
	// A query id is a shift of 13 bits and the number of a bit below 1023.
	bitsPerShift = 1023
	shifts       = 1 << 13
	// batchValue is what a batch sends to the wallet itself, for the gas of
	// handing out its messages; the rest stays where it is.
	batchValue = 50_000_000
	opBatch    = 0xae42e5a4
)

// highload is the wallet contract highload v3 (github.com/ton-blockchain/
// highload-wallet-contract-v3). One message goes out at once; several go as one
// action list in a message from the wallet to itself.
type highload struct {
	addr *address.Address
	init *tlb.StateInit
}

func newHighload(pub ed25519.PublicKey) (*highload, error) {
	version := wallet.ConfigHighloadV3{MessageTTL: highloadTTL}
	init, err := wallet.GetStateInit(pub, version, highloadSubwallet)
	if err != nil {
		return nil, fmt.Errorf("making a highload wallet: %w", err)
	}
	addr, err := wallet.AddressFromPubKey(pub, version, highloadSubwallet)
	if err != nil {
		return nil, fmt.Errorf("making a highload wallet: %w", err)
	}
	return &highload{addr.Bounce(false), init}, nil
}

// Address is the wallet's on chain.
func (a *highload) Address() *address.Address { return a.addr }

// sign gives each entry of the journal a query id of its own; ids come back
// after eight million, when the contract has long forgotten them.
func (a *highload) sign(key ed25519.PrivateKey, st *chain.State, number uint64, msgs []chain.Message) (*signed, error) {
	if len(msgs) == 0 || len(msgs) > chain.MaxMessages-1 {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.messages", "send 1 to 254 messages", "sending %d messages", len(msgs))
	}
	query := number / bitsPerShift % shifts << 10
	query |= number % bitsPerShift
	one := msgs[0]
	if len(msgs) > 1 {
		actions, err := chain.Actions(msgs, wallet.PayGasSeparately)
		if err != nil {
			return nil, err
		}
		one = chain.Message{To: a.addr, Nano: big.NewInt(batchValue),
			Body: cell.BeginCell().MustStoreUInt(opBatch, 32).MustStoreUInt(query, 64).MustStoreRef(actions).EndCell()}
	}
	out, err := one.Cell()
	if err != nil {
		return nil, err
	}
	created := st.Utime - createdBefore
	inner := cell.BeginCell().MustStoreUInt(highloadSubwallet, 32).MustStoreRef(out).
		MustStoreUInt(wallet.PayGasSeparately, 8).MustStoreUInt(query, 23).
		MustStoreUInt(uint64(created), 64).MustStoreUInt(highloadTTL, 22).EndCell()
	m := &tlb.ExternalMessage{DstAddr: a.addr,
		Body: cell.BeginCell().MustStoreSlice(inner.Sign(key), 512).MustStoreRef(inner).EndCell()}
	if st.Status != proof.Active {
		m.StateInit = a.init
	}
	return &signed{m, query, created + highloadTTL}, nil
}

// over: nothing but time ends a message's chances, since no other message can
// take its query id.
func (a *highload) over(st *chain.State, e *Entry) (State, bool, error) {
	return Expired, past(st, e), nil
}

// executed demands for a batch the second transaction, too.
func (a *highload) executed(tx *tlb.Transaction, later []*tlb.Transaction, st *chain.State, e *Entry) (*chain.Sent, error) {
	first, err := chain.NewSent(tx, st, 1)
	if err != nil || len(e.Payments) == 1 {
		return first, err
	}
	out, err := tx.IO.Out.ToSlice()
	if err != nil || len(out) != 1 || out[0].MsgType != tlb.MsgTypeInternal {
		return nil, fmt.Errorf("reading a batch's message: %v", err)
	}
	lt := out[0].AsInternal().CreatedLT
	for _, t := range later {
		if in := t.IO.In; in != nil && in.MsgType == tlb.MsgTypeInternal && in.AsInternal().CreatedLT == lt && in.AsInternal().SrcAddr.Equals(a.addr) {
			second, err := chain.NewSent(t, st, len(e.Payments))
			if err != nil {
				return nil, err
			}
			second.Fees.Add(second.Fees, first.Fees)
			return second, nil
		}
	}
	return nil, nil
}

func (*highload) parallel() bool { return true }
