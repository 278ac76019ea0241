package chain

import (
	"context"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Network is what paying needs of a chain: proven accounts, their history, the
// config, and a way in for messages. Client is the one over lite-servers.
type Network interface {
	// Head is a fresh, proven master block; Wait one of at least this seqno.
	Head(ctx context.Context) (ton.BlockIDExt, error)
	Wait(ctx context.Context, seqno uint32) (ton.BlockIDExt, error)
	// AccountAt is the account's proven state at such a block.
	AccountAt(ctx context.Context, master ton.BlockIDExt, addr *address.Address) (*State, error)
	// Transactions are the newest n up to a proven state, newest first.
	Transactions(ctx context.Context, addr *address.Address, st *State, n int) ([]*tlb.Transaction, error)
	// Config is the root of the network's proven config dictionary.
	Config(ctx context.Context) (*cell.Cell, error)
	// Send hands an external message to the network; see Client.Send.
	Send(ctx context.Context, ext *tlb.ExternalMessage) error
}

var _ Network = (*Client)(nil)

// Sender pays and calls contracts: a Wallet here, or one of package wallet that
// keeps a journal, caps and an encrypted key around it. Code that only has to
// pay takes this.
type Sender interface {
	// Address is where the sender's own coins are, in non-bounceable form.
	Address() *address.Address
	// State is the proven state of that account.
	State(ctx context.Context) (*State, error)
	// Send pays out all messages and returns when the wallet has executed
	// that; see Wallet.Send.
	Send(ctx context.Context, msgs ...Message) (*Sent, error)
}

var _ Sender = (*Wallet)(nil)
