package devnet

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/proof"
)

// faucetNanoton is what the faucet holds at genesis: a billion TON.
var faucetNanoton = new(big.Int).Mul(big.NewInt(1_000_000_000), big.NewInt(1_000_000_000))

// zeroHeader is the header of the state before block 1.
func zeroHeader(utime uint32) *header { return &header{utime: utime} }

// load reads the stored chain, or starts a new one in an empty store.
func (c *chain) load(id *identity, fresh bool) error {
	zero := zeroHeader(id.Genesis)
	empty := &height{utime: id.Genesis,
		shardState:  c.params.shardState(zero, basechain, nil, nil),
		masterState: c.params.shardState(zero, masterchain, nil, c.params.mcStateExtra(zero, nil, new(big.Int)))}
	if fresh {
		return c.start(id, empty)
	}
	c.zero = zeroState{id.ZeroRoot, id.ZeroFile}
	return c.resume()
}

// start makes block 1, which mints what faucet and wallets own, and stores it.
func (c *chain) start(id *identity, empty *height) error {
	id.ZeroRoot = [32]byte(empty.masterState.Hash())
	id.ZeroFile = sha256.Sum256(encodeBoC(empty.masterState))
	c.zero = zeroState{id.ZeroRoot, id.ZeroFile}
	zeroShard := sha256.Sum256(encodeBoC(empty.shardState))
	h := &header{seqno: 1, utime: id.Genesis, startLT: ltStep, endLT: ltStep + 1, prev: [2]ton.BlockIDExt{
		{Workchain: basechain, Shard: wholeShard, RootHash: empty.shardState.Hash(), FileHash: zeroShard[:]},
		{Workchain: masterchain, Shard: wholeShard, RootHash: id.ZeroRoot[:], FileHash: id.ZeroFile[:]},
	}}
	accounts, err := id.accounts()
	if err != nil {
		return err
	}
	n := &height{seqno: 1, utime: h.utime, endLT: h.endLT, accounts: accounts}
	n.shardState = c.params.shardState(h, basechain, n.accounts, nil)
	f := zeroFlow()
	f.to, f.minted = accounts.sum(), accounts.sum()
	n.shardBlock = c.params.block(c.params.blockInfo(h, basechain), valueFlow(f),
		stateUpdate(empty.shardState, n.shardState), c.params.blockExtra(h, nil, nil))
	n.shardBoC = encodeBoC(n.shardBlock)
	n.shard = blockID(basechain, 1, n.shardBlock, n.shardBoC)
	c.sealMaster(h, empty.masterState, n)
	if err := c.store.genesis(id, n); err != nil {
		return err
	}
	c.last = n
	c.recent[1] = n
	return nil
}

// resume rebuilds the newest states from the stored accounts and checks that
// they are the ones the newest block names.
func (c *chain) resume() error {
	seqno, err := c.store.newest()
	if err != nil {
		return corrupt(err)
	}
	h, err := c.store.height(seqno)
	if err != nil {
		return err
	}
	if h == nil {
		return corrupt(errors.New("no blocks"))
	}
	err = c.store.eachAccount(func(addr []byte, sa *cell.Cell) error {
		state, err := sa.PeekRef(0)
		if err != nil {
			return err
		}
		acc, err := proof.ParseAccount(state)
		if err != nil {
			return err
		}
		h.accounts = h.accounts.set(augAccounts, 256, addr, sa, acc.Balance)
		return nil
	})
	if err != nil {
		return err
	}
	var blk tlb.Block
	if err := tlb.LoadFromCell(&blk, h.shardBlock.BeginParse()); err != nil {
		return corrupt(fmt.Errorf("parsing block %d: %w", seqno, err))
	}
	info := blk.BlockInfo
	hd := &header{seqno: seqno, utime: h.utime, startLT: info.StartLt, endLT: h.endLT, seed: h.seed}
	if info.MasterRef == nil {
		return corrupt(fmt.Errorf("parsing block %d: no master reference", seqno))
	}
	hd.prevLT = info.MasterRef.EndLt
	hd.prev[1] = ton.BlockIDExt{SeqNo: info.MasterRef.SeqNo, RootHash: info.MasterRef.RootHash, FileHash: info.MasterRef.FileHash}
	h.shardState = c.params.shardState(hd, basechain, h.accounts, nil)
	h.masterState = c.params.shardState(hd, masterchain, nil,
		c.params.mcStateExtra(hd, shardHashes(hd, &h.shard), h.accounts.sum()))
	if !bytes.Equal(h.shardState.Hash(), h.shardStateHash) || !bytes.Equal(h.masterState.Hash(), h.mcStHash) {
		return corrupt(fmt.Errorf("the stored accounts are not the state of block %d", seqno))
	}
	if c.skew, err = c.store.skew(); err != nil {
		return corrupt(err)
	}
	c.last = h
	c.recent[seqno] = h
	return nil
}

// faucetVersion is a wallet whose messages are easy to build by hand.
const faucetVersion = wallet.V4R2

func faucetAddress(seed []byte) (*address.Address, error) {
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	addr, err := wallet.AddressFromPubKey(pub, faucetVersion, wallet.DefaultSubwallet)
	if err != nil {
		return nil, fmt.Errorf("deriving the faucet's address: %w", err)
	}
	return addr, nil
}

// faucetAccount is the ShardAccount of the deployed, funded faucet wallet.
func faucetAccount(seed []byte) (*cell.Cell, error) {
	addr, err := faucetAddress(seed)
	if err != nil {
		return nil, err
	}
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	init, err := wallet.GetStateInit(pub, faucetVersion, wallet.DefaultSubwallet)
	if err != nil {
		return nil, fmt.Errorf("making the faucet wallet: %w", err)
	}
	state, err := tlb.ToCell(init)
	if err != nil {
		return nil, fmt.Errorf("making the faucet wallet: %w", err)
	}
	return newAccount(addr, faucetNanoton, cell.BeginCell().MustStoreBoolBit(true).MustStoreBuilder(state.ToBuilder())), nil
}

// newAccount is the ShardAccount of an account without transactions; state is
// its AccountState.
func newAccount(addr *address.Address, nano *big.Int, state *cell.Builder) *cell.Cell {
	b := cell.BeginCell().MustStoreBoolBit(true).MustStoreAddr(addr).
		MustStoreVarUInt(0, 7).MustStoreVarUInt(0, 7). // storage used: counted at the first transaction
		MustStoreUInt(0, 3).                           // storage_extra_none
		MustStoreUInt(0, 32).                          // last_paid: not yet
		MustStoreUInt(0, 1).                           // due_payment
		MustStoreUInt(0, 64)                           // last_trans_lt
	storeCurrencies(b, nano)
	b.MustStoreBuilder(state)
	return cell.BeginCell().MustStoreRef(b.EndCell()).MustStoreSlice(make([]byte, 32), 256).MustStoreUInt(0, 64).EndCell()
}

// faucetMessage signs a transfer of the faucet wallet.
func faucetMessage(seed []byte, account *cell.Cell, to *address.Address, nano *big.Int, validUntil uint32) (*cell.Cell, error) {
	state, err := account.PeekRef(0)
	if err != nil {
		return nil, fmt.Errorf("reading the faucet: %w", err)
	}
	acc, err := proof.ParseAccount(state)
	if err != nil {
		return nil, fmt.Errorf("reading the faucet: %w", err)
	}
	if acc.Data == nil {
		return nil, errors.New("reading the faucet: it has no data")
	}
	seqno, err := acc.Data.BeginParse().LoadUInt(32)
	if err != nil {
		return nil, fmt.Errorf("reading the faucet's seqno: %w", err)
	}
	msg, err := tlb.ToCell(&tlb.InternalMessage{
		IHRDisabled: true, DstAddr: to, Amount: tlb.FromNanoTON(nano), Body: cell.BeginCell().EndCell(),
	})
	if err != nil {
		return nil, fmt.Errorf("building a transfer: %w", err)
	}
	const payFeesSeparately, simpleSend = 1, 0
	body := cell.BeginCell().MustStoreUInt(wallet.DefaultSubwallet, 32).MustStoreUInt(uint64(validUntil), 32).
		MustStoreUInt(seqno, 32).MustStoreUInt(simpleSend, 8).
		MustStoreUInt(payFeesSeparately, 8).MustStoreRef(msg)
	sig := body.EndCell().Sign(ed25519.NewKeyFromSeed(seed))
	from, err := faucetAddress(seed)
	if err != nil {
		return nil, err
	}
	ext, err := tlb.ToCell(&tlb.ExternalMessage{
		DstAddr: from, Body: cell.BeginCell().MustStoreSlice(sig, 512).MustStoreBuilder(body).EndCell(),
	})
	if err != nil {
		return nil, fmt.Errorf("building a transfer: %w", err)
	}
	return ext, nil
}
