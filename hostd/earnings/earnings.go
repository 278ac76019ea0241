// Package earnings tells an operator what a machine earned: the vouchers that
// were kept and proven state of the chain come in; out go sums for each job
// and in all, what is still to be redeemed, and warnings before gas or stake
// run dry.
//
// A voucher counts only with the signature of the job's client over it, and a
// payment only as the job's proven state has it.
package earnings

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// Limits of what is kept.
const (
	MaxVoucher = 64 << 10 // bytes
	MaxJobs    = 10_000
)

// Book is a directory of vouchers, the newest of each job.
type Book struct{ Dir string }

func (b Book) path(addr toncell.Address) string {
	return filepath.Join(b.Dir, hex.EncodeToString(addr.Hash[:])+".json")
}

// Keep writes a voucher, if it is newer than the one that is kept of its job.
// It says whether it was.
func (b Book) Keep(v *receipt.SignedVoucher) (bool, error) {
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return false, fmt.Errorf("keeping a voucher: %w", err)
	}
	path := b.path(v.Voucher.Job)
	old, err := read(path)
	switch {
	case err == nil && old.Voucher.Seq >= v.Voucher.Seq:
		return false, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return false, err
	}
	doc, err := v.Marshal()
	if err != nil {
		return false, err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, doc, 0o600); err != nil {
		return false, fmt.Errorf("keeping a voucher: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return false, fmt.Errorf("keeping a voucher: %w", err)
	}
	return true, nil
}

// Vouchers returns all that are kept, by job.
func (b Book) Vouchers() ([]*receipt.SignedVoucher, error) {
	entries, err := os.ReadDir(b.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading vouchers: %w", err)
	}
	if len(entries) > MaxJobs {
		return nil, fault.New(fault.ExitParse, "earnings.too_many", "move vouchers of closed jobs elsewhere", "reading vouchers: more than %d in %s", MaxJobs, b.Dir)
	}
	var out []*receipt.SignedVoucher
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		v, err := read(filepath.Join(b.Dir, e.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func read(path string) (*receipt.SignedVoucher, error) {
	st, err := os.Stat(path)
	if err == nil && (!st.Mode().IsRegular() || st.Size() > MaxVoucher) {
		err = fmt.Errorf("%s is no file of at most %d bytes", path, MaxVoucher)
	}
	var doc []byte
	if err == nil {
		doc, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a voucher: %w", err)
	}
	v, err := receipt.ParseVoucher(bytes.TrimSpace(doc))
	if err != nil {
		return nil, fmt.Errorf("reading the voucher %s: %w", filepath.Base(path), err)
	}
	return v, nil
}

// Chain is proven state of the TON network.
type Chain interface {
	Job(ctx context.Context, addr toncell.Address) (*job.State, error)
	// Balance is an account's, in nanoton; 0 for one that does not exist.
	Balance(ctx context.Context, addr toncell.Address) (uint64, error)
}

// Options of a report.
type Options struct {
	Book  Book
	Chain Chain
	Now   time.Time
	// Payout counts only jobs that pay this address; nil: all.
	Payout *toncell.Address
	// Threshold is from when on a job is worth a redemption.
	Threshold coin.Nano
	// Wallet pays for messages; nil: none is watched. Gas is what it should
	// have at least.
	Wallet *toncell.Address
	Gas    coin.Nano
}

// Job is one job's account. Amounts are in nanoton.
type Job struct {
	Job         toncell.Address `json:"job"`
	Payout      toncell.Address `json:"payout"`
	Status      string          `json:"status"`
	Receipts    uint64          `json:"receipts"`    // that the newest voucher covers
	Earned      coin.Nano       `json:"earned"`      // by the newest voucher, or what was paid, the gateway's share taken off
	PaidOut     coin.Nano       `json:"paid_out"`    // to the payout address
	Outstanding coin.Nano       `json:"outstanding"` // what a redemption would bring
	Fees        coin.Nano       `json:"fees"`        // the gateway's share of what was earned
	Since       time.Time       `json:"since"`       // of the first release
}

// Warning is something that loses money if nobody acts.
type Warning struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// Report is what a machine earned.
type Report struct {
	Time        time.Time `json:"time"`
	Jobs        []Job     `json:"jobs"`
	Receipts    uint64    `json:"receipts"`
	Earned      coin.Nano `json:"earned"`
	PaidOut     coin.Nano `json:"paid_out"`
	Outstanding coin.Nano `json:"outstanding"`
	Fees        coin.Nano `json:"fees"`
	// PerHour is Earned over the hours since the first release.
	PerHour  coin.Nano  `json:"per_hour"`
	Wallet   *coin.Nano `json:"wallet,omitempty"`
	Warnings []Warning  `json:"warnings"`
}

// Make reads the state of every job of which a voucher is kept.
func Make(ctx context.Context, o Options) (*Report, error) {
	vs, err := o.Book.Vouchers()
	if err != nil {
		return nil, err
	}
	r := &Report{Time: o.Now.UTC(), Jobs: []Job{}, Warnings: []Warning{}}
	warn := func(code, remedy, format string, args ...any) {
		r.Warnings = append(r.Warnings, Warning{Code: code, Message: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	var first time.Time
	stakes := map[toncell.Address]uint64{}
	for _, v := range vs {
		st, err := o.Chain.Job(ctx, v.Voucher.Job)
		if err != nil {
			return nil, fmt.Errorf("reading job %s: %w", v.Voucher.Job, err)
		}
		if o.Payout != nil && st.Terms.Payout != *o.Payout {
			continue
		}
		if !v.Verify(st.Terms.Key()) {
			return nil, fault.New(fault.ExitRefused, "voucher.signature", "remove it, and fetch the voucher anew", "reading the voucher of job %s: it is not signed by the job's client", v.Voucher.Job)
		}
		j := account(v, st)
		r.Jobs = append(r.Jobs, j)
		r.Receipts, r.Earned, r.PaidOut, r.Outstanding, r.Fees = r.Receipts+j.Receipts, r.Earned+j.Earned, r.PaidOut+j.PaidOut, r.Outstanding+j.Outstanding, r.Fees+j.Fees
		if !j.Since.IsZero() && (first.IsZero() || j.Since.Before(first)) {
			first = j.Since
		}
		redeem := "cocoon job redeem --voucher " + o.Book.path(j.Job)
		switch {
		case j.Outstanding > 0 && st.Status == job.Closing:
			warn("earnings.closing", redeem, "job %s closes at %s with %s TON not redeemed", j.Job, st.CloseAt.UTC().Format(time.RFC3339), j.Outstanding)
		case j.Outstanding > 0 && j.Outstanding >= o.Threshold && st.Status == job.Released:
			warn("earnings.threshold", redeem, "job %s has %s TON to redeem", j.Job, j.Outstanding)
		}
		if v.Voucher.Amount > coin.Nano(st.Deposited) {
			warn("earnings.deposit", "serve no more until the client tops the job up", "job %s owes %s TON and holds %s", j.Job, v.Voucher.Amount, coin.Nano(st.Deposited))
		}
		if s := st.Terms.Stake; s != nil && st.Status != job.Closed {
			stakes[*s] = max(stakes[*s], st.Terms.MinStake)
		}
	}
	slices.SortFunc(r.Jobs, func(a, b Job) int { return strings.Compare(a.Job.String(), b.Job.String()) })
	if h := o.Now.Sub(first).Hours(); !first.IsZero() && h > 0 {
		r.PerHour = coin.Nano(float64(r.Earned) / max(h, 1))
	}
	for addr, least := range stakes {
		n, err := o.Chain.Balance(ctx, addr)
		if err != nil {
			return nil, fmt.Errorf("reading stake %s: %w", addr, err)
		}
		if n < least+uint64(o.Gas) {
			warn("earnings.stake", "top the worker contract up: below the least stake clients stop paying", "worker contract %s holds %s TON; its jobs ask for %s", addr, coin.Nano(n), coin.Nano(least))
		}
	}
	if o.Wallet != nil {
		n, err := o.Chain.Balance(ctx, *o.Wallet)
		if err != nil {
			return nil, fmt.Errorf("reading wallet: %w", err)
		}
		c := coin.Nano(n)
		if r.Wallet = &c; c < o.Gas {
			warn("earnings.gas", "send TON to the wallet", "the wallet has %s TON, less than %s: redemptions may fail", c, o.Gas)
		}
	}
	slices.SortFunc(r.Warnings, func(a, b Warning) int { return strings.Compare(a.Code+a.Message, b.Code+b.Message) })
	return r, nil
}

// account compares what a voucher promises with what was paid. A closed job
// pays no more. No job pays more than it holds.
func account(v *receipt.SignedVoucher, st *job.State) Job {
	j := Job{Job: v.Voucher.Job, Payout: st.Terms.Payout, Status: st.Status.String(), Receipts: max(v.Voucher.ReceiptCount, st.ReceiptCount)}
	for _, rec := range st.Verdicts {
		if j.Since.IsZero() || rec.At.Before(j.Since) {
			j.Since = rec.At
		}
	}
	net := func(amount uint64) coin.Nano { return coin.Nano(amount - st.Terms.Fee(amount)) }
	total := max(min(uint64(v.Voucher.Amount), st.Deposited), st.Paid)
	j.PaidOut = net(st.Paid)
	if st.Status == job.Closed {
		total = st.Paid
	}
	j.Earned, j.Fees = net(total), coin.Nano(st.Terms.Fee(total))
	j.Outstanding = j.Earned - j.PaidOut
	return j
}
