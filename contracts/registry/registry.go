// Package registry is the Go side of the registry contract
// (contracts/tolk/registry.tolk; layouts in docs/contracts.md): its initial
// data, its owners' orders, its state decoded from a proven data cell, the
// messages of verifiers, and the contract's own rules about a verdict, so that
// a sender knows the answer before it pays for the question.
package registry

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/compiled"
	"cocoon/contracts/exitcode"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Layout is the version of the data cell that this package writes and reads.
const Layout = 5

// Limits that the contract keeps.
const (
	MaxVerifiers    = 64 // listed at a time
	MaxFreshness    = 3600
	MaxFeeBps       = 10000
	MaxVerifierFee  = 1_000_000_000 // nanoton
	MinBond         = 1_000_000_000 // nanoton, of each posting
	MaxOwners       = 16
	MaxPending      = 16
	MaxEntries      = 128
	MaxDelay        = 30 * 24 * time.Hour
	ExecuteWindow   = 14 * 24 * time.Hour // a pending order is dropped after it
	NumberWindow    = 1024
	MinUnbondDelay  = 2 * MaxFreshness * time.Second
	MaxUnbondDelay  = 60 * 24 * time.Hour
	MaxClaimSeconds = 3600
)

// Limits on what Decode reads.
const (
	maxListed = 1 << 17 // manifests, models, policies, gateways, logs, bonds, keys
)

// Defaults of New.
const (
	DefaultFeeBps        = 1000 // cap on a gateway's share: 10 %
	DefaultMinCloseDelay = 600 * time.Second
	DefaultUnbondDelay   = 7 * 24 * time.Hour
	DefaultDelay         = 2 * 24 * time.Hour // of the owners' orders
)

// Forever is the end of a key's time that has none.
var Forever = time.Unix(1<<32-1, 0).UTC()

// ManifestState says whether evidence under a manifest is still accepted.
type ManifestState uint8

// States of a manifest; Revoked is final.
const (
	Active  ManifestState = 1
	Grace   ManifestState = 2 // accepted until GraceUntil, for renewals
	Revoked ManifestState = 3
)

// String returns "active", "grace" or "revoked".
func (s ManifestState) String() string {
	switch s {
	case Active:
		return "active"
	case Grace:
		return "grace"
	case Revoked:
		return "revoked"
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// MarshalText writes the name.
func (s ManifestState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Verifier is a key whose signatures count from From until just before Until.
// One that is not listed only waits for what it has earned to be claimed.
type Verifier struct {
	Public ed25519.PublicKey
	From   time.Time
	Until  time.Time
	Listed bool
	// Account is where fees are credited: no two verifiers have one.
	Account uint32
	Earned  uint64 // nanoton
}

// Manifest is what the registry says about published measurements.
type Manifest struct {
	State      ManifestState
	GraceUntil time.Time // zero unless State is Grace
}

// Model is a model that the network serves.
type Model struct {
	NameHash [32]byte // SHA-256 of the model's name
	Active   bool
}

// Gateway is a relay that the owners vouch for; its id is the SHA-256 of its
// endpoint.
type Gateway struct {
	Payout   toncell.Address
	Endpoint string // host:port
}

// Checkpoint of a transparency log; its key is the SHA-256 of the log's
// origin.
type Checkpoint struct {
	Size uint64
	Root [32]byte
	At   time.Time
}

// Bond is a verifier's own money.
type Bond struct {
	Owner     toncell.Address // who may take it back
	Amount    uint64          // nanoton
	Unbonding uint64          // on its way out, within reach of a proof until UnlockAt
	UnlockAt  time.Time
}

// Parameters of a registry that orders set all at once.
type Parameters struct {
	TrustClasses   uint32        // bit n accepts class n
	Freshness      time.Duration // longest interval of a signature
	FeeCapBps      uint16        // of a job's gateway
	VerifierFee    uint64        // nanoton of a good verdict, shared by its signers
	MinCloseDelay  time.Duration // what a worker should ask of a job
	MinWorkerStake uint64        // nanoton
	MinBond        uint64        // nanoton; a key is not listed without it
	UnbondDelay    time.Duration // a bond leaves no sooner
}

// Owners may change the registry.
type Owners struct {
	Threshold uint8         // signatures that an order needs
	Veto      uint8         // that a veto needs
	Final     uint8         // an order with as many cannot be vetoed; 0: every order can
	Delay     time.Duration // an order that widens trust waits so long
	Keys      map[uint8]ed25519.PublicKey
}

// Pending is an order that waits its time.
type Pending struct {
	ReadyAt time.Time
	Signers uint8
	Owners  bool       // its first entry is other owners
	Order   *cell.Cell // ReadOrder reads it
}

// State is the registry's data.
type State struct {
	Version uint32 // one more at every change but of money
	Paused  bool
	Devnet  bool // fixed at deployment; without it vtpm is never accepted
	Parameters
	Threshold   uint8                 // k
	Owed        uint64                // nanoton: fees and bonds, the verifiers' money
	Slashed     uint64                // nanoton that came as workers' slashed stakes
	Verifiers   map[[32]byte]Verifier // by key id
	Manifests   map[[32]byte]Manifest // by manifest hash
	Waiting     map[ID]Waiting        // entries of the lists that were scheduled: not there until Settle
	Models      map[[32]byte]Model    // by verity root
	Policies    map[[32]byte]time.Time
	Gateways    map[[32]byte]Gateway
	Checkpoints map[[32]byte]Checkpoint
	Bonds       map[[32]byte]Bond // by key id
	Owners      Owners
	NextOrder   uint64
	Pending     map[uint64]Pending
	NextAccount uint32 // of a verifier that is listed for the first time
	// At most so many verifiers wait, and none from then on.
	VerifiersWait      uint8
	VerifiersWaitUntil time.Time
}

// NewOwners returns owners of whom threshold must sign, any one can veto, and
// orders wait the default time.
func NewOwners(threshold uint8, keys ...ed25519.PublicKey) Owners {
	o := Owners{Threshold: threshold, Veto: 1, Delay: DefaultDelay, Keys: map[uint8]ed25519.PublicKey{}}
	for i, k := range keys {
		o.Keys[uint8(i)] = k
	}
	return o
}

// Check refuses owners that an order could not set.
func (o *Owners) Check() error {
	n := len(o.Keys)
	if o.Threshold < 1 || int(o.Threshold) > n || n > MaxOwners || o.Veto < 1 || o.Veto > o.Threshold ||
		o.Final != 0 && (o.Final <= o.Threshold || int(o.Final) > n) || o.Delay < 0 || o.Delay > MaxDelay {
		return exitcode.OwnersInvalid.Fault("setting a registry's owners")
	}
	return nil
}

// New returns the state of a registry to deploy: threshold 1, default
// parameters, no entries. Devnet also accepts the vtpm trust class.
func New(owners Owners, devnet bool) *State {
	s := &State{
		Version: 1, Devnet: devnet, Threshold: 1, Owners: owners, NextOrder: 1,
		Verifiers: map[[32]byte]Verifier{}, Manifests: map[[32]byte]Manifest{}, Waiting: map[ID]Waiting{}, Models: map[[32]byte]Model{},
		Policies: map[[32]byte]time.Time{}, Gateways: map[[32]byte]Gateway{}, Checkpoints: map[[32]byte]Checkpoint{},
		Bonds: map[[32]byte]Bond{}, Pending: map[uint64]Pending{},
		Parameters: Parameters{
			TrustClasses: verdictcell.TDX.Bit() | verdictcell.SNP.Bit() | verdictcell.AzTDX.Bit() | verdictcell.AzSNP.Bit(),
			FeeCapBps:    DefaultFeeBps, Freshness: MaxFreshness * time.Second,
			MinCloseDelay: DefaultMinCloseDelay, UnbondDelay: DefaultUnbondDelay,
		},
	}
	if devnet {
		s.TrustClasses |= verdictcell.VTPM.Bit()
	}
	return s
}

// AddVerifier lists a verifier's key from a time on.
func (s *State) AddVerifier(public ed25519.PublicKey, from time.Time) {
	s.Verifiers[verdictcell.KeyID(public)] = Verifier{
		Public: public, From: from.UTC().Truncate(time.Second), Until: Forever, Listed: true, Account: s.NextAccount,
	}
	s.NextAccount++
}

// Listed returns how many verifiers count: n of k of n.
func (s *State) Listed() int {
	n := 0
	for _, v := range s.Verifiers {
		if v.Listed {
			n++
		}
	}
	return n
}

// Keys returns the listed verifiers' keys in ascending order of key id.
func (s *State) Keys() []ed25519.PublicKey {
	out := []ed25519.PublicKey{}
	for _, id := range s.VerifierIDs() {
		if v := s.Verifiers[id]; v.Listed {
			out = append(out, v.Public)
		}
	}
	return out
}

// VerifierIDs returns the key ids in ascending order.
func (s *State) VerifierIDs() [][32]byte {
	ids := make([][32]byte, 0, len(s.Verifiers))
	for id := range s.Verifiers {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// StateInit returns code and initial data of a registry to deploy, and its
// address in the basechain.
func (s *State) StateInit() (*tlb.StateInit, toncell.Address, error) {
	code, err := compiled.Registry()
	if err != nil {
		return nil, toncell.Address{}, err
	}
	data, err := s.Data()
	if err != nil {
		return nil, toncell.Address{}, err
	}
	return toncell.StateInit(code.Code, data)
}

// CheckCode refuses an account whose code is not this version's registry.
func CheckCode(code *cell.Cell) error {
	want, err := compiled.Registry()
	if err != nil {
		return err
	}
	return toncell.CheckCode("registry", want.Code, code)
}

// String names the state's size for logs.
func (s *State) String() string {
	return fmt.Sprintf("registry version %d: %d of %d verifiers, %d manifests, %d models, %d policies",
		s.Version, s.Threshold, s.Listed(), len(s.Manifests), len(s.Models), len(s.Policies))
}
