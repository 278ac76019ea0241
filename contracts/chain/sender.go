package chain

import (
	"context"

	"github.com/xssnick/tonutils-go/address"
)

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
