package model_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"

	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/internal/toncell"
)

func jobDir(dir string, n uint64) string { return filepath.Join(dir, fmt.Sprint("job-", n)) }

func bookOptions(dir string, at toncell.Address, s *job.State) receipt.BookOptions {
	verdict, _ := s.ReleasedTo(public("receipt 1"))
	return receipt.BookOptions{
		Job: at, GlobalID: devnet.GlobalID, ClientKey: key("client").Public().(ed25519.PublicKey), Key: key("receipt 1"), ModelRoot: receipt.Hash(sum("model")),
		Manifest: receipt.Hash(sum("manifest")), Verdict: receipt.Hash(verdict), Price: receipt.Price{Completion: flowPrice},
		Deposit: coin.Nano(s.Deposited), Credit: flowCredit, Path: filepath.Join(dir, "worker.log"),
	}
}

func payerOptions(dir string, at toncell.Address, s *job.State) receipt.PayerOptions {
	verdict, _ := s.ReleasedTo(public("receipt 1"))
	return receipt.PayerOptions{
		Job: at, GlobalID: devnet.GlobalID, Key: key("client"), ReceiptKey: key("receipt 1").Public().(ed25519.PublicKey), ModelRoot: receipt.Hash(sum("model")),
		Manifest: receipt.Hash(sum("manifest")), Verdict: receipt.Hash(verdict), PriceCap: s.Terms.PriceCap, Deposit: coin.Nano(s.Deposited),
		Path: filepath.Join(dir, "client.log"),
	}
}

// recorded returns the verdicts of the receipt key in a job, newest last.
func recorded(s *job.State) []receipt.Hash {
	var out []receipt.Hash
	for _, h := range slices.SortedFunc(maps.Keys(s.Verdicts), func(a, b job.Hash) int { return s.Verdicts[a].At.Compare(s.Verdicts[b].At) }) {
		if s.Verdicts[h].ReceiptKey == public("receipt 1") {
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

// ask and answer are what client and worker say to each other.
type ask struct {
	Job     uint64          `json:"job"`
	At      toncell.Address `json:"at"`
	Next    uint64          `json:"next,omitempty"`    // the number of the receipt that is to come
	Voucher json.RawMessage `json:"voucher,omitempty"` // for those so far
}

type answer struct {
	Receipt json.RawMessage `json:"receipt,omitempty"`
	Error   string          `json:"error,omitempty"`
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
			s, err = p.served(ctx, &q)
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

func (p *party) served(ctx context.Context, q *ask) (*served, error) {
	at, n := q.At, q.Job
	s, err := p.state(ctx, at)
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
func (p *party) state(ctx context.Context, at toncell.Address) (*job.State, error) {
	var s *job.State
	err := retry(ctx, func() (err error) { s, _, err = p.ledger.Job(ctx, at); return err })
	if err != nil {
		return nil, err
	}
	if _, ok := s.ReleasedTo(public("receipt 1")); !ok || s.Status != job.Released {
		return nil, fmt.Errorf("the job is %s, or to another key", s.Status)
	}
	return s, nil
}

// buy asks for some answers, one after the other, and pays for each.
func (p *party) buy(ctx context.Context, c command) error {
	at := c.At
	s, err := p.state(ctx, at)
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
		payer.Chain(key("receipt 1").Public().(ed25519.PublicKey), verdict, coin.Nano(s.Deposited))
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
		err = talk(conn, payer, &c, &left)
		stop()
		_ = conn.Close()
		if err = cmp.Or(err, ctx.Err()); err != nil || left == 0 {
			return err
		}
	}
}

// talk returns nil where the worker has gone away, or nothing is left to buy
// and all is paid.
func talk(conn net.Conn, p *receipt.Payer, c *command, left *uint64) error {
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
			if a, err := say(ask{Job: c.Job, At: c.At, Voucher: doc}); a == nil {
				return err
			}
			if bought {
				*left--
			}
		}
		if *left == 0 {
			return nil
		}
		a, err := say(ask{Job: c.Job, At: c.At, Next: next})
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

// readLog reads the receipts and vouchers of a log that may be written
// meanwhile, or was cut short.
func readLog(path string) (rs []*receipt.Signed, vs []*receipt.SignedVoucher, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var rec struct{ Receipt, Voucher json.RawMessage }
		if err := json.Unmarshal(line[9:], &rec); err != nil {
			return nil, nil, err
		}
		if rec.Receipt != nil {
			s, err := receipt.Parse(rec.Receipt)
			if err != nil {
				return nil, nil, err
			}
			rs = append(rs, s)
			continue
		}
		v, err := receipt.ParseVoucher(rec.Voucher)
		if err != nil {
			return nil, nil, err
		}
		vs = append(vs, v)
	}
	return rs, vs, nil
}
