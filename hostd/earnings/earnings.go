// Package earnings tells an operator what a machine earned: the vouchers that
// were kept and proven state of the chain come in; out go sums for each job
// and in all, what is still to be redeemed, and warnings before gas or stake
// run dry.
//
// A voucher counts only with the signature of the job's client over it, and a
// payment only as the job's proven state has it.
package earnings

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/hostd/vouchers"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// Chain is proven state of the TON network.
type Chain interface {
	Job(ctx context.Context, addr toncell.Address) (*job.State, error)
	// Balance is an account's, in nanoton; 0 for one that does not exist.
	Balance(ctx context.Context, addr toncell.Address) (uint64, error)
}

// Options of a report.
type Options struct {
	Book  vouchers.Book
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

// Claim is a voucher that the job's client has signed, with the job's proven
// state.
type Claim struct {
	Path    string // of the voucher
	Voucher *receipt.SignedVoucher
	State   *job.State
	Job     Job
}

// Claims returns the best voucher of each job, in the order of the jobs'
// addresses. Guests may have left anything: what is damaged, not signed by the
// job's client, or for a job that does not exist, is warned of and hides
// nothing else.
func Claims(ctx context.Context, o Options) ([]Claim, []Warning, error) {
	kept, damaged, err := o.Book.Read()
	if err != nil {
		return nil, nil, err
	}
	warnings := []Warning{}
	for _, err := range damaged {
		warnings = append(warnings, Warning{Code: "earnings.damaged", Message: err.Error(), Remedy: "restore it from a copy, or remove it"})
	}
	states := map[toncell.Address]*job.State{}
	best := map[toncell.Address]Claim{}
	for _, k := range kept {
		v := k.Voucher
		addr := v.Voucher.Job
		st, known := states[addr]
		if !known {
			st, err = o.Chain.Job(ctx, addr)
			if err != nil {
				if fault.ExitCode(err) != fault.ExitRefused {
					return nil, nil, fmt.Errorf("reading job %s: %w", addr, err)
				}
				warnings = append(warnings, Warning{Code: "earnings.no_job", Message: fmt.Sprintf("the voucher %s is for no job: %v", k.Path, err), Remedy: "remove it"})
			}
			states[addr] = st
		}
		if st == nil || o.Payout != nil && st.Terms.Payout != *o.Payout {
			continue
		}
		if !v.Verify(st.Terms.Key()) {
			warnings = append(warnings, Warning{Code: "voucher.signature", Message: fmt.Sprintf("the voucher %s is not signed by the client of job %s", k.Path, addr), Remedy: "remove it"})
			continue
		}
		if old, ok := best[addr]; !ok || old.Voucher.Voucher.Seq < v.Voucher.Seq {
			best[addr] = Claim{Path: k.Path, Voucher: v, State: st, Job: account(v, st)}
		}
	}
	claims := slices.SortedFunc(maps.Values(best), func(a, b Claim) int {
		return strings.Compare(a.Job.Job.String(), b.Job.Job.String())
	})
	return claims, warnings, nil
}

// Make reads the state of every job of which a voucher is kept.
func Make(ctx context.Context, o Options) (*Report, error) {
	claims, warnings, err := Claims(ctx, o)
	if err != nil {
		return nil, err
	}
	r := &Report{Time: o.Now.UTC(), Jobs: []Job{}, Warnings: warnings}
	warn := func(code, remedy, format string, args ...any) {
		r.Warnings = append(r.Warnings, Warning{Code: code, Message: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	var first time.Time
	stakes := map[toncell.Address]uint64{}
	for _, c := range claims {
		v, st, j := c.Voucher, c.State, c.Job
		r.Jobs = append(r.Jobs, j)
		r.Receipts, r.Earned, r.PaidOut, r.Outstanding, r.Fees = r.Receipts+j.Receipts, r.Earned+j.Earned, r.PaidOut+j.PaidOut, r.Outstanding+j.Outstanding, r.Fees+j.Fees
		if !j.Since.IsZero() && (first.IsZero() || j.Since.Before(first)) {
			first = j.Since
		}
		redeem := "cocoon job redeem --voucher " + c.Path
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
