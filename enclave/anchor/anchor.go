// Package anchor ties a data disk to its worker contract's boot generation, so
// that the host cannot put back an older state of it unseen (DESIGN section 5:
// the disk must carry this generation or the next).
//
// Every boot writes the contract's generation plus one on the disk and waits
// until the owner has announced that boot on chain. A copy of the disk from
// before then carries less than the contract and is refused for good. The
// record names the contract, so that leaving it out of operator.json does not
// help, and a key block of its chain, which later boots continue from: a host
// that serves a chain of its own making cannot have the contract on it. While
// the machine serves, the generation is read again and again; a boot of another
// copy, announced meanwhile, ends this one.
//
// What is not told apart: states of the disk within one boot, and single blocks
// of any boot, whose tags say where they are and not when they were written. A
// host that puts back all of an old disk but the blocks of the record is not
// noticed here. A blank disk is taken, at the next generation: nothing on it can
// be old.
package anchor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xssnick/tonutils-go/ton"

	"cocoon/contracts/chain"
	"cocoon/contracts/worker"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// Codes of faults.
const (
	CodeRecord       = "data.anchor_record"
	CodeRolledBack   = "data.rolled_back"
	CodeAhead        = "data.generation_ahead"
	CodeNoWorker     = "data.anchor_unnamed"
	CodeOtherWorker  = "data.anchor_other_worker"
	CodeNotAnnounced = "data.not_announced"
	CodeSuperseded   = "data.superseded"
	CodeTerms        = "data.anchor_terms"
	CodeNetwork      = "ledger.wrong_network"
)

const remedyDisk = "give the machine its own data disk as its last boot left it, or an empty one"

// DefaultPoll is how often the contract is read while its owner's announcement
// is awaited; watchEvery, while the machine serves.
const (
	DefaultPoll = 3 * time.Second
	watchEvery  = time.Minute
)

// Chain reads the worker contract's proven state. *contracts/ledger.Ledger has
// Worker, *contracts/chain.Client KeyBlock.
type Chain interface {
	Worker(ctx context.Context, addr toncell.Address) (*worker.State, *chain.State, error)
	KeyBlock() ton.BlockIDExt
}

// Options describe a boot.
type Options struct {
	Dir      string           // where the disk is mounted
	Blank    bool             // this boot made its file system
	Worker   *toncell.Address // contract that operator.json names; nil for none
	Payout   toncell.Address  // of the claims
	Registry toncell.Address  // of the measured config
	GlobalID int32            // of the measured config
	Chain    Chain
	// Await is told once what the owner is to announce.
	Await func(error)
	Poll  time.Duration // 0 for DefaultPoll
}

// Anchor is a boot that has taken its data disk.
type Anchor struct {
	opt        Options
	generation uint64
}

// Hold checks the disk against the contract, takes it for this boot and waits
// until the owner has announced it; ctx bounds the wait. It returns nil for a
// disk that is tied to no contract and is not to be. This is the only place
// that decides about a disk's age.
func Hold(ctx context.Context, o Options) (*Anchor, error) {
	if o.Poll == 0 {
		o.Poll = DefaultPoll
	}
	rec, err := Read(o.Dir)
	if err != nil {
		return nil, err
	}
	switch {
	case rec == nil && o.Worker == nil:
		return nil, nil
	case o.Worker == nil:
		return nil, fault.Mismatch(fault.ExitRefused, CodeNoWorker, "the worker contract that operator.json names", rec.Worker.String(), "none",
			`name it there: "worker"`)
	case rec != nil && rec.Worker != *o.Worker:
		return nil, fault.Mismatch(fault.ExitRefused, CodeOtherWorker, "the data disk's worker contract", rec.Worker.String(), o.Worker.String(), remedyDisk)
	}
	a := &Anchor{opt: o}
	s, err := a.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkAge(rec, o.Blank, s.Generation); err != nil {
		return nil, err
	}
	a.generation = s.Generation + 1
	next := &Record{Format: Format, Worker: *o.Worker, Generation: a.generation, KeyBlock: NewBlock(o.Chain.KeyBlock())}
	if err := next.write(o.Dir); err != nil {
		return nil, err
	}
	return a, a.await(ctx)
}

// checkAge compares the disk with the contract's generation.
func checkAge(rec *Record, blank bool, announced uint64) error {
	if blank || rec == nil && announced == 0 {
		return nil // nothing on it, or the first boot that is counted
	}
	carries := uint64(0)
	if rec != nil {
		carries = rec.Generation
	}
	want := fmt.Sprintf("%d or %d", announced, announced+1)
	switch {
	case carries < announced:
		return fault.Mismatch(fault.ExitRefused, CodeRolledBack, "the data disk's boot generation", want, fmt.Sprint(carries), remedyDisk)
	case carries > announced+1:
		return fault.Mismatch(fault.ExitRefused, CodeAhead, "the data disk's boot generation", want, fmt.Sprint(carries),
			"give the machine lite-servers that follow the chain: its contract has counted more boots than they show")
	}
	return nil
}

// read returns the contract's state, if it is this machine's.
func (a *Anchor) read(ctx context.Context) (*worker.State, error) {
	o := &a.opt
	s, st, err := o.Chain.Worker(ctx, *o.Worker)
	if err != nil {
		return nil, err
	}
	if st.GlobalID != o.GlobalID {
		return nil, fault.Mismatch(fault.ExitRefused, CodeNetwork, "the TON network", fmt.Sprint(o.GlobalID), fmt.Sprint(st.GlobalID),
			"give the machine the lite-servers of its config's network")
	}
	var errs []error
	need := func(what string, want, got toncell.Address) {
		if want != got {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeTerms, "the worker contract's "+what, want.String(), got.String(), "name this machine's own worker contract in operator.json"))
		}
	}
	need("payout", o.Payout, s.Terms.Payout)
	need("registry", o.Registry, s.Terms.Registry)
	return s, errors.Join(errs...)
}

// await returns once the contract's generation is this boot's.
func (a *Anchor) await(ctx context.Context) error {
	told := false
	for {
		announced, err := a.Check(ctx)
		if announced || err != nil && fault.ExitCode(err) != fault.ExitNetwork {
			return err
		}
		missing := fault.New(fault.ExitNotReady, CodeNotAnnounced,
			fmt.Sprintf("announce the boot with the owner's wallet: cocoon worker advance %s --generation %d --config global.config.json --key wallet.key", a.opt.Worker, a.generation),
			"waiting for boot %d of worker contract %s: it is not announced yet", a.generation, a.opt.Worker)
		if !told && a.opt.Await != nil {
			told = true
			a.opt.Await(missing)
		}
		t := time.NewTimer(a.opt.Poll)
		select {
		case <-ctx.Done():
			t.Stop()
			return errors.Join(missing, err)
		case <-t.C:
		}
	}
}

// Check says whether the boot is announced. A later boot's announcement is a
// fault: another copy of the disk goes on from there.
func (a *Anchor) Check(ctx context.Context) (bool, error) {
	s, err := a.read(ctx)
	if err != nil {
		return false, err
	}
	if s.Generation > a.generation {
		return false, fault.Mismatch(fault.ExitRefused, CodeSuperseded, "the worker contract's boot generation", fmt.Sprint(a.generation), fmt.Sprint(s.Generation),
			"boot only one machine with this worker contract, and announce a boot only when it asks for it; then start with an empty data disk")
	}
	return s.Generation == a.generation, nil
}

// Watch returns why the disk is no longer this boot's, or nil when ctx ends.
// That the chain cannot be read proves nothing: without it the machine serves
// no job for long.
func (a *Anchor) Watch(ctx context.Context) error {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if _, err := a.Check(ctx); fault.Has(err, CodeSuperseded) {
			return err
		}
	}
}
