package devnet

import (
	"bytes"
	"context"
	"fmt"
	"math/big"
	"sort"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/proof"
	"cocoon/contracts/tvm"
)

const (
	liteVersion      = 0x101
	liteCapabilities = 7
	maxListed        = 256 // transactions in one answer
	// freshFor is how old the newest block may be before a question about it
	// makes a new one.
	freshFor = 5 * time.Second
)

// query answers one lite-server query.
func (s *server) query(ctx context.Context, q any) (any, error) {
	c := s.chain
	switch q := q.(type) {
	case ton.GetMasterchainInf:
		if err := c.refresh(ctx, freshFor); err != nil {
			return nil, err
		}
		h := c.lastHeight()
		return ton.MasterchainInfo{Last: &h.master, StateRootHash: h.mcStHash, Init: c.zeroID()}, nil
	case ton.GetMasterchainInfoExt:
		if err := c.refresh(ctx, freshFor); err != nil {
			return nil, err
		}
		h := c.lastHeight()
		return ton.MasterchainInfoExt{Version: liteVersion, Capabilities: liteCapabilities, Last: &h.master,
			LastUTime: h.utime, Now: uint32(c.now().Unix()), StateRootHash: h.mcStHash, Init: c.zeroID()}, nil
	case ton.GetTime:
		return ton.CurrentTime{Now: uint32(c.now().Unix())}, nil
	case ton.GetVersion:
		return ton.Version{Version: liteVersion, Capabilities: liteCapabilities, Now: uint32(c.now().Unix())}, nil
	case ton.LookupBlock:
		return s.lookup(q)
	case ton.GetBlockHeader:
		return s.withBlock(q.ID, func(h *height, block *cell.Cell) (any, error) { return blockHeader(q.ID, block) })
	case ton.GetBlockData:
		return s.withBlock(q.ID, func(h *height, _ *cell.Cell) (any, error) {
			if q.ID.Workchain == masterchain {
				return ton.BlockData{ID: q.ID, Payload: h.masterBoC}, nil
			}
			return ton.BlockData{ID: q.ID, Payload: h.shardBoC}, nil
		})
	case ton.GetAllShardsInfo:
		return s.withBlock(q.ID, func(h *height, block *cell.Cell) (any, error) { return allShards(h) })
	case ton.GetShardInfo:
		return s.withBlock(q.ID, func(h *height, _ *cell.Cell) (any, error) { return shardInfo(h, q) })
	case ton.GetAccountState:
		return s.withBlock(q.ID, func(h *height, _ *cell.Cell) (any, error) { return accountState(h, q) })
	case ton.RunSmcMethod:
		return s.withBlock(q.ID, func(h *height, _ *cell.Cell) (any, error) { return s.runMethod(ctx, h, q) })
	case ton.SendMessage:
		msg, err := proof.DecodeBoC(q.Body, 1)
		if err != nil {
			return nil, err
		}
		if err := c.submit(ctx, msg[0]); err != nil {
			return nil, err
		}
		return ton.SendMessageStatus{Status: 1}, nil
	case ton.GetConfigAll:
		return s.withBlock(q.BlockID, func(h *height, _ *cell.Cell) (any, error) { return configInfo(h, q.Mode) })
	case ton.GetConfigParams:
		return s.withBlock(q.BlockID, func(h *height, _ *cell.Cell) (any, error) { return configInfo(h, q.Mode) })
	case ton.GetOneTransaction:
		return s.withBlock(q.ID, func(h *height, block *cell.Cell) (any, error) { return s.oneTransaction(h, block, q) })
	case ton.GetTransactions:
		return s.transactions(q)
	case ton.ListBlockTransactions:
		return s.withBlock(q.ID, func(h *height, block *cell.Cell) (any, error) { return listBlock(block, q) })
	case ton.GetBlockProof:
		return s.blockProof(q)
	case ton.GetLibraries:
		return ton.LibraryResult{}, nil
	}
	return nil, ton.LSError{Code: codeUnsupported, Text: fmt.Sprintf("unsupported query %T", q)}
}

func (c *chain) zeroID() *ton.ZeroStateIDExt {
	return &ton.ZeroStateIDExt{Workchain: masterchain, RootHash: c.zero.root[:], FileHash: c.zero.file[:]}
}

// withBlock finds the block that id names and calls f with it.
func (s *server) withBlock(id *ton.BlockIDExt, f func(*height, *cell.Cell) (any, error)) (any, error) {
	if id == nil {
		return nil, ton.LSError{Code: codeProtocol, Text: "no block id"}
	}
	h, err := s.chain.at(id)
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, ton.LSError{Code: codeNotReady, Text: "block not found"}
	}
	if id.Workchain == masterchain {
		return f(h, h.masterBlock)
	}
	return f(h, h.shardBlock)
}

func (s *server) lookup(q ton.LookupBlock) (any, error) {
	if q.Mode&1 == 0 || q.ID == nil || q.ID.Shard != wholeShard {
		return nil, ton.LSError{Code: codeUnsupported, Text: "look a block up by its seqno"}
	}
	h, err := s.chain.bySeqno(uint32(q.ID.Seqno))
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, ton.LSError{Code: codeNotReady, Text: "block not found"}
	}
	if q.ID.Workchain == masterchain {
		return blockHeader(&h.master, h.masterBlock)
	}
	return blockHeader(&h.shard, h.shardBlock)
}

func blockHeader(id *ton.BlockIDExt, block *cell.Cell) (any, error) {
	p, err := headerProof(block)
	if err != nil {
		return nil, err
	}
	return ton.BlockHeader{ID: id, HeaderProof: encodeBoC(p)}, nil
}

func allShards(h *height) (any, error) {
	p, err := shardsProof(h.masterBlock)
	if err != nil {
		return nil, err
	}
	hashes, err := blockShardHashes(h.masterBlock)
	if err != nil {
		return nil, err
	}
	return ton.AllShardsInfo{ID: &h.master, Proof: []*cell.Cell{p},
		Data: cell.BeginCell().MustStoreMaybeRef(hashes).EndCell()}, nil
}

// blockShardHashes returns the root of a master block's ShardHashes.
func blockShardHashes(block *cell.Cell) (*cell.Cell, error) {
	extra, err := block.PeekRef(blockExtraRef)
	if err != nil {
		return nil, err
	}
	custom, err := extra.PeekRef(extraCustomRef)
	if err != nil {
		return nil, err
	}
	return custom.PeekRef(0)
}

func shardInfo(h *height, q ton.GetShardInfo) (any, error) {
	if q.Workchain != basechain {
		return nil, ton.LSError{Code: codeNotReady, Text: "no such shard"}
	}
	p, err := shardProof(h)
	if err != nil {
		return nil, err
	}
	hashes, err := blockShardHashes(h.masterBlock)
	if err != nil {
		return nil, err
	}
	leaf, err := hashes.PeekRef(0)
	if err != nil {
		return nil, err
	}
	return ton.ShardInfo{ID: &h.master, ShardBlock: &h.shard, ShardProof: p, ShardDescription: leaf}, nil
}

func accountState(h *height, q ton.GetAccountState) (any, error) {
	if q.Account.Workchain != basechain || len(q.Account.ID) != 32 {
		return nil, ton.LSError{Code: codeNotReady, Text: "no such workchain"}
	}
	res := ton.AccountState{ID: q.ID, Shard: &h.shard}
	var err error
	if q.ID.Workchain == masterchain {
		if res.ShardProof, err = shardProof(h); err != nil {
			return nil, err
		}
	}
	if res.Proof, err = accountProof(h, q.Account.ID); err != nil {
		return nil, err
	}
	if sa := h.accounts.get(q.Account.ID); sa != nil {
		res.State = sa.MustPeekRef(0)
	}
	return res, nil
}

// runMethod runs a get method as the node does; clients should not believe it
// more than any other lite-server's.
func (s *server) runMethod(ctx context.Context, h *height, q ton.RunSmcMethod) (any, error) {
	if h.shardState == nil {
		return nil, errStatePruned
	}
	res := ton.RunMethodResult{Mode: q.Mode & 0b111, ID: q.ID, ShardBlock: &h.shard}
	sa := h.accounts.get(q.Account.ID)
	if q.Mode&0b11 != 0 {
		var err error
		if res.ShardProof, err = shardProof(h); err != nil {
			return nil, err
		}
		if res.Proof, err = accountProof(h, q.Account.ID); err != nil {
			return nil, err
		}
	}
	var acc *proof.Account
	if sa != nil {
		var err error
		if acc, err = proof.ParseAccount(sa.MustPeekRef(0)); err != nil {
			return nil, err
		}
		whole := cell.CreateProofSkeleton()
		whole.SetRecursive()
		if res.StateProof, err = prove(sa.MustPeekRef(0), whole); err != nil {
			return nil, err
		}
	}
	if acc == nil || acc.Status != proof.Active {
		// Not an error: wallets read this code as seqno 0.
		res.Mode &^= 0b110
		res.ExitCode = ton.ErrCodeContractNotInitialized
		return res, nil
	}
	out, err := s.chain.engine.RunGetMethodStack(ctx, tvm.GetRequest{
		Code: acc.Code, Data: acc.Data, Config: s.chain.params.config, Balance: acc.Balance,
		Address: address.NewAddress(0, byte(q.Account.Workchain), q.Account.ID), Now: h.utime, RandSeed: h.seed,
	}, q.MethodID, q.Params)
	if err != nil {
		return nil, err
	}
	res.ExitCode = int32(out.ExitCode)
	res.Result = out.StackCell
	return res, nil
}

func configInfo(h *height, mode int32) (any, error) {
	head, state, err := configProof(h)
	if err != nil {
		return nil, err
	}
	return ton.ConfigAll{Mode: int(mode), ID: &h.master, StateProof: head, ConfigProof: state}, nil
}

func (s *server) oneTransaction(h *height, block *cell.Cell, q ton.GetOneTransaction) (any, error) {
	tx, seqno, err := s.chain.store.transaction(q.AccID.ID, uint64(q.LT))
	if err != nil {
		return nil, err
	}
	if tx == nil || seqno != h.seqno {
		return ton.TransactionInfo{ID: q.ID}, nil
	}
	p, err := transactionsProof(block)
	if err != nil {
		return nil, err
	}
	return ton.TransactionInfo{ID: q.ID, Proof: encodeBoC(p), Transaction: encodeBoC(tx)}, nil
}

// transactions follows an account's chain of transactions backwards.
func (s *server) transactions(q ton.GetTransactions) (any, error) {
	lt, hash := uint64(q.LT), q.TxHash
	var res ton.TransactionList
	var cells []*cell.Cell
	for len(cells) < int(min(q.Limit, maxListed)) && lt != 0 {
		tx, seqno, err := s.chain.store.transaction(q.AccID.ID, lt)
		if err != nil {
			return nil, err
		}
		if tx == nil || !bytes.Equal(tx.Hash(), hash) {
			if len(cells) == 0 {
				return nil, ton.LSError{Code: -400, Text: "cannot compute block with specified transaction: lt not in db"}
			}
			break
		}
		h, err := s.chain.bySeqno(seqno)
		if err != nil {
			return nil, err
		}
		cells = append(cells, tx)
		res.IDs = append(res.IDs, &h.shard)
		var t tlb.Transaction
		if err := tlb.LoadFromCell(&t, tx.BeginParse()); err != nil {
			return nil, err
		}
		lt, hash = t.PrevTxLT, t.PrevTxHash
	}
	if len(cells) > 0 {
		res.Transactions = cell.ToBOCWithFlags(cells, false)
	}
	return res, nil
}

// listBlock lists a block's transactions in the order of (account, lt).
func listBlock(block *cell.Cell, q ton.ListBlockTransactions) (any, error) {
	ids, err := blockTransactions(block)
	if err != nil {
		return nil, err
	}
	reverse := q.Mode&(1<<6) != 0
	sort.Slice(ids, func(i, j int) bool {
		c := bytes.Compare(ids[i].Account, ids[j].Account)
		if c == 0 {
			c = big.NewInt(0).SetUint64(ids[i].LT).Cmp(big.NewInt(0).SetUint64(ids[j].LT))
		}
		return (c < 0) != reverse
	})
	if q.Mode&(1<<7) != 0 && q.After != nil {
		i := sort.Search(len(ids), func(i int) bool {
			c := bytes.Compare(ids[i].Account, q.After.Account)
			if reverse {
				return c < 0 || c == 0 && ids[i].LT < q.After.LT
			}
			return c > 0 || c == 0 && ids[i].LT > q.After.LT
		})
		ids = ids[i:]
	}
	res := ton.BlockTransactions{ID: q.ID, ReqCount: int32(q.Count)}
	if n := int(min(q.Count, maxListed)); len(ids) > n {
		ids, res.Incomplete = ids[:n], true
	}
	res.TransactionIds = ids
	if q.Mode&(1<<5) != 0 {
		if res.Proof, err = transactionsProof(block); err != nil {
			return nil, err
		}
	}
	return res, nil
}

func blockTransactions(block *cell.Cell) ([]ton.TransactionID, error) {
	var blk tlb.Block
	if err := tlb.LoadFromCell(&blk, block.BeginParse()); err != nil {
		return nil, fmt.Errorf("parsing a block: %w", err)
	}
	var accounts tlb.ShardAccountBlocks
	if err := tlb.LoadFromCell(&accounts, blk.Extra.ShardAccountBlocks.BeginParse()); err != nil {
		return nil, fmt.Errorf("parsing a block's accounts: %w", err)
	}
	kvs, err := loadAug(accounts.Accounts)
	if err != nil {
		return nil, err
	}
	var ids []ton.TransactionID
	for _, kv := range kvs {
		if err := tlb.LoadFromCell(new(tlb.CurrencyCollection), kv.Value); err != nil {
			return nil, err
		}
		var ab tlb.AccountBlock
		if err := tlb.LoadFromCell(&ab, kv.Value); err != nil {
			return nil, err
		}
		txs, err := loadAug(ab.Transactions)
		if err != nil {
			return nil, err
		}
		for _, tx := range txs {
			if err := tlb.LoadFromCell(new(tlb.CurrencyCollection), tx.Value); err != nil {
				return nil, err
			}
			ref, err := tx.Value.LoadRefCell()
			if err != nil {
				return nil, err
			}
			ids = append(ids, ton.TransactionID{Flags: 0b111, Account: ab.Addr, LT: tx.Key.MustLoadUInt(64), Hash: ref.Hash()})
		}
	}
	return ids, nil
}

func loadAug(d *cell.Dictionary) ([]cell.DictKV, error) {
	if d.IsEmpty() {
		return nil, nil
	}
	return d.LoadAll()
}

// blockProof links two master blocks. Every master block is a key block signed
// by one validator, so one link leads forward from any block to any later one.
func (s *server) blockProof(q ton.GetBlockProof) (any, error) {
	target := q.TargetBlock
	if q.Mode&1 == 0 || target == nil {
		target = &s.chain.lastHeight().master
	}
	from, err := s.chain.at(q.KnownBlock)
	if err != nil {
		return nil, err
	}
	to, err := s.chain.at(target)
	if err != nil {
		return nil, err
	}
	if from == nil || to == nil || q.KnownBlock.Workchain != masterchain || target.Workchain != masterchain {
		return nil, ton.LSError{Code: codeNotReady, Text: "block not found"}
	}
	res := ton.PartialBlockProof{Complete: true, From: &from.master, To: &to.master}
	if from.seqno == to.seqno {
		return res, nil
	}
	if from.seqno > to.seqno {
		return nil, ton.LSError{Code: codeUnsupported, Text: "no backward links"}
	}
	dest, err := headerProof(to.masterBlock)
	if err != nil {
		return nil, err
	}
	config, err := keyBlockProof(from.masterBlock)
	if err != nil {
		return nil, err
	}
	sigs, err := s.chain.params.sign(&to.master)
	if err != nil {
		return nil, err
	}
	res.Steps = []any{ton.BlockLinkForward{ToKeyBlock: true, From: &from.master, To: &to.master,
		DestProof: encodeBoC(dest), ConfigProof: encodeBoC(config), SignatureSet: sigs}}
	return res, nil
}
