package wallet

import (
	"crypto/ed25519"

	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/contracts/chain"
)

// v5Account is the wallet contract v5 r1.
type v5Account struct{ *chain.V5 }

func (a v5Account) sign(key ed25519.PrivateKey, st *chain.State, _ uint64, msgs []chain.Message) (*signed, error) {
	s, err := a.Sign(key, st, msgs...)
	if err != nil {
		return nil, err
	}
	return &signed{s.Message, uint64(s.Seqno), s.ValidUntil}, nil
}

// over: the contract takes a message while its seqno is the message's and the
// time is not past its end.
func (a v5Account) over(st *chain.State, e *Entry) (State, bool, error) {
	seqno, err := a.Seqno(st)
	switch {
	case err != nil:
		return Signed, false, err
	case uint64(seqno) > e.Slot:
		return Replaced, true, nil
	}
	return Expired, past(st, e), nil
}

func past(st *chain.State, e *Entry) bool {
	return uint64(st.Utime) > uint64(e.ValidUntil)+expiryMargin
}

func (a v5Account) executed(tx *tlb.Transaction, _ []*tlb.Transaction, st *chain.State, e *Entry) (*chain.Sent, error) {
	return chain.NewSent(tx, st, len(e.Payments))
}

func (v5Account) parallel() bool { return false }
