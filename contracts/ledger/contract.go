package ledger

import (
	"context"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/coin"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// kind is one of the contracts whose address commits to its terms.
type kind[S any] struct {
	name      string // in sentences
	code      string // of the refusal of another address
	remedy    string
	checkCode func(*cell.Cell) error
	decode    func(*cell.Cell) (*S, error)
	address   func(*S) (toncell.Address, error) // of the state's own terms
}

// of decodes a proven account as a contract of this version. The address must
// be that of the state's own terms: anyone can deploy the code with data of his
// making, but only at another address.
func (k kind[S]) of(st *chain.State, addr toncell.Address) (*S, error) {
	if err := active(st, k.name); err != nil {
		return nil, err
	}
	if err := k.checkCode(st.Code); err != nil {
		return nil, err
	}
	forged := func(err error) error {
		return fault.New(fault.ExitRefused, k.code, k.remedy, "reading the %s %s: %w", k.name, addr, err)
	}
	s, err := k.decode(st.Data)
	if err != nil {
		return nil, forged(err)
	}
	own, err := k.address(s)
	if err != nil {
		return nil, forged(err)
	}
	if own != addr {
		return nil, fault.Mismatch(fault.ExitRefused, k.code, "the address of the "+k.name+"'s terms", own.String(), addr.String(), k.remedy)
	}
	return s, nil
}

func active(st *chain.State, what string) error {
	if st.Status == proof.Active && st.Code != nil && st.Data != nil {
		return nil
	}
	return fault.Mismatch(fault.ExitRefused, "contract.not_active", "the "+what+"'s account", string(proof.Active), string(st.Status),
		"check the address and the network; the contract is not deployed there")
}

// deploy sends the message that deploys a contract, or finds it deployed.
func (l *Ledger) deploy(ctx context.Context, w chain.Sender, what string, from interface {
	StateInit() (*tlb.StateInit, toncell.Address, error)
}, value coin.Nano, body *cell.Cell) (toncell.Address, *Tx, error) {
	init, addr, err := from.StateInit()
	if err != nil {
		return addr, nil, err
	}
	m := message(addr, value, body)
	m.Init = init
	tx, _, err := l.call(ctx, w, what, m)
	if err != nil {
		return addr, tx, err
	}
	l.log.Info("contract called with its code", "what", what, "address", addr.String(), "value", value.String())
	return addr, tx, nil
}
