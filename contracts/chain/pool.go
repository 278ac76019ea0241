package chain

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/contracts/chain/lite"
	"cocoon/contracts/chain/netconfig"
	"cocoon/contracts/chain/proof"
	"cocoon/internal/fault"
)

const (
	// blamedFor is how long a server that failed is asked only after the rest.
	blamedFor = time.Minute
	// compareEvery is how often the head is compared with another server's, and
	// behind how many blocks a server may be.
	compareEvery = 5 * time.Second
	behind       = 40
)

// pool is the lite-servers of a network. One is asked until it fails: then the
// question goes to the next, and the server is named and asked last for a while.
// No answer counts more for coming from several: what is proven is enough, what
// is not proven never is.
type pool struct {
	members []*member

	mu       sync.Mutex
	current  int
	compared time.Time
}

type member struct {
	lite   *lite.Client
	faults int
	last   error
	blamed time.Time
}

func newPool(servers []netconfig.Server) *pool {
	p := &pool{}
	for _, s := range servers {
		p.members = append(p.members, &member{lite: lite.New(s)})
	}
	return p
}

func (p *pool) close() error {
	var errs []error
	for _, m := range p.members {
		errs = append(errs, m.lite.Close())
	}
	return errors.Join(errs...)
}

// order returns the servers as they are to be asked.
func (p *pool) order() []*member {
	p.mu.Lock()
	defer p.mu.Unlock()
	var good, bad []*member
	for i := range p.members {
		m := p.members[(p.current+i)%len(p.members)]
		if time.Since(m.blamed) < blamedFor {
			bad = append(bad, m)
		} else {
			good = append(good, m)
		}
	}
	return append(good, bad...)
}

func (p *pool) blame(m *member, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.faults++
	m.last, m.blamed = err, time.Now()
	if p.members[p.current] == m {
		p.current = (p.current + 1) % len(p.members)
	}
}

// ServerStatus is what a client holds against a lite-server.
type ServerStatus struct {
	Addr   string
	Faults int
	Last   error // nil if there was none
}

// Servers returns the network's lite-servers in the order of the config.
func (c *Client) Servers() []ServerStatus {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	var out []ServerStatus
	for _, m := range c.pool.members {
		out = append(out, ServerStatus{m.lite.Addr(), m.faults, m.last})
	}
	return out
}

// each calls do with one server after the other until it succeeds. What a
// caller's own deadline ended is nobody's fault.
func (c *Client) each(ctx context.Context, slack time.Duration, do func(context.Context, *member) error) error {
	var errs []error
	order := c.pool.order()
	for i, m := range order {
		one, cancel := ctx, context.CancelFunc(func() {})
		if i < len(order)-1 {
			one, cancel = context.WithTimeout(ctx, c.opts.Patience+slack)
		}
		err := do(one, m)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		if fault.Has(err, codeNotAccepted) {
			continue
		}
		if fault.Has(err, codeFork) {
			return err // no server's doing, and none can mend it
		}
		c.pool.blame(m, err)
		c.log.Warn("a lite-server failed", "server", m.lite.Addr(), "error", err)
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// ask sends a query and reads its answer with read, proofs included, of one
// server after the other. An answer that cannot be read is
// ton.answer.malformed; a server's own error ton.server.error.
func ask[T any](ctx context.Context, c *Client, q tl.Serializable, read func([]byte) (T, error)) (v T, err error) {
	err = c.each(ctx, 0, func(ctx context.Context, m *member) (err error) {
		v, err = askOne(ctx, m, q, read)
		return err
	})
	return v, err
}

func askOne[T any](ctx context.Context, m *member, q tl.Serializable, read func([]byte) (T, error)) (T, error) {
	var zero T
	b, err := m.lite.Query(ctx, q)
	if err != nil {
		return zero, err
	}
	v, err := read(b)
	if err == nil {
		return v, nil
	}
	var ls *lite.Error
	switch {
	case errors.As(err, &ls):
		return zero, fault.New(fault.ExitNetwork, "ton.server.error", "try again, or ask another lite-server", "asking the lite-server %s: %w", m.lite.Addr(), err)
	case errors.Is(err, proof.ErrInvalid) || errors.Is(err, proof.ErrUnproven):
		return zero, fmt.Errorf("asking the lite-server %s: %w", m.lite.Addr(), proof.Refusal(err))
	case len(fault.All(err)) > 0:
		return zero, fmt.Errorf("asking the lite-server %s: %w", m.lite.Addr(), err)
	}
	return zero, fault.New(fault.ExitRefused, "ton.answer.malformed", "ask another lite-server", "asking the lite-server %s: %w", m.lite.Addr(), err)
}

// Head returns the newest master block, proven by signed links from the init
// block. It asks anew each time: a cached block would show a wallet its own
// previous seqno.
func (c *Client) Head(ctx context.Context) (ton.BlockIDExt, error) {
	return c.head(ctx, ton.GetMasterchainInf{}, 0)
}

func (c *Client) head(ctx context.Context, q tl.Serializable, slack time.Duration) (head ton.BlockIDExt, err error) {
	var from *member
	err = c.each(ctx, slack, func(ctx context.Context, m *member) (err error) {
		from = m
		head, err = c.headOf(ctx, m, q)
		return err
	})
	if err != nil {
		return head, err
	}
	return c.compare(ctx, from, head)
}

// headOf asks one server for its head and for the links that prove it.
func (c *Client) headOf(ctx context.Context, m *member, q tl.Serializable) (ton.BlockIDExt, error) {
	c.mu.Lock()
	// Before asking: an answer that another caller's overtook is not stale.
	newest := c.newest
	c.mu.Unlock()
	last, err := askOne(ctx, m, q, lite.MasterchainInfo)
	if err != nil {
		return last, err
	}
	c.mu.Lock()
	from := c.trusted
	c.mu.Unlock()
	if last.SeqNo < newest && (len(c.pool.members) == 1 || last.SeqNo+behind < newest) {
		return last, fault.Mismatch(fault.ExitRefused, "ton.server.stale", "newest master block of "+m.lite.Addr(),
			fmt.Sprintf("at least %d", newest), fmt.Sprint(last.SeqNo), "ask another lite-server")
	}
	if last.SeqNo <= from.SeqNo && !last.Equals(&from) {
		// A server a few blocks behind, from before the newest key block; or one
		// with another block of its height, which is a fork if it can prove it.
		from = c.cfg.InitBlock
	}
	links, err := c.links(ctx, m, from, last)
	if err != nil && !from.Equals(&c.cfg.InitBlock) && last.SeqNo-from.SeqNo <= behind {
		// The server may follow another chain since the newest key block.
		if _, err2 := c.links(ctx, m, c.cfg.InitBlock, last); err2 == nil {
			err = errors.Join(err, c.descends(ctx, m, last, from))
		}
	}
	if err != nil {
		return last, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range links {
		if l.ToKey && l.To.SeqNo > c.trusted.SeqNo {
			c.trusted = l.To
		}
	}
	c.newest = max(c.newest, last.SeqNo)
	return last, nil
}

// compare asks another server for its head from time to time. Two proven blocks
// of one height are a fork, which validators signed: nothing may be believed
// then. Heads of different heights fork where the lower one is no ancestor of
// the higher. A server that is far behind another is named.
func (c *Client) compare(ctx context.Context, from *member, head ton.BlockIDExt) (ton.BlockIDExt, error) {
	c.pool.mu.Lock()
	due := len(c.pool.members) > 1 && time.Since(c.pool.compared) >= compareEvery
	if due {
		c.pool.compared = time.Now()
	}
	c.pool.mu.Unlock()
	if !due {
		return head, nil
	}
	for _, m := range c.pool.order() {
		if m == from || time.Since(m.blamed) < blamedFor {
			continue
		}
		one, cancel := context.WithTimeout(ctx, c.opts.Patience)
		other, err := c.headOf(one, m, ton.GetMasterchainInf{})
		wrong := m
		if err == nil {
			wrong, err = c.sameChain(one, from, head, m, other)
		}
		cancel()
		if fault.Has(err, codeFork) {
			return head, err
		}
		if err != nil {
			c.pool.blame(wrong, err)
			c.log.Warn("a lite-server disagrees", "server", wrong.lite.Addr(), "error", err)
			if wrong == from {
				return other, nil
			}
			continue
		}
		if other.SeqNo > head.SeqNo+behind {
			stale := fault.Mismatch(fault.ExitRefused, "ton.server.stale", "newest master block of "+from.lite.Addr(),
				fmt.Sprint(other.SeqNo), fmt.Sprint(head.SeqNo), "ask another lite-server")
			c.pool.blame(from, stale)
			c.log.Warn("a lite-server is behind", "server", from.lite.Addr(), "error", stale)
			return other, nil
		}
		break
	}
	return head, nil
}

const codeFork = "ton.network.fork"

// sameChain refuses two proven heads of which neither is the other's ancestor.
// Heads further apart than behind are not compared: one of them is stale.
func (c *Client) sameChain(ctx context.Context, a *member, ofA ton.BlockIDExt, b *member, ofB ton.BlockIDExt) (wrong *member, err error) {
	high, at, low := b, ofB, ofA
	if ofA.SeqNo > ofB.SeqNo {
		high, at, low = a, ofA, ofB
	}
	if at.SeqNo-low.SeqNo > behind {
		return nil, nil
	}
	return high, c.descends(ctx, high, at, low)
}

// descends refuses a proven block that is not low or descends from it, a proven
// block, too: validators have signed two chains. The server shows the headers
// from the block down to low's height; each is proven by the hash that the one
// above names, so that no server can bridge a fork.
func (c *Client) descends(ctx context.Context, m *member, at, low ton.BlockIDExt) error {
	for at.SeqNo > low.SeqNo {
		id := at
		prev, err := askOne(ctx, m, ton.GetBlockHeader{ID: &id}, func(b []byte) (ton.BlockIDExt, error) {
			bag, err := lite.BlockHeader(b)
			if err != nil {
				return ton.BlockIDExt{}, err
			}
			return proof.Previous(&id, bag)
		})
		if err != nil {
			return err
		}
		at = prev
	}
	if at.Equals(&low) {
		return nil
	}
	return fault.Mismatch(fault.ExitRefused, codeFork, fmt.Sprintf("block %d of %s", low.SeqNo, m.lite.Addr()),
		fmt.Sprintf("%x", low.RootHash), fmt.Sprintf("%x", at.RootHash), "stop paying: the network's validators signed two chains")
}

// links fetches and checks the links from a trusted key block to a block.
func (c *Client) links(ctx context.Context, m *member, from, to ton.BlockIDExt) ([]proof.Link, error) {
	var all []proof.Link
	at := from
	for at.SeqNo < to.SeqNo && len(all) < proof.MaxLinks {
		part, err := askOne(ctx, m, ton.GetBlockProof{Mode: 1, KnownBlock: &at, TargetBlock: &to},
			func(b []byte) ([]proof.Link, error) {
				links, _, err := lite.BlockProof(b)
				return links, err
			})
		if err != nil {
			return nil, err
		}
		if len(part) == 0 {
			break
		}
		if at, err = proof.Follow(at, part); err != nil {
			return nil, fmt.Errorf("asking the lite-server %s: %w", m.lite.Addr(), proof.Refusal(err))
		}
		all = append(all, part...)
		if !part[len(part)-1].ToKey {
			break
		}
	}
	if !at.Equals(&to) {
		return nil, fmt.Errorf("asking the lite-server %s: %w", m.lite.Addr(),
			proof.Refusal(fmt.Errorf("%w: the links end at block %d instead of %d", proof.ErrInvalid, at.SeqNo, to.SeqNo)))
	}
	return all, nil
}

// anyLinks is links from whichever server has them.
func (c *Client) anyLinks(ctx context.Context, from, to ton.BlockIDExt) (all []proof.Link, err error) {
	err = c.each(ctx, 0, func(ctx context.Context, m *member) (err error) {
		all, err = c.links(ctx, m, from, to)
		return err
	})
	return all, err
}
