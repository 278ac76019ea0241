package chain

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/lite"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

// paramGlobalID is the config parameter with the network's id.
const paramGlobalID = 19

// Config returns the root of the network's config dictionary (hashmap 32
// ^Cell), proven at a fresh master block.
func (c *Client) Config(ctx context.Context) (*cell.Cell, error) {
	head, err := c.Head(ctx)
	if err != nil {
		return nil, err
	}
	return c.configAt(ctx, head)
}

func (c *Client) configAt(ctx context.Context, head ton.BlockIDExt) (*cell.Cell, error) {
	return ask(ctx, c, ton.GetConfigAll{BlockID: &head}, func(b []byte) (*cell.Cell, error) {
		blockBag, stateBag, err := lite.ConfigInfo(b)
		if err != nil {
			return nil, err
		}
		block, err := proof.DecodeBoC(blockBag, 1)
		if err != nil {
			return nil, err
		}
		state, err := proof.DecodeBoC(stateBag, 1)
		if err != nil {
			return nil, err
		}
		return proof.Config(&head, block[0], state[0])
	})
}

// GlobalID returns the network's id: -239 for mainnet, -3 for testnet.
func (c *Client) GlobalID(ctx context.Context) (int32, error) {
	cfg, err := c.Config(ctx)
	if err != nil {
		return 0, err
	}
	return globalID(cfg)
}

func globalID(cfg *cell.Cell) (int32, error) {
	p, err := proof.Param(cfg, paramGlobalID)
	if err != nil {
		return 0, proof.Refusal(err)
	}
	id, err := p.BeginParse().LoadInt(32)
	if err != nil {
		return 0, proof.Refusal(fmt.Errorf("%w: reading the global id: %w", proof.ErrInvalid, err))
	}
	return int32(id), nil
}

// RunGetMethod runs a get method of the account in the embedded TVM, on code
// and data proven at a fresh master block and with the network's own config.
// An exit code other than 0 and 1 is ton.method.failed; an account without code
// is ton.account.not_active.
func (c *Client) RunGetMethod(ctx context.Context, addr *address.Address, method string, args ...any) (*tvm.GetResult, error) {
	head, err := c.Head(ctx)
	if err != nil {
		return nil, err
	}
	st, err := c.AccountAt(ctx, head, addr)
	if err != nil {
		return nil, err
	}
	return c.RunGetMethodOn(ctx, st, method, args...)
}

// RunGetMethodOn is RunGetMethod on a state that was proven before.
func (c *Client) RunGetMethodOn(ctx context.Context, st *State, method string, args ...any) (*tvm.GetResult, error) {
	if st.Status != proof.Active || st.Code == nil {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.account.not_active", "state of the account", string(proof.Active), string(st.Status),
			"deploy the contract first")
	}
	engine, err := c.TVM(ctx)
	if err != nil {
		return nil, err
	}
	cfg, err := c.configAt(ctx, st.Master)
	if err != nil {
		return nil, err
	}
	data := st.Data
	if data == nil {
		data = cell.BeginCell().EndCell()
	}
	res, err := engine.RunGetMethod(ctx, tvm.GetRequest{Code: st.Code, Data: data, Config: cfg, Address: st.Address,
		Balance: st.Balance, Now: st.Utime, RandSeed: methodSeed(st), Method: method, Args: args})
	if err != nil {
		return nil, fmt.Errorf("running %s of %s: %w", method, st.Address, err)
	}
	if res.ExitCode != 0 && res.ExitCode != 1 {
		return nil, fault.Mismatch(fault.ExitRefused, "ton.method.failed", "exit code of "+method, "0 or 1", fmt.Sprint(res.ExitCode),
			"check the arguments and the contract's state")
	}
	return res, nil
}

// methodSeed fixes a get method's randomness to the block, so that two readers
// of one block get one answer.
func methodSeed(st *State) [32]byte {
	return sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("cocoon-get-method"), st.Master.RootHash...), st.LastLT))
}

// TVM returns the engine that get methods run in; Close ends it where the client
// opened it.
func (c *Client) TVM(ctx context.Context) (*tvm.Engine, error) {
	if c.opts.TVM != nil {
		return c.opts.TVM, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engine == nil {
		e, err := tvm.Open(ctx, tvm.Options{Dir: c.opts.TVMDir, Logger: c.log})
		if err != nil {
			return nil, err
		}
		c.engine = e
	}
	return c.engine, nil
}
