package model_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Roles of the processes that are killed, and where they find what they need.
const (
	envRole = "COCOON_TEST_FLOW_ROLE"
	envDir  = "COCOON_TEST_FLOW_DIR"

	roleDevnet = "devnet"
	roleWorker = "worker"
	roleClient = "client"

	flowCredit = 200_000
	flowMost   = 100_000
	flowPrice  = 1_000_000
)

// flow is what the three share: written once by the test.
type flow struct {
	Listen string
	Config json.RawMessage
	NetDir string
}

// command is an action that the test wants of client or worker: one that they
// have a call for, or a bare message.
type command struct {
	ID     uint64            `json:"id"`
	Do     string            `json:"do"`
	Job    uint64            `json:"job"`
	At     toncell.Address   `json:"at"`
	N      uint64            `json:"n"`
	Wallet string            `json:"wallet"`
	Seqno  uint32            `json:"seqno"` // of the wallet before it
	Terms  *job.Terms        `json:"terms,omitempty"`
	Stake  *worker.Terms     `json:"stake,omitempty"`
	Docs   []json.RawMessage `json:"docs,omitempty"`
	Bare   *bare             `json:"bare,omitempty"`

	// A verdict, by the job's own call, or as whoever does not look at it first.
	Verdict *verdictcell.Verdict `json:"verdict,omitempty"`
	Blindly bool                 `json:"blindly,omitempty"`
}

// bare is an internal message for a wallet to send.
type bare struct {
	Value  uint64 `json:"value"`
	Bounce bool   `json:"bounce"`
	Body   []byte `json:"body"`
	Init   []byte `json:"init,omitempty"`
}

// TestFlowChild is one of the processes.
func TestFlowChild(t *testing.T) {
	role, dir := os.Getenv(envRole), os.Getenv(envDir)
	if role == "" {
		t.Skip("runs as a child of TestModelIsWhatTheContractsDo")
	}
	doc, err := os.ReadFile(filepath.Join(dir, "flow.json"))
	if err != nil {
		t.Fatal(err)
	}
	p := &party{dir: dir, jobs: map[uint64]*served{}, payers: map[uint64]*receipt.Payer{}}
	if err := json.Unmarshal(doc, &p.flow); err != nil {
		t.Fatal(err)
	}
	if role == roleDevnet {
		if _, err = devnet.Start(t.Context(), devnet.Options{Dir: p.NetDir, Listen: p.Listen, TVM: engine}); err == nil {
			_, err = io.Copy(io.Discard, os.Stdin)
		}
		t.Fatal(err)
	}
	if p.chain, err = chain.Open(p.Config, chain.Options{TVM: engine}); err != nil {
		t.Fatal(err)
	}
	p.ledger = ledger.New(p.chain, nil)
	// The chain may be on its way up.
	err = retry(t.Context(), func() error { _, err := p.chain.GlobalID(t.Context()); return err })
	if err == nil && role == roleWorker {
		err = p.listen(t.Context())
	}
	if err == nil {
		err = p.obey(t.Context())
	}
	t.Fatal(err)
}

// retry does f until it works or the time is over.
func retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// party is the client or the worker.
type party struct {
	flow
	dir    string
	chain  *chain.Client
	ledger *ledger.Ledger

	jobs   map[uint64]*served // of the worker
	payers map[uint64]*receipt.Payer
}

// obey does what it is told and says when it has done it, well or not. What is
// still under way when the next command comes is given up: its chain was killed.
func (p *party) obey(ctx context.Context) error {
	in := json.NewDecoder(os.Stdin)
	stop, last := func() {}, new(sync.WaitGroup)
	for {
		var c command
		if err := in.Decode(&c); err != nil {
			return err
		}
		stop()
		last.Wait()
		one, cancel := context.WithCancel(ctx)
		stop = cancel
		last.Go(func() {
			defer cancel()
			fmt.Printf("done %d %q\n", c.ID, fmt.Sprint(p.do(one, c)))
		})
	}
}

func (p *party) do(ctx context.Context, c command) error {
	switch c.Do {
	case "rest":
		return nil
	case "buy":
		return p.buy(ctx, c)
	}
	wallet, err := p.chain.Wallet(ctx, key(c.Wallet))
	if err != nil {
		return err
	}
	from := &once{Wallet: wallet, chain: p.chain, key: key(c.Wallet), seqno: c.Seqno}
	switch c.Do {
	case "send":
		err = c.Bare.send(ctx, from, c.At)
	case "open":
		_, _, err = p.ledger.OpenJob(ctx, from, c.Terms, coin.Nano(c.N))
	case "top up":
		_, err = p.ledger.TopUp(ctx, from, c.At, coin.Nano(c.N))
	case "close":
		_, _, err = p.ledger.Close(ctx, from, c.At)
	case "finish":
		_, _, err = p.ledger.Finish(ctx, from, c.At)
	case "stake":
		_, _, err = p.ledger.OpenWorker(ctx, from, c.Stake, coin.Nano(c.N))
	case "leave":
		_, _, err = p.ledger.Leave(ctx, from, c.At, coin.Nano(c.N))
	case "withdraw":
		_, _, err = p.ledger.Withdraw(ctx, from, c.At)
	case "advance":
		_, _, err = p.ledger.Advance(ctx, from, c.At, c.N)
	case "release":
		if c.Blindly {
			_, _, err = p.ledger.SendVerdict(ctx, from, c.Verdict.Common.Registry, c.At, 0, c.Verdict)
		} else {
			_, _, err = p.ledger.Release(ctx, from, c.At, c.Verdict)
		}
	case "redeem":
		v, err1 := receipt.ParseVoucher(c.Docs[0])
		if err = err1; err == nil {
			_, err = p.ledger.Redeem(ctx, from, v)
		}
	case "accuse":
		first, err1 := receipt.Parse(c.Docs[0])
		second, err2 := receipt.Parse(c.Docs[1])
		if err = cmp.Or(err1, err2); err == nil {
			_, _, err = p.ledger.Accuse(ctx, from, first, second)
		}
	default:
		err = fmt.Errorf("told to %q", c.Do)
	}
	return err
}

func (b *bare) send(ctx context.Context, from chain.Sender, to toncell.Address) error {
	m := chain.Message{To: to.Addr(), Nano: new(big.Int).SetUint64(b.Value), Bounce: b.Bounce}
	var err error
	if m.Body, err = cell.FromBOC(b.Body); err != nil {
		return err
	}
	if b.Init != nil {
		c, err := cell.FromBOC(b.Init)
		if err != nil {
			return err
		}
		m.Init = new(tlb.StateInit)
		if err := tlb.LoadFromCell(m.Init, c.BeginParse()); err != nil {
			return err
		}
	}
	_, err = from.Send(ctx, m)
	return err
}

// once is a wallet that sends as long as it has a seqno: a command that is given
// again, because nobody knows what came of it, is done once.
type once struct {
	*chain.Wallet
	chain *chain.Client
	key   ed25519.PrivateKey
	seqno uint32
}

func (o *once) Send(ctx context.Context, msgs ...chain.Message) (*chain.Sent, error) {
	st, err := o.State(ctx)
	if err != nil {
		return nil, err
	}
	signed, err := o.Sign(o.key, st, msgs...)
	if err != nil {
		return nil, err
	}
	if signed.Seqno != o.seqno {
		return nil, fmt.Errorf("done before: the wallet's seqno is %d", signed.Seqno)
	}
	tx, after, err := o.chain.SendWait(ctx, signed.Message)
	if err != nil {
		return nil, err
	}
	return chain.NewSent(tx, after, len(msgs))
}
