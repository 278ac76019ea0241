package ledger_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/internal/toncell"
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
	Listen   string
	Config   json.RawMessage
	Job      toncell.Address
	Verdict  receipt.Hash
	Deposit  coin.Nano
	PriceCap uint64
	NetDir   string
}

func (f *flow) book(dir string) receipt.BookOptions {
	return receipt.BookOptions{
		Job: f.Job, GlobalID: devnet.GlobalID, ClientKey: public(key("client key")), Key: key("receipt"), ModelRoot: receipt.Hash(sum("model")),
		Manifest: receipt.Hash(sum("manifest")), Verdict: f.Verdict, Price: receipt.Price{Completion: 1_000_000},
		Deposit: f.Deposit, Credit: flowCredit, Path: filepath.Join(dir, "worker.log"),
	}
}

func (f *flow) payer(dir string) receipt.PayerOptions {
	return receipt.PayerOptions{
		Job: f.Job, GlobalID: devnet.GlobalID, Key: key("client key"), ReceiptKey: public(key("receipt")), ModelRoot: receipt.Hash(sum("model")),
		Manifest: receipt.Hash(sum("manifest")), Verdict: f.Verdict, PriceCap: f.PriceCap, Deposit: f.Deposit, Path: filepath.Join(dir, "client.log"),
	}
}

// The nth request, its answer, and what it costs.
func delivery(n uint64) receipt.Delivery {
	return receipt.Delivery{Request: receipt.Hash(sum(fmt.Sprint("request ", n))), Response: receipt.Hash(sum(fmt.Sprint("answer ", n))),
		Tokens: receipt.Tokens{Completion: 10_000 + 1000*(n%7)}}
}

// ask and answer are what client and worker say to each other.
type ask struct {
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
		t.Skip("runs as a child of TestKilledAtAnyMomentTheFlowLosesNothing")
	}
	doc, err := os.ReadFile(filepath.Join(dir, "flow.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f flow
	if err := json.Unmarshal(doc, &f); err != nil {
		t.Fatal(err)
	}
	switch role {
	case roleDevnet:
		if _, err = devnet.Start(t.Context(), devnet.Options{Dir: f.NetDir, Listen: f.Listen, TVM: engine}); err == nil {
			select {}
		}
	case roleWorker:
		err = f.serve(t.Context(), dir)
	case roleClient:
		err = f.buy(dir)
	}
	t.Fatal(err)
}

// serve answers, keeps vouchers and redeems them now and then.
func (f *flow) serve(ctx context.Context, dir string) error {
	issued, _, err := readLog(filepath.Join(dir, "worker.log"))
	if err != nil {
		return err
	}
	book, err := receipt.OpenBook(f.book(dir))
	if err != nil {
		return err
	}
	c, err := chain.Open(f.Config, chain.Options{TVM: engine})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "worker.addr.new")
	if err := errors.Join(os.WriteFile(tmp, []byte(l.Addr().String()), 0o600), os.Rename(tmp, filepath.Join(dir, "worker.addr"))); err != nil {
		return err
	}
	var redeeming atomic.Bool
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		in, out := json.NewDecoder(conn), json.NewEncoder(conn)
		for {
			var q ask
			if err := in.Decode(&q); err != nil {
				break // the client was killed
			}
			var a answer
			switch {
			case q.Voucher != nil:
				v, err := receipt.ParseVoucher(q.Voucher)
				if err == nil {
					err = book.Accept(v)
				}
				if err != nil {
					a.Error = err.Error()
				} else if v.Voucher.Seq%3 == 0 && redeeming.CompareAndSwap(false, true) {
					go func() {
						defer redeeming.Store(false)
						one, cancel := context.WithTimeout(ctx, 5*time.Second)
						defer cancel()
						// The chain may be killed meanwhile: a later voucher says more.
						w, err := c.Wallet(one, key("worker"))
						if err == nil {
							_, err = ledger.New(c, nil).Redeem(one, w, v)
						}
						if err == nil {
							fmt.Println("redeemed", v.Voucher.Seq)
						}
					}()
				}
			case q.Next <= uint64(len(issued)):
				a.Receipt, err = issued[q.Next-1].Marshal()
			default:
				var s *receipt.Signed
				if s, err = issue(book, delivery(q.Next)); err == nil {
					issued = append(issued, s)
					a.Receipt, err = s.Marshal()
				}
			}
			if err != nil {
				a.Error = err.Error()
			}
			if out.Encode(a) != nil {
				break
			}
		}
		_ = conn.Close()
	}
}

func issue(b *receipt.Book, d receipt.Delivery) (*receipt.Signed, error) {
	a, err := b.Open(flowMost)
	if err != nil {
		return nil, err
	}
	return a.Issue(d)
}

// buy asks for one answer after the other and pays for each.
func (f *flow) buy(dir string) error {
	p, err := receipt.OpenPayer(f.payer(dir))
	if err != nil {
		return err
	}
	for {
		addr, err := os.ReadFile(filepath.Join(dir, "worker.addr"))
		if err != nil {
			return err
		}
		conn, err := net.Dial("tcp4", string(addr))
		if err != nil {
			time.Sleep(5 * time.Millisecond) // the worker is on its way up
			continue
		}
		if err := f.talk(conn, p); err != nil {
			return err
		}
		_ = conn.Close()
	}
}

// talk returns nil where the worker has gone away.
func (f *flow) talk(conn net.Conn, p *receipt.Payer) error {
	in, out := json.NewDecoder(bufio.NewReader(conn)), json.NewEncoder(conn)
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
			var a answer
			if out.Encode(ask{Voucher: doc}) != nil || in.Decode(&a) != nil {
				return nil
			}
			if a.Error != "" {
				return errors.New(a.Error)
			}
			fmt.Println("paid", v.Voucher.ReceiptCount)
		}
		var a answer
		if out.Encode(ask{Next: next}) != nil || in.Decode(&a) != nil {
			return nil
		}
		if a.Error != "" {
			return errors.New(a.Error)
		}
		s, err := receipt.Parse(a.Receipt)
		if err != nil {
			return err
		}
		d := delivery(next)
		if _, err := p.Accept(s, receipt.Expect{Request: d.Request, Response: &d.Response, Most: flowMost}); err != nil {
			return err
		}
	}
}
