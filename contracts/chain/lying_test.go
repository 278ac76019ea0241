package chain_test

import (
	"encoding/binary"
	"errors"
	"math/big"
	"sync/atomic"
	"testing"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/devnet"
	"cocoon/internal/fault"
)

// prune returns the pruned branch of a cell inside a proof, with the given
// cells hung below it, where no honest branch has any.
func prune(c *cell.Cell, below ...*cell.Cell) *cell.Cell {
	data := append([]byte{byte(cell.PrunedCellType), 1}, c.Hash(0)...)
	data = binary.BigEndian.AppendUint16(data, c.Depth(0))
	return cell.FromRawUnsafe(cell.RawUnsafeCell{IsSpecial: true, LevelMask: cell.LevelMask{Mask: 1},
		BitsSz: uint(len(data) * 8), Data: data, Refs: below})
}

// replace returns the tree with the cell at the path of references replaced.
func replace(c *cell.Cell, path []int, f func(*cell.Cell) *cell.Cell) *cell.Cell {
	if len(path) == 0 {
		return f(c)
	}
	raw := c.ToRawUnsafe()
	raw.Refs = append([]*cell.Cell(nil), raw.Refs...)
	raw.Refs[path[0]] = replace(raw.Refs[path[0]], path[1:], f)
	var mask byte
	for _, ref := range raw.Refs {
		mask |= ref.ToRawUnsafe().LevelMask.Mask
	}
	if raw.IsSpecial {
		mask >>= 1
	}
	raw.LevelMask.Mask = mask
	return cell.FromRawUnsafe(raw)
}

// Paths in a shard state proof: the tree of accounts, its root.
var (
	pathAccounts = []int{0, 1}
	pathTree     = []int{0, 1, 0}
)

func TestDevnetLiesAreRefused(t *testing.T) {
	ctx := testContext(t)
	var lie atomic.Value // func(query, answer any) any
	lie.Store(func(_, a any) any { return a })
	d := start(t, devnet.Options{Alter: func(q, a any) any { return lie.Load().(func(_, a any) any)(q, a) }})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1)}, chain.Message{To: address100(200), Nano: nano(1)}); err != nil {
		t.Fatal(err)
	}
	first, err := c.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	account := func(f func(*ton.AccountState)) func(_, a any) any {
		return func(_, a any) any {
			if s, ok := a.(ton.AccountState); ok {
				s.Proof = append([]*cell.Cell(nil), s.Proof...)
				s.ShardProof = append([]*cell.Cell(nil), s.ShardProof...)
				f(&s)
				return s
			}
			return a
		}
	}
	read := func() error { _, err := c.Account(ctx, address100(7)); return err }
	for name, tc := range map[string]struct {
		lie  func(_, a any) any
		run  func() error
		code string
	}{
		"an account hidden by pruning the path to it": {account(func(s *ton.AccountState) {
			s.Proof[1] = replace(s.Proof[1], pathTree, func(c *cell.Cell) *cell.Cell { return prune(c) })
			s.State = nil
		}), read, "ton.proof.unproven"},
		"all accounts hidden": {account(func(s *ton.AccountState) {
			s.Proof[1] = replace(s.Proof[1], pathAccounts, func(c *cell.Cell) *cell.Cell { return prune(c) })
			s.State = nil
		}), read, "ton.proof.unproven"},
		"an account's state withheld": {account(func(s *ton.AccountState) { s.State = nil }), read, "ton.proof.unproven"},
		"a richer state":              {account(func(s *ton.AccountState) { s.State = richer(t, s.State) }), read, "ton.proof.invalid"},
		"an altered leaf of the proof": {account(func(s *ton.AccountState) {
			s.Proof[1] = replace(s.Proof[1], pathTree, func(c *cell.Cell) *cell.Cell {
				raw := c.ToRawUnsafe()
				raw.Data = append([]byte(nil), raw.Data...)
				raw.Data[len(raw.Data)-1] ^= 0x80
				return cell.FromRawUnsafe(raw)
			})
		}), read, "ton.answer.malformed"},
		"a forged tree hung below a pruned branch": {account(func(s *ton.AccountState) {
			// The pruned branch reads, as data, like a fork without a label.
			s.Proof[1] = replace(s.Proof[1], pathTree, func(c *cell.Cell) *cell.Cell { return prune(c, c, c) })
		}), read, "ton.answer.malformed"},
		"another shard's proof": {account(func(s *ton.AccountState) { s.ShardProof[1] = s.Proof[1] }), read, "ton.proof.invalid"},
		"a proof of one root": {func(_, a any) any {
			if s, ok := a.(ton.AccountState); ok {
				return rawAccount(s, s.Proof[0].ToBOC())
			}
			return a
		}, read, "ton.answer.malformed"},
		"a bag of cells that is none": {func(_, a any) any {
			if s, ok := a.(ton.AccountState); ok {
				return rawAccount(s, []byte{0xb5, 0xee, 0x9c, 0x72, 4, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
			}
			return a
		}, read, "ton.answer.malformed"},
		"an answer of another kind": {func(any, any) any { return ton.CurrentTime{Now: 1} }, read, "ton.answer.malformed"},
		"an error":                  {func(any, any) any { return ton.LSError{Code: 228, Text: "no"} }, read, "ton.server.error"},
		"a head that goes back": {func(q, a any) any {
			if m, ok := a.(ton.MasterchainInfo); ok {
				m.Last = m.Last.Copy()
				m.Last.SeqNo = first.SeqNo - 1
				return m
			}
			return a
		}, read, "ton.server.stale"},
		"a head that nobody signed": {func(q, a any) any {
			if p, ok := a.(ton.PartialBlockProof); ok {
				for i := range p.Steps {
					l := p.Steps[i].(ton.BlockLinkForward)
					l.SignatureSet.Signatures[0].Signature[5] ^= 1
					p.Steps[i] = l
				}
				return p
			}
			return a
		}, func() error {
			if err := d.Advance(ctx, 0); err != nil {
				return err
			}
			return read()
		}, "ton.proof.invalid"},
		"a chain of links that stops early": {func(q, a any) any {
			if p, ok := a.(ton.PartialBlockProof); ok {
				p.Steps = nil
				return p
			}
			return a
		}, func() error {
			if err := d.Advance(ctx, 0); err != nil {
				return err
			}
			return read()
		}, "ton.proof.invalid"},
		"another transaction": {func(q, a any) any {
			if l, ok := a.(ton.TransactionList); ok {
				l.Transactions = append([]byte(nil), l.Transactions...)
				l.Transactions[len(l.Transactions)-9] ^= 1
				return l
			}
			return a
		}, func() error {
			st, err := c.Account(ctx, address100(7))
			if err != nil {
				return err
			}
			_, err = c.Transactions(ctx, address100(7), st, 5)
			return err
		}, "ton.answer.malformed"},
		"another config": {func(q, a any) any {
			if cfg, ok := a.(ton.ConfigAll); ok {
				cfg.ConfigProof, cfg.StateProof = cfg.StateProof, cfg.ConfigProof
				return cfg
			}
			return a
		}, func() error { _, err := c.Config(ctx); return err }, "ton.proof.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			lie.Store(tc.lie)
			err := tc.run()
			lie.Store(func(_, a any) any { return a })
			if !fault.Has(err, tc.code) {
				t.Errorf("got %v, want %s", err, tc.code)
			}
			if st, err := c.Account(ctx, address100(7)); err != nil || st.Balance.Cmp(nano(1)) != 0 {
				t.Errorf("after the lie: %v", err)
			}
		})
	}
}

func TestDevnetGetMethodResultsAreNotTheServers(t *testing.T) {
	ctx := testContext(t)
	asked := atomic.Bool{}
	d := start(t, devnet.Options{Alter: func(_, a any) any {
		if r, ok := a.(ton.RunMethodResult); ok {
			asked.Store(true)
			stack := tlb.NewStack()
			stack.Push(big.NewInt(42))
			var err error
			if r.Result, err = stack.ToCell(); err != nil {
				t.Error(err)
			}
			return r
		}
		return a
	}})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	if _, err := w.Send(ctx, chain.Message{To: address100(7), Nano: nano(1)}); err != nil {
		t.Fatal(err)
	}
	res, err := c.RunGetMethod(ctx, w.Address(), "seqno")
	if err != nil {
		t.Fatal(err)
	}
	if res.Stack[0].(*big.Int).Int64() != 1 || asked.Load() {
		t.Errorf("seqno %v, server asked: %v", res.Stack, asked.Load())
	}
}

// richer returns an account's state with another balance.
func richer(t testing.TB, c *cell.Cell) *cell.Cell {
	if _, err := proof.ParseAccount(c); err != nil {
		t.Error(err)
	}
	raw := c.ToRawUnsafe()
	raw.Data = append([]byte(nil), raw.Data...)
	raw.Data[len(raw.Data)-2] ^= 0x10
	return cell.FromRawUnsafe(raw)
}

// rawAccount is an answer with a bag of cells that no library would write.
func rawAccount(s ton.AccountState, bag []byte) any {
	b := binary.LittleEndian.AppendUint32(nil, tl.CRC("liteServer.accountState id:tonNode.blockIdExt shardblk:tonNode.blockIdExt shard_proof:bytes proof:bytes state:bytes = liteServer.AccountState"))
	for _, id := range []*ton.BlockIDExt{s.ID, s.Shard} {
		v, err := tl.Serialize(id, false)
		if err != nil {
			panic(errors.Join(errors.New("serialising a test answer"), err))
		}
		b = append(b, v...)
	}
	for range 3 {
		b = append(b, tl.ToBytes(bag)...)
	}
	return tl.Raw(b)
}
