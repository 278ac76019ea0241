package ledger_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Roles of the processes that TestKilledAtAnyMoment… kills, and where they
// find what they need.
const (
	envRole = "COCOON_TEST_FLOW_ROLE"
	envDir  = "COCOON_TEST_FLOW_DIR"

	roleDevnet = "devnet"
	roleWorker = "worker"
	roleClient = "client"

	flowCredit = 200_000
	flowMost   = 100_000
)

// flow is what the three share: written once by the test.
type flow struct {
	Listen string
	Config json.RawMessage
	Terms  job.Terms // of all jobs, but for what makes each its own
	NetDir string
}

// terms are those of the nth job. It pays where no other one does, so that the
// balances there tell what it paid.
func (f *flow) terms(n uint64) *job.Terms {
	t := f.Terms
	gateway := toncell.Address{Hash: sum(fmt.Sprint("gateway ", n))}
	t.Payout, t.Gateway, t.Salt = toncell.Address{Hash: sum(fmt.Sprint("payout ", n))}, &gateway, sum(fmt.Sprint("salt ", n))
	return &t
}

func jobDir(dir string, n uint64) string { return filepath.Join(dir, fmt.Sprint("job-", n)) }

func bookOptions(dir string, at toncell.Address, s *job.State) receipt.BookOptions {
	verdict, _ := s.ReleasedTo(job.Hash(public(key("receipt"))))
	return receipt.BookOptions{
		Job: at, GlobalID: devnet.GlobalID, ClientKey: public(key("client key")), Key: key("receipt"), ModelRoot: receipt.Hash(sum("model")),
		Manifest: receipt.Hash(sum("manifest")), Verdict: receipt.Hash(verdict), Price: receipt.Price{Completion: 1_000_000},
		Deposit: coin.Nano(s.Deposited), Credit: flowCredit, Path: filepath.Join(dir, "worker.log"),
	}
}

func payerOptions(dir string, at toncell.Address, s *job.State) receipt.PayerOptions {
	verdict, _ := s.ReleasedTo(job.Hash(public(key("receipt"))))
	return receipt.PayerOptions{
		Job: at, GlobalID: devnet.GlobalID, Key: key("client key"), ReceiptKey: public(key("receipt")), ModelRoot: receipt.Hash(sum("model")),
		Manifest: receipt.Hash(sum("manifest")), Verdict: receipt.Hash(verdict), PriceCap: s.Terms.PriceCap, Deposit: coin.Nano(s.Deposited),
		Path: filepath.Join(dir, "client.log"),
	}
}

// recorded returns the verdicts of the receipt key in a job, newest last.
func recorded(s *job.State) []receipt.Hash {
	var out []receipt.Hash
	for _, h := range slices.SortedFunc(maps.Keys(s.Verdicts), func(a, b job.Hash) int { return s.Verdicts[a].At.Compare(s.Verdicts[b].At) }) {
		if s.Verdicts[h].ReceiptKey == job.Hash(public(key("receipt"))) {
			out = append(out, receipt.Hash(h))
		}
	}
	return out
}

// The nth request, its answer, and what it costs.
func delivery(n uint64) receipt.Delivery {
	return receipt.Delivery{Request: receipt.Hash(sum(fmt.Sprint("request ", n))), Response: receipt.Hash(sum(fmt.Sprint("answer ", n))),
		Tokens: receipt.Tokens{Completion: 10_000 + 1000*(n%7)}}
}

func issue(b *receipt.Book, d receipt.Delivery) (*receipt.Signed, error) {
	a, err := b.Open(flowMost)
	if err != nil {
		return nil, err
	}
	return a.Issue(d)
}

// command is an action that the test wants of client or worker.
type command struct {
	ID  uint64 `json:"id"`
	Do  string `json:"do"`
	Job uint64 `json:"job"`
	N   uint64 `json:"n"`
}

// ask and answer are what client and worker say to each other.
type ask struct {
	Job     uint64          `json:"job"`
	Next    uint64          `json:"next,omitempty"`    // the number of the receipt that is to come
	Voucher json.RawMessage `json:"voucher,omitempty"` // for those so far
}

type answer struct {
	Receipt json.RawMessage `json:"receipt,omitempty"`
	Error   string          `json:"error,omitempty"`
}

// TestFlowChild is one of the processes.
func TestFlowChild(t *testing.T) {
	role, dir := os.Getenv(envRole), os.Getenv(envDir)
	if role == "" {
		t.Skip("runs as a child of TestKilledAtAnyMoment…")
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
	err = retry(t.Context(), func() (err error) { p.wallet, err = p.chain.Wallet(t.Context(), key(role)); return err })
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
	wallet *chain.Wallet

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
	terms := p.terms(c.Job)
	at, err := terms.Address()
	if err != nil {
		return err
	}
	err = retry(ctx, func() error { _, err := p.wallet.State(ctx); return err })
	if err != nil {
		return err
	}
	switch c.Do {
	case "rest":
	case "open":
		_, _, err = p.ledger.OpenJob(ctx, p.wallet, terms, coin.Nano(c.N))
	case "top up":
		_, err = p.ledger.TopUp(ctx, p.wallet, at, coin.Nano(c.N))
	case "close":
		_, _, err = p.ledger.Close(ctx, p.wallet, at)
	case "finish":
		_, _, err = p.ledger.Finish(ctx, p.wallet, at)
	case "buy":
		err = p.buy(ctx, c, at)
	case "release":
		err = p.release(ctx, c, at)
	case "redeem":
		// The newest, or an older one.
		_, had, err1 := readLog(filepath.Join(jobDir(p.dir, c.Job), "worker.log"))
		if err = err1; err == nil && len(had) > 0 {
			_, err = p.ledger.Redeem(ctx, p.wallet, had[len(had)-1-int(c.N)%len(had)])
		}
	default:
		err = fmt.Errorf("told to %q", c.Do)
	}
	return err
}

// release sends a verdict that was not there before.
func (p *party) release(ctx context.Context, c command, at toncell.Address) error {
	st, err := p.wallet.State(ctx)
	if err != nil {
		return err
	}
	t := p.terms(c.Job)
	common := verdictcell.Common{
		GlobalID: devnet.GlobalID, Registry: t.Registry, TrustClass: verdictcell.VTPM, ReceiptKey: [32]byte(public(key("receipt"))),
		Payout: t.Payout, Manifest: sum("manifest"), ModelRoot: t.ModelRoot, PolicyHash: t.PolicyHash, EvidenceSHA256: sum(fmt.Sprint("evidence ", c.ID)),
	}
	hash, err := common.Hash()
	if err != nil {
		return err
	}
	sig, err := verdictcell.Sign(key("verifier"), hash, uint64(st.Utime)-10, uint64(st.Utime)+1800)
	if err != nil {
		return err
	}
	v, err := verdictcell.New(common, sig)
	if err != nil {
		return err
	}
	_, _, err = p.ledger.Release(ctx, p.wallet, at, v)
	return err
}

// served is a job as the worker serves it.
type served struct {
	book   *receipt.Book
	issued []*receipt.Signed
}

// listen answers clients, one after the other.
func (p *party) listen(ctx context.Context) error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	tmp := filepath.Join(p.dir, "worker.addr.new")
	if err := errors.Join(os.WriteFile(tmp, []byte(l.Addr().String()), 0o600), os.Rename(tmp, filepath.Join(p.dir, "worker.addr"))); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.serve(ctx, conn)
			_ = conn.Close()
		}
	}()
	return nil
}

// serve answers until the client is gone. What the job is on chain, it reads
// once.
func (p *party) serve(ctx context.Context, conn net.Conn) {
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	var s *served
	for {
		var q ask
		if err := in.Decode(&q); err != nil {
			return
		}
		var a answer
		var err error
		if s == nil {
			s, err = p.served(ctx, q.Job)
		}
		if err == nil {
			a.Receipt, err = s.answer(&q)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if out.Encode(a) != nil {
			return
		}
	}
}

func (p *party) served(ctx context.Context, n uint64) (*served, error) {
	at, s, err := p.state(ctx, n)
	if err != nil {
		return nil, err
	}
	j := p.jobs[n]
	if j == nil {
		j = &served{}
		opt := bookOptions(jobDir(p.dir, n), at, s)
		if j.issued, _, err = readLog(opt.Path); err != nil {
			return nil, err
		}
		if j.book, err = receipt.OpenBook(opt); err != nil {
			return nil, err
		}
		p.jobs[n] = j
	}
	for _, verdict := range recorded(s) {
		j.book.Chain(coin.Nano(s.Deposited), verdict)
	}
	return j, nil
}

func (j *served) answer(q *ask) (json.RawMessage, error) {
	if q.Voucher != nil {
		v, err := receipt.ParseVoucher(q.Voucher)
		if err != nil {
			return nil, err
		}
		return nil, j.book.Accept(v)
	}
	if q.Next > uint64(len(j.issued)) {
		s, err := issue(j.book, delivery(q.Next))
		if err != nil {
			return nil, err
		}
		j.issued = append(j.issued, s)
	}
	return j.issued[q.Next-1].Marshal()
}

// state reads a job that is released to the worker.
func (p *party) state(ctx context.Context, n uint64) (toncell.Address, *job.State, error) {
	at, err := p.terms(n).Address()
	if err != nil {
		return at, nil, err
	}
	var s *job.State
	err = retry(ctx, func() error { _, err := p.wallet.State(ctx); return err })
	if err == nil {
		s, _, err = p.ledger.Job(ctx, at)
	}
	if err == nil && s.Status != job.Released {
		err = fmt.Errorf("the job is %s", s.Status)
	}
	return at, s, err
}

// buy asks for some answers, one after the other, and pays for each.
func (p *party) buy(ctx context.Context, c command, at toncell.Address) error {
	_, s, err := p.state(ctx, c.Job)
	if err != nil {
		return err
	}
	payer := p.payers[c.Job]
	if payer == nil {
		if payer, err = receipt.OpenPayer(payerOptions(jobDir(p.dir, c.Job), at, s)); err != nil {
			return err
		}
		p.payers[c.Job] = payer
	}
	for _, verdict := range recorded(s) {
		payer.Chain(public(key("receipt")), verdict, coin.Nano(s.Deposited))
	}
	for left := c.N; ; {
		var conn net.Conn
		err := retry(ctx, func() error { // the worker may be on its way up
			addr, err := os.ReadFile(filepath.Join(p.dir, "worker.addr"))
			if err == nil {
				conn, err = net.Dial("tcp4", string(addr))
			}
			return err
		})
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		err = talk(conn, payer, c.Job, &left)
		stop()
		_ = conn.Close()
		if err = cmp.Or(err, ctx.Err()); err != nil || left == 0 {
			return err
		}
	}
}

// talk returns nil where the worker has gone away, or nothing is left to buy
// and all is paid.
func talk(conn net.Conn, p *receipt.Payer, n uint64, left *uint64) error {
	in, out := json.NewDecoder(bufio.NewReader(conn)), json.NewEncoder(conn)
	say := func(q ask) (*answer, error) {
		var a answer
		if out.Encode(q) != nil || in.Decode(&a) != nil {
			return nil, nil
		}
		if a.Error != "" {
			return nil, errors.New(a.Error)
		}
		return &a, nil
	}
	bought := false
	for {
		var next uint64 = 1
		v, err := p.Voucher()
		if err != nil {
			return err
		}
		if v != nil {
			next = v.Voucher.ReceiptCount + 1
			doc, err := v.Marshal()
			if err != nil {
				return err
			}
			if a, err := say(ask{Job: n, Voucher: doc}); a == nil {
				return err
			}
			if bought {
				*left--
			}
		}
		if *left == 0 {
			return nil
		}
		a, err := say(ask{Job: n, Next: next})
		if a == nil {
			return err
		}
		s, err := receipt.Parse(a.Receipt)
		if err != nil {
			return err
		}
		d := delivery(next)
		if _, err := p.Accept(s, receipt.Expect{Request: d.Request, Response: &d.Response, Most: flowMost}); err != nil {
			return err
		}
		bought = true
	}
}
