// Package job is the Go side of the job contract (contracts/tolk/job.tolk;
// layouts in docs/contracts.md): a job's terms and address, its messages, its
// state decoded from a proven data cell, and a model of what it does.
package job

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/compiled"
	"cocoon/contracts/exitcode"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Layout is the version of the data cell that this package writes and reads.
const Layout = 4

// MaxVerdicts is how many verdicts one job records.
const MaxVerdicts = 256

// Amounts in nanoton. StorageReserve is kept until the job closes and then
// refunded. The values are the least that a message must bring; what its gas
// does not use comes back to its sender.
const (
	StorageReserve = 100_000_000
	DepositGas     = 10_000_000
	RedeemValue    = 20_000_000
	CloseValue     = 10_000_000
	AccuseValue    = 50_000_000
)

// IdleTime without a deposit, release or redemption lets anyone close a job.
const IdleTime = 90 * 24 * time.Hour

// Terms are fixed for a job's life and part of its address.
type Terms struct {
	Client     toncell.Address  `json:"client"`      // pays, closes, is refunded
	ClientKey  Hash             `json:"client_key"`  // Ed25519 key that signs vouchers
	Payout     toncell.Address  `json:"payout"`      // where the worker is paid
	Registry   toncell.Address  `json:"registry"`    // who decides about verdicts
	ModelRoot  Hash             `json:"model_root"`  // verity root of the model
	PolicyHash Hash             `json:"policy_hash"` // policy that a verdict must be made under
	PriceCap   uint64           `json:"price_cap"`   // nanoton per million tokens of the dearest kind
	Gateway    *toncell.Address `json:"gateway"`     // nil: no gateway
	FeeBps     uint16           `json:"fee_bps"`     // gateway's share of every payment
	Stake      *toncell.Address `json:"stake"`       // worker contract that answers for the receipts; nil: none
	MinStake   uint64           `json:"min_stake"`   // nanoton that it must hold for the client to pay
	CloseDelay time.Duration    `json:"close_delay"` // between closing and refund
	Salt       Hash             `json:"salt"`        // random; makes the job's address its own
}

// Check refuses terms that nobody should open or serve. The registry's own
// bounds are in State of contracts/registry.
func (t *Terms) Check() error {
	var errs []error
	bad := func(is bool, what string) {
		if is {
			errs = append(errs, fault.New(fault.ExitRefused, "job.terms", "open the job with other terms", "checking the job's terms: %s", what))
		}
	}
	bad(t.FeeBps > 10000, "the gateway's fee is over 10000 basis points")
	bad(t.FeeBps > 0 && t.Gateway == nil, "there is a gateway fee and no gateway")
	bad(t.MinStake > 0 && t.Stake == nil, "there is a least stake and no worker contract that holds it")
	bad(t.CloseDelay < time.Second || t.CloseDelay > 30*24*time.Hour || t.CloseDelay%time.Second != 0, "the closing delay is not between a second and 30 days, in whole seconds")
	bad(t.PriceCap == 0, "the price cap is zero")
	bad(t.ClientKey == Hash{}, "the client's key is missing")
	bad(t.Salt == Hash{}, "the salt is missing")
	return errors.Join(errs...)
}

// Cell returns the terms cell.
func (t *Terms) Cell() (*cell.Cell, error) {
	binding, err := verdictcell.BindingCell(t.Payout, t.ModelRoot, t.PolicyHash)
	if err != nil {
		return nil, err
	}
	parties, err := toncell.NewBuilder().Addr(t.Registry).Addr(t.Client).OptAddr(t.Stake).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the parties cell: %w", err)
	}
	demand, err := toncell.NewBuilder().Uint(t.PriceCap, 64).Coins(t.MinStake).Bits256(t.Salt).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the demand cell: %w", err)
	}
	out, err := toncell.NewBuilder().Addr(t.Payout).Bits256(t.ClientKey).Uint(uint64(t.FeeBps), 16).OptAddr(t.Gateway).
		Uint(uint64(t.CloseDelay/time.Second), 32).Ref(binding).Ref(parties).Ref(demand).Cell()
	if err != nil {
		return nil, fmt.Errorf("building the terms cell: %w", err)
	}
	return out, nil
}

func decodeTerms(c *cell.Cell) (Terms, error) {
	r := toncell.NewReader(c)
	t := Terms{Payout: r.Addr(), ClientKey: r.Bits256(), FeeBps: uint16(r.Uint(16)), Gateway: r.OptAddr()}
	t.CloseDelay = time.Duration(r.Uint(32)) * time.Second
	binding, parties, demand := toncell.NewReader(r.Ref()), toncell.NewReader(r.Ref()), toncell.NewReader(r.Ref())
	bound := binding.Addr()
	t.ModelRoot, t.PolicyHash = binding.Bits256(), binding.Bits256()
	t.Registry, t.Client, t.Stake = parties.Addr(), parties.Addr(), parties.OptAddr()
	t.PriceCap, t.MinStake, t.Salt = demand.Uint(64), demand.Coins(), demand.Bits256()
	if err := errors.Join(r.End(), binding.End(), parties.End(), demand.End()); err != nil {
		return t, err
	}
	// The contract pays the one and a verdict proves the other.
	if bound != t.Payout {
		return t, fmt.Errorf("the job pays %s for verdicts on %s", t.Payout, bound)
	}
	return t, nil
}

// StateInit returns code and initial data of the job, and its address in the
// basechain. The address commits to code and terms: whoever knows the terms
// knows that nothing else runs there.
func (t *Terms) StateInit() (*tlb.StateInit, toncell.Address, error) {
	code, err := compiled.Job()
	if err != nil {
		return nil, toncell.Address{}, err
	}
	terms, err := t.Cell()
	if err != nil {
		return nil, toncell.Address{}, err
	}
	data, err := (&State{}).data(terms)
	if err != nil {
		return nil, toncell.Address{}, err
	}
	return toncell.StateInit(code.Code, data)
}

// Address returns the job's address.
func (t *Terms) Address() (toncell.Address, error) {
	_, addr, err := t.StateInit()
	return addr, err
}

// Key returns the client's key.
func (t *Terms) Key() ed25519.PublicKey { return append(ed25519.PublicKey(nil), t.ClientKey[:]...) }

// Fee returns the gateway's share of a cumulative amount.
func (t *Terms) Fee(amount uint64) uint64 {
	if t.Gateway == nil {
		return 0
	}
	v := new(big.Int).Mul(new(big.Int).SetUint64(amount), big.NewInt(int64(t.FeeBps)))
	return v.Div(v, big.NewInt(10000)).Uint64()
}

// Status of a job.
type Status uint8

// Statuses; Closed is final.
const (
	Funded   Status = 0
	Released Status = 1
	Closing  Status = 2
	Closed   Status = 3
)

// String returns the lower-case name.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status-%d", uint8(s))
}

var statusNames = [...]string{"funded", "released", "closing", "closed"}

// MarshalText writes the name.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Recorded is a verdict that released or renewed the job.
type Recorded struct {
	ReceiptKey Hash      `json:"receipt_key"` // Ed25519 key of the enclave
	At         time.Time `json:"at"`
	Until      time.Time `json:"until"` // end of the verdict's interval
}

// State is a job's data.
type State struct {
	Status       Status            `json:"status"`
	Deposited    uint64            `json:"deposited"`     // nanoton, total
	Paid         uint64            `json:"paid"`          // nanoton, total, gateway's share included
	Seq          uint64            `json:"seq"`           // of the last redeemed voucher
	ReceiptCount uint64            `json:"receipt_count"` // that it covers
	ReceiptsRoot Hash              `json:"receipts_root"` // Merkle root of those receipts
	TouchedAt    time.Time         `json:"touched_at"`    // last deposit, release or redemption
	CloseAt      time.Time         `json:"close_at"`      // closing: end of the delay
	Verdicts     map[Hash]Recorded `json:"verdicts"`      // by verdict hash
	Terms        Terms             `json:"terms"`
}

// data writes a job's data with no verdicts, as it is deployed.
func (s *State) data(terms *cell.Cell) (*cell.Cell, error) {
	out, err := toncell.NewBuilder().Uint(Layout, 16).Coins(s.Paid).Uint(s.Seq, 64).Uint(s.ReceiptCount, 64).
		Bits256(s.ReceiptsRoot).Uint(0, 32).Uint(uint64(s.Status), 8).Coins(s.Deposited).
		Bool(false).Uint(0, 32).Uint(0, 16).Ref(terms).Cell()
	if err != nil {
		return nil, fmt.Errorf("building job data: %w", err)
	}
	return out, nil
}

// Decode reads a data cell. The caller has proven that it is the job's.
func Decode(data *cell.Cell) (*State, error) {
	r := toncell.NewReader(data)
	if v := r.Uint(16); r.Err() == nil && v != Layout {
		return nil, fmt.Errorf("decoding job data: layout %d, want %d", v, Layout)
	}
	s := &State{
		Paid: r.Coins(), Seq: r.Uint(64), ReceiptCount: r.Uint(64), ReceiptsRoot: r.Bits256(), TouchedAt: unixTime(r.Uint(32)),
		Status: Status(r.Uint(8)), Deposited: r.Coins(), Verdicts: map[Hash]Recorded{},
	}
	r.Dict(256, MaxVerdicts, func(key *big.Int, v *toncell.Reader) error {
		s.Verdicts[toncell.Key256(key)] = Recorded{ReceiptKey: v.Bits256(), At: unixTime(v.Uint(32)), Until: unixTime(v.Uint(32))}
		return v.End()
	})
	s.CloseAt = unixTime(r.Uint(32))
	count := int(r.Uint(16))
	terms := r.Ref()
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("decoding job data: %w", err)
	}
	var err error
	if s.Terms, err = decodeTerms(terms); err != nil {
		return nil, fmt.Errorf("decoding a job's terms: %w", err)
	}
	if s.Status > Closed || count != len(s.Verdicts) || s.Paid > s.Deposited {
		return nil, fmt.Errorf("decoding job data: status %d, %d verdicts stated and %d listed, %d paid of %d", s.Status, count, len(s.Verdicts), s.Paid, s.Deposited)
	}
	return s, nil
}

func unixTime(v uint64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.Unix(int64(v), 0).UTC()
}

// Refuses returns what the contract would say at a time to the registry's word
// that a verdict is good, whose feeCap is the most that a gateway may take: OK,
// or its first reason against it. It follows release in contracts/tolk/job.tolk;
// the model's test holds the two against each other.
func (s *State) Refuses(v *verdictcell.Common, hash Hash, feeCap uint16, renewalsOnly bool, until, now time.Time) exitcode.Code {
	_, known := s.Verdicts[hash]
	switch t := &s.Terms; {
	case s.Status == Closed:
		return exitcode.JobClosed
	case s.Status == Closing:
		return exitcode.JobNotOpen
	case s.Deposited == 0:
		return exitcode.JobNotFunded
	case v.Payout != t.Payout || v.ModelRoot != t.ModelRoot || v.PolicyHash != t.PolicyHash:
		return exitcode.WrongTerms
	case t.FeeBps > feeCap:
		return exitcode.FeeOverCap
	case renewalsOnly && s.Status != Released:
		return exitcode.ManifestRenewalsOnly
	case !now.Before(until):
		return exitcode.VerdictExpired
	case len(s.Verdicts) >= MaxVerdicts:
		return exitcode.VerdictsFull
	case known:
		return exitcode.VerdictRecorded
	}
	return exitcode.OK
}

// ReleasedTo reports whether a verdict for this receipt key was recorded and
// vouchers are still redeemed; it returns the newest such verdict's hash.
func (s *State) ReleasedTo(receiptKey Hash) (verdict Hash, ok bool) {
	if s.Status != Released && s.Status != Closing {
		return Hash{}, false
	}
	var at time.Time
	for hash, r := range s.Verdicts {
		if r.ReceiptKey == receiptKey && (!ok || r.At.After(at)) {
			verdict, at, ok = hash, r.At, true
		}
	}
	return verdict, ok
}

// CheckCode refuses an account whose code is not this version's job.
func CheckCode(code *cell.Cell) error {
	want, err := compiled.Job()
	if err != nil {
		return err
	}
	return toncell.CheckCode("job", want.Code, code)
}
