package toncell

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/fault"
)

// StateInit returns the StateInit of code and data and the basechain address
// that it deploys to: the hash of its cell.
func StateInit(code, data *cell.Cell) (*tlb.StateInit, Address, error) {
	si := &tlb.StateInit{Code: code, Data: data}
	c, err := tlb.ToCell(si)
	if err != nil {
		return nil, Address{}, fmt.Errorf("building a state init: %w", err)
	}
	return si, Address{Hash: [32]byte(c.Hash())}, nil
}

// CheckCode refuses an account's code that is not the expected contract's.
func CheckCode(name string, want, got *cell.Cell) error {
	actual := "none"
	if got != nil {
		if bytes.Equal(want.Hash(), got.Hash()) {
			return nil
		}
		actual = hex.EncodeToString(got.Hash())
	}
	return fault.Mismatch(fault.ExitRefused, "contract.code_hash", "the "+name+"'s code hash",
		hex.EncodeToString(want.Hash()), actual, "the address is not a "+name+" of this version; check the address")
}
