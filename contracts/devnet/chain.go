package devnet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

const (
	// keptStates is how many heights' states stay available to queries; older
	// blocks keep their transactions but not their states.
	keptStates = 1024
	// maxBlockTxs bounds a block; messages that are left wait for the next one.
	maxBlockTxs = 256
	// ltStep is the granularity of a block's logical times, as in the node.
	ltStep = 1_000_000
)

// height is everything about one height: two blocks and the states after them.
type height struct {
	seqno                    uint32
	utime                    uint32
	endLT                    uint64
	seed                     [32]byte
	shard, master            ton.BlockIDExt
	shardBlock, masterBlock  *cell.Cell
	shardBoC, masterBoC      []byte
	shardState, masterState  *cell.Cell // nil for old heights
	accounts                 *augTree   // nil for old heights and for none
	shardStateHash, mcStHash []byte
}

// chain is the ledger. All methods are safe for concurrent use.
type chain struct {
	params *chainParams
	engine *tvm.Engine
	store  *store
	log    *slog.Logger
	clock  func() time.Time

	produce sync.Mutex // held while a block is made

	mu      sync.RWMutex // guards what follows
	last    *height
	recent  map[uint32]*height
	zero    zeroState
	skew    time.Duration
	arrived chan struct{} // closed and replaced at each new height
}

// zeroState names the state before block 1.
type zeroState struct {
	root, file [32]byte
}

// now is the chain's clock: the host's plus what Advance added.
func (c *chain) now() time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.clock().Add(c.skew)
}

// advance moves the clock forward for good and makes a block at the new time.
func (c *chain) advance(ctx context.Context, d time.Duration) error {
	if d < 0 {
		return fault.New(fault.ExitInternal, "ton.devnet.time_backwards", "name a positive duration",
			"advancing the chain's clock by %s", d)
	}
	c.produce.Lock()
	defer c.produce.Unlock()
	c.mu.RLock()
	skew := c.skew + d
	c.mu.RUnlock()
	// Block times are 32 bits of Unix time.
	if t := c.clock().Add(skew); skew < 0 || t.Unix() > math.MaxUint32 {
		return fault.New(fault.ExitInternal, "ton.devnet.time_range", "advance by less",
			"advancing the chain's clock by %s: a block's time ends in 2106", d)
	}
	if err := c.store.setSkew(skew); err != nil {
		return err
	}
	c.mu.Lock()
	c.skew = skew
	c.mu.Unlock()
	return c.makeBlocks(ctx, nil)
}

// lastHeight returns the newest height.
func (c *chain) lastHeight() *height {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.last
}

// at returns the height of a master or shard block id, or nil. Heights older
// than the kept ones come from disk, without states.
func (c *chain) at(id *ton.BlockIDExt) (*height, error) {
	h, err := c.bySeqno(id.SeqNo)
	if err != nil || h == nil {
		return nil, err
	}
	if id.Equals(&h.master) || id.Equals(&h.shard) {
		return h, nil
	}
	return nil, nil
}

func (c *chain) bySeqno(seqno uint32) (*height, error) {
	c.mu.RLock()
	h := c.recent[seqno]
	newest := c.last.seqno
	c.mu.RUnlock()
	if h != nil || seqno == 0 || seqno > newest {
		return h, nil
	}
	return c.store.height(seqno)
}

// wait returns once a height of at least seqno exists. Blocks are made on
// demand, so a waiter for the next height gets an empty block after a short
// time of quiet.
func (c *chain) wait(ctx context.Context, seqno uint32, quiet time.Duration) error {
	for {
		c.mu.RLock()
		reached, arrived, newest := c.last.seqno >= seqno, c.arrived, c.last.seqno
		c.mu.RUnlock()
		if reached {
			return nil
		}
		timer := time.NewTimer(quiet)
		select {
		case <-arrived:
		case <-timer.C:
			if err := c.tick(ctx, newest); err != nil {
				timer.Stop()
				return err
			}
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// tick makes an empty block unless one came after the height seen.
func (c *chain) tick(ctx context.Context, seen uint32) error {
	c.produce.Lock()
	defer c.produce.Unlock()
	if c.lastHeight().seqno > seen {
		return nil
	}
	return c.makeBlocks(ctx, nil)
}

// refresh makes an empty block when the newest is older than age.
func (c *chain) refresh(ctx context.Context, age time.Duration) error {
	h := c.lastHeight()
	if c.now().Sub(time.Unix(int64(h.utime), 0)) < age {
		return nil
	}
	return c.tick(ctx, h.seqno)
}

// submit executes an external message in a new block, together with all
// internal messages that follow from it, and returns when that is on disk.
func (c *chain) submit(ctx context.Context, msg *cell.Cell) error {
	c.produce.Lock()
	defer c.produce.Unlock()
	return c.makeBlocks(ctx, msg)
}

// makeBlocks makes one block, and more while messages are queued. The caller
// holds produce.
func (c *chain) makeBlocks(ctx context.Context, external *cell.Cell) error {
	ctx = context.WithoutCancel(ctx) // a block is made whole or not at all
	for {
		left, err := c.makeBlock(ctx, external)
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		external = nil
	}
}

// makeBlock makes one block and returns how many messages wait for the next.
func (c *chain) makeBlock(ctx context.Context, external *cell.Cell) (int, error) {
	prev := c.lastHeight()
	h := &header{
		seqno:   prev.seqno + 1,
		utime:   max(prev.utime, uint32(c.now().Unix())),
		startLT: (prev.endLT/ltStep + 1) * ltStep,
		prev:    [2]ton.BlockIDExt{prev.shard, prev.master},
		prevLT:  prev.endLT,
	}
	h.seed = sha256.Sum256(binary.BigEndian.AppendUint32(append([]byte("seed"), prev.master.RootHash...), h.seqno))
	queue, err := c.store.queue()
	if err != nil {
		return 0, err
	}
	x := &executor{chain: c, h: h, accounts: prev.accounts, queue: queue, nextLT: h.startLT + 1,
		imported: queueValue(queue), touched: map[string]*touchedAccount{}}
	if external != nil {
		if err := x.external(ctx, external); err != nil {
			return 0, err
		}
	}
	if err := x.deliver(ctx); err != nil {
		return 0, err
	}
	h.endLT = x.nextLT
	next := c.seal(h, prev, x)
	if err := c.store.commit(next, x); err != nil {
		return 0, err
	}
	c.publish(next)
	return len(x.queue), nil
}

// seal builds the blocks and states of a height from an executed batch.
func (c *chain) seal(h *header, prev *height, x *executor) *height {
	n := &height{seqno: h.seqno, utime: h.utime, endLT: h.endLT, seed: h.seed, accounts: x.accounts}
	n.shardState = c.params.shardState(h, basechain, x.accounts, nil)
	exported := new(big.Int).Add(queueValue(x.queue), queueValue(x.dead))
	fees := new(big.Int).Add(prev.accounts.sum(), x.imported)
	fees.Sub(fees, x.accounts.sum()).Sub(fees, exported)
	n.shardBlock = c.params.block(
		c.params.blockInfo(h, basechain),
		valueFlow(flow{from: prev.accounts.sum(), to: x.accounts.sum(), imported: x.imported, exported: exported,
			fees: fees, minted: new(big.Int)}),
		stateUpdate(prev.shardState, n.shardState),
		c.params.blockExtra(h, x.accountBlocks(), nil))
	n.shardBoC = encodeBoC(n.shardBlock)
	n.shard = blockID(basechain, h.seqno, n.shardBlock, n.shardBoC)
	c.sealMaster(h, prev.masterState, n)
	return n
}

// sealMaster adds the master block to a height whose shard block is done.
func (c *chain) sealMaster(h *header, prevState *cell.Cell, n *height) {
	hashes := shardHashes(h, &n.shard)
	n.masterState = c.params.shardState(h, masterchain, nil, c.params.mcStateExtra(h, hashes, n.accounts.sum()))
	n.masterBlock = c.params.block(
		c.params.blockInfo(h, masterchain), valueFlow(zeroFlow()),
		stateUpdate(prevState, n.masterState),
		c.params.blockExtra(h, nil, c.params.mcBlockExtra(hashes)))
	n.masterBoC = encodeBoC(n.masterBlock)
	n.master = blockID(masterchain, h.seqno, n.masterBlock, n.masterBoC)
	n.shardStateHash, n.mcStHash = n.shardState.Hash(), n.masterState.Hash()
}

// publish makes a committed height the newest.
func (c *chain) publish(h *height) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = h
	c.recent[h.seqno] = h
	delete(c.recent, h.seqno-keptStates)
	close(c.arrived)
	c.arrived = make(chan struct{})
	c.log.Debug("block", "seqno", h.seqno, "utime", h.utime, "hash", fmt.Sprintf("%x", h.master.RootHash))
}
