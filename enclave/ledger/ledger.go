// Package ledger is the worker's view of the jobs that pay it: which are
// released to this enclave, what they owe, and the vouchers that promise it.
// In come job addresses and vouchers from clients; job states come proven from
// the chain (package contracts/ledger), so that no lite-server is trusted; out
// go receipts. The books belong to one boot, whose receipt key they are kept
// for; where they are files in RAM they die with it.
package ledger

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	contracts "cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/enclave/serve"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
)

// Limits and defaults.
const (
	// MaxJobs bounds the jobs of one boot. Each costs its client a deposit and
	// a verdict on chain.
	MaxJobs = 1024
	// CreditTokens is what is delivered to a job beyond its last voucher, as
	// tokens at the job's price.
	CreditTokens = 1 << 17
	// fresh is how long a proven job state admits requests. A job that its
	// client closes meanwhile can still be redeemed for minCloseDelay.
	fresh = 10 * time.Second
	// maxStale bounds the age of the block that proves a state: an old state is
	// true, but the job may have ended since.
	maxStale = 5 * time.Minute
	// maxAhead is how far a block may be ahead of this machine's clock.
	maxAhead      = 2 * time.Minute
	minCloseDelay = time.Minute
	maxRecent     = 64 // receipts kept for clients whose connection broke
)

// Codes of faults.
const (
	CodeMalformed = "job.malformed"
	CodeTooMany   = "job.too_many"
	CodeModel     = "job.wrong_model" // also of a job whose terms name another (contracts/ledger)
	CodeContinued = "job.served_before"
	CodeStale     = "ledger.stale"
	CodeClock     = "clock.chain"
	CodeNetwork   = "ledger.wrong_network"
	CodeUnknown   = "voucher.mismatch"
	CodeNoReceipt = "receipt.unknown"
	CodeNoVoucher = "voucher.unknown"
)

// Chain reads proven job states. *contracts/ledger.Ledger is one.
type Chain interface {
	Job(ctx context.Context, addr toncell.Address) (*job.State, *chain.State, error)
}

// Options of a Ledger.
type Options struct {
	Chain    Chain
	GlobalID int32              // TON network of the measured config
	Registry toncell.Address    // of the measured config
	Models   []Model            // of the measured config; a job is for one of them
	Payout   toncell.Address    // of the claims
	Key      ed25519.PrivateKey // receipt key
	// Manifest returns that of the verdict in force for a model.
	Manifest func(model string) (receipt.Hash, error)
	Dir      string // where the books are kept; exists
	// OnVoucher, where not nil, gets each job's newest voucher once it is in
	// the book, to be kept where it outlives this machine.
	OnVoucher func(*receipt.SignedVoucher)
	Clock     func() time.Time
}

// Model is what jobs are opened for.
type Model struct {
	Name  string
	Root  receipt.Hash // verity root of its pack
	Price uint64       // nanoton per million tokens, 0 for each job's cap
}

// Ledger implements serve.Ledger.
type Ledger struct {
	opt Options

	mu   sync.Mutex
	jobs map[toncell.Address]*entry
}

// entry is one job. Its mutex is held while the chain is asked, so that
// requests of one job ask once.
type entry struct {
	mu      sync.Mutex
	book    *receipt.Book // nil until the job was found released
	model   *Model        // that the book is for
	price   receipt.Price
	checked time.Time
	deposit coin.Nano
	verdict receipt.Hash
	// forgotten entries are no longer in the ledger.
	forgotten bool

	recentMu sync.Mutex
	recent   []recent
}

type recent struct {
	request receipt.Hash
	seq     uint64
	doc     []byte
}

// New returns a Ledger without books.
func New(opt Options) *Ledger {
	return &Ledger{opt: opt, jobs: map[toncell.Address]*entry{}}
}

var _ serve.Ledger = (*Ledger)(nil)

func parseJob(s string) (toncell.Address, error) {
	addr, err := toncell.ParseAddress(s)
	if err != nil {
		return addr, fault.New(fault.ExitParse, CodeMalformed, "give the job's address, raw or user-friendly", "reading job: %w", err)
	}
	return addr, nil
}

// Open implements serve.Ledger.
func (l *Ledger) Open(ctx context.Context, jobText, model string, most serve.Usage) (serve.Account, error) {
	addr, err := parseJob(jobText)
	if err != nil {
		return nil, err
	}
	m, err := l.model(model)
	if err != nil {
		return nil, err
	}
	e, err := l.lock(addr)
	if err != nil {
		return nil, err
	}
	defer e.mu.Unlock()
	if err := l.refresh(ctx, e, addr, m); err != nil {
		if e.book == nil {
			l.forget(addr, e)
		}
		return nil, err
	}
	cost, err := e.price.Bill(receipt.Tokens{Prompt: most.Prompt, Completion: most.Completion})
	if err != nil {
		return nil, fault.New(fault.ExitRefused, CodeMalformed, "send a smaller request", "pricing the request: %w", err)
	}
	a, err := e.book.Open(cost)
	if err != nil {
		return nil, err
	}
	return &account{job: addr.String(), entry: e, account: a}, nil
}

// model returns the model of a name.
func (l *Ledger) model(name string) (*Model, error) {
	for i := range l.opt.Models {
		if m := &l.opt.Models[i]; m.Name == name {
			return m, nil
		}
	}
	return nil, fault.New(fault.ExitRefused, CodeModel, "ask for a model of this worker's", "opening a job for model %.64q: it is not served here", name)
}

// lock returns the job's entry, locked, making it where it does not exist.
func (l *Ledger) lock(addr toncell.Address) (*entry, error) {
	for {
		l.mu.Lock()
		e := l.jobs[addr]
		if e == nil {
			if len(l.jobs) >= MaxJobs {
				l.mu.Unlock()
				return nil, fault.New(fault.ExitNotReady, CodeTooMany, "choose another worker", "opening job %s: the worker has %d jobs", addr, MaxJobs)
			}
			e = &entry{}
			l.jobs[addr] = e
		}
		l.mu.Unlock()
		e.mu.Lock()
		if !e.forgotten {
			return e, nil
		}
		e.mu.Unlock() // its job was refused while this request waited for it
	}
}

// forget removes a locked entry that never got a book, so that refused jobs
// take no room.
func (l *Ledger) forget(addr toncell.Address, e *entry) {
	e.forgotten = true
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.jobs, addr)
}

// refresh makes sure that the job is, by a recent proof, released to this
// enclave, and that it has a book. This is where an unpaid request ends
// (DESIGN section 5: without release the worker serves nothing), and one for
// another model than the job's, whose verdict, price and receipts are its own.
func (l *Ledger) refresh(ctx context.Context, e *entry, addr toncell.Address, m *Model) error {
	if e.book != nil && e.model != m {
		return fault.Mismatch(fault.ExitRefused, CodeModel, "the model of a request that job "+addr.String()+" pays for", e.model.Name, m.Name,
			"ask for the job's model, or open a job for this one")
	}
	now := l.opt.Clock()
	if e.book != nil && now.Sub(e.checked) < fresh {
		return nil
	}
	s, st, err := l.opt.Chain.Job(ctx, addr)
	if err != nil {
		return err
	}
	if st.GlobalID != l.opt.GlobalID {
		return fault.Mismatch(fault.ExitRefused, CodeNetwork, "the TON network", fmt.Sprint(l.opt.GlobalID), fmt.Sprint(st.GlobalID),
			"give the machine the lite-servers of its config's network")
	}
	if err := CheckClock(now, st); err != nil {
		return err
	}
	verdict, err := contracts.CheckRelease(s, contracts.Demand{
		ReceiptKey: l.opt.Key.Public().(ed25519.PublicKey), Payout: l.opt.Payout, Registry: l.opt.Registry,
		ModelRoot: job.Hash(m.Root), Price: m.Price, MinCloseDelay: minCloseDelay,
	})
	if err != nil {
		return err
	}
	e.deposit, e.verdict = coin.Nano(s.Deposited), receipt.Hash(verdict)
	if e.book == nil {
		if err := l.openBook(e, addr, s, m); err != nil {
			return err
		}
	}
	e.book.Chain(e.deposit, e.verdict)
	e.checked = now
	return nil
}

// CheckClock holds this machine's clock, which is the host's, against the time
// of the chain's newest block. A block from the future shows that the clock is
// behind; an old one that the clock is ahead, or that the chain's servers show
// an old state. Either way nothing that depends on time may be decided.
func CheckClock(now time.Time, st *chain.State) error {
	block := time.Unix(int64(st.Utime), 0)
	switch age := now.Sub(block); {
	case age > maxStale:
		return fault.Mismatch(fault.ExitNetwork, CodeStale, "the age of the newest block", "at most "+maxStale.String(), age.Truncate(time.Second).String(),
			"give the machine lite-servers that follow the chain; if they do, set the host's clock")
	case age < -maxAhead:
		return fault.Mismatch(fault.ExitNotReady, CodeClock, "this machine's clock", "at least that of the newest block, "+block.UTC().Format(time.RFC3339),
			now.UTC().Format(time.RFC3339), "set the host's clock, which the guest reads at its boot, and restart the machine")
	}
	return nil
}

// openBook begins the job's book. Amounts and receipts are cumulative over the
// job's life, and an earlier boot's are gone: a job that another receipt key
// was recorded for, or that was paid from, cannot be continued here.
func (l *Ledger) openBook(e *entry, addr toncell.Address, s *job.State, m *Model) error {
	own := job.Hash(l.opt.Key.Public().(ed25519.PublicKey))
	foreign := s.Paid != 0 || s.ReceiptCount != 0
	for _, v := range s.Verdicts {
		foreign = foreign || v.ReceiptKey != own
	}
	if foreign {
		return fault.New(fault.ExitRefused, CodeContinued, "redeem its last voucher, close it, and open another job",
			"opening job %s: an earlier boot of a worker served it, and its receipts are not here", addr)
	}
	manifest, err := l.opt.Manifest(m.Name)
	if err != nil {
		return err
	}
	price := m.Price
	if price == 0 {
		price = s.Terms.PriceCap
	}
	e.price = receipt.Price{Prompt: price, Cached: price, Completion: price, Reasoning: price}
	credit, err := e.price.Bill(receipt.Tokens{Completion: CreditTokens})
	if err != nil {
		return fault.New(fault.ExitRefused, "job.terms", "open a job with a lower price cap", "pricing job %s: %w", addr, err)
	}
	e.model = m
	e.book, err = receipt.OpenBook(receipt.BookOptions{
		Job: addr, GlobalID: l.opt.GlobalID, ClientKey: s.Terms.Key(), Key: l.opt.Key,
		ModelRoot: m.Root, Manifest: manifest, Verdict: e.verdict,
		Price: e.price, Deposit: e.deposit, Credit: credit,
		Path:  bookPath(l.opt.Dir, addr),
		Clock: l.opt.Clock,
	})
	return err
}

func bookPath(dir string, addr toncell.Address) string {
	return filepath.Join(dir, fmt.Sprintf("%d-%x.log", addr.Workchain, addr.Hash))
}

// book returns the book of a job that was served in this boot.
func (l *Ledger) book(addr toncell.Address) (*entry, *receipt.Book) {
	l.mu.Lock()
	e := l.jobs[addr]
	l.mu.Unlock()
	if e == nil {
		return nil, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e, e.book
}

// standing is the answer to a voucher: what is owed and promised, in nanoton.
type standing struct {
	Owed     coin.Nano `json:"owed"`
	Promised coin.Nano `json:"promised"`
}

// Accept implements serve.Ledger: doc is a receipt.SignedVoucher.
func (l *Ledger) Accept(_ context.Context, doc []byte) ([]byte, error) {
	v, err := receipt.ParseVoucher(doc)
	if err != nil {
		return nil, err
	}
	_, b := l.book(v.Voucher.Job)
	if b == nil {
		return nil, fault.New(fault.ExitRefused, CodeUnknown, "send vouchers to the worker that issued the receipts",
			"accepting voucher: job %s was not served here", v.Voucher.Job)
	}
	if err := b.Accept(v); err != nil {
		return nil, err
	}
	if l.opt.OnVoucher != nil {
		// Not v: another request may have brought a newer one meanwhile.
		l.opt.OnVoucher(b.Voucher())
	}
	var s standing
	s.Owed, s.Promised = b.Owed()
	return jcs.Marshal(s)
}

// Voucher implements serve.Ledger: the answer is a receipt.SignedVoucher. It
// is no secret: the contract shows it when it is redeemed.
func (l *Ledger) Voucher(_ context.Context, jobText string) ([]byte, error) {
	addr, err := parseJob(jobText)
	if err != nil {
		return nil, err
	}
	if _, b := l.book(addr); b != nil {
		if v := b.Voucher(); v != nil {
			return v.Marshal()
		}
	}
	return nil, fault.New(fault.ExitRefused, CodeNoVoucher, "wait for the client's first voucher", "looking for the voucher of job %s: there is none", addr)
}

// Receipt implements serve.Ledger: the answer is a receipt.Signed. It is given
// only to whoever knows the request's hash: a job's address is public, and what
// its client asked is not to be guessed from receipts.
func (l *Ledger) Receipt(_ context.Context, jobText, request, before string) ([]byte, error) {
	addr, err := parseJob(jobText)
	if err != nil {
		return nil, err
	}
	var want receipt.Hash
	if err := want.UnmarshalText([]byte(request)); err != nil {
		return nil, fault.New(fault.ExitParse, CodeMalformed, "give the SHA-256 of the request's body, hex", "looking for a receipt: %w", err)
	}
	limit := uint64(math.MaxUint64)
	if before != "" {
		if limit, err = strconv.ParseUint(before, 10, 64); err != nil {
			return nil, fault.New(fault.ExitParse, CodeMalformed, "give the number of a receipt", "looking for a receipt: %w", err)
		}
	}
	if e, _ := l.book(addr); e != nil {
		if doc := e.find(want, limit); doc != nil {
			return doc, nil
		}
	}
	return nil, fault.New(fault.ExitRefused, CodeNoReceipt, "wait until the engine has stopped", "looking for a receipt: there is none for this request")
}

func (e *entry) find(request receipt.Hash, before uint64) []byte {
	e.recentMu.Lock()
	defer e.recentMu.Unlock()
	for i := len(e.recent) - 1; i >= 0; i-- {
		if e.recent[i].request == request && e.recent[i].seq < before {
			return e.recent[i].doc
		}
	}
	return nil
}

func (e *entry) keep(request receipt.Hash, seq uint64, doc []byte) {
	e.recentMu.Lock()
	defer e.recentMu.Unlock()
	if len(e.recent) == maxRecent {
		e.recent = append(e.recent[:0], e.recent[1:]...)
	}
	e.recent = append(e.recent, recent{request, seq, doc})
}

// Close closes the books.
func (l *Ledger) Close() error {
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.jobs))
	l.mu.Unlock()
	var errs []error
	for _, e := range all {
		e.mu.Lock()
		if e.book != nil {
			errs = append(errs, e.book.Close())
		}
		e.mu.Unlock()
	}
	return errors.Join(errs...)
}
