// Package registry is the Go side of the registry contract
// (contracts/tolk/registry.tolk; layouts in docs/contracts.md): its initial
// data, its owner's messages, its state decoded from a proven data cell, and
// the contract's own rules about a verdict, so that a sender knows the answer
// before it pays for the question.
package registry

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/compiled"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Layout is the version of the data cell that this package writes and reads.
const Layout = 1

// Limits that the contract or this package keeps.
const (
	MaxVerifiers  = 64
	maxManifests  = 4096
	maxModels     = 4096
	MaxFreshness  = 3600
	MaxFeeBps     = 10000
	DefaultFeeBps = 1000 // cap on a gateway's share: 10 %
)

// Defaults of the times that a registry sets, in seconds.
const (
	DefaultMinCloseDelay     = 600
	DefaultMaxPendingTimeout = 600
)

// ManifestState says whether evidence under a manifest is still accepted.
type ManifestState uint8

// States of a manifest; Revoked is final.
const (
	Active  ManifestState = 1
	Grace   ManifestState = 2 // accepted until GraceUntil
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

// Verifier is a key whose signatures count.
type Verifier struct {
	Public ed25519.PublicKey
	Since  time.Time
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

// State is the registry's data.
type State struct {
	Version           uint32 // one more at every change by the owner
	Paused            bool
	Devnet            bool // fixed at deployment; without it vtpm is never accepted
	TrustClasses      uint32
	Threshold         uint8
	Verifiers         map[[32]byte]Verifier // by key id
	Manifests         map[[32]byte]Manifest // by manifest hash
	Models            map[[32]byte]Model    // by verity root
	FeeCapBps         uint16
	Freshness         time.Duration // longest interval of a signature
	MinCloseDelay     time.Duration // what a worker should ask of a job
	MaxPendingTimeout time.Duration
	GovernanceKind    uint8 // 0: one owner address
	Owner             toncell.Address
}

// New returns the state of a registry to deploy: one owner, threshold 1,
// default parameters, no entries. Devnet also accepts the vtpm trust class.
func New(owner toncell.Address, devnet bool) *State {
	s := &State{
		Version: 1, Devnet: devnet, Threshold: 1, Owner: owner,
		TrustClasses: verdictcell.TDX.Bit() | verdictcell.SNP.Bit() | verdictcell.AzTDX.Bit() | verdictcell.AzSNP.Bit(),
		Verifiers:    map[[32]byte]Verifier{}, Manifests: map[[32]byte]Manifest{}, Models: map[[32]byte]Model{},
		FeeCapBps: DefaultFeeBps, Freshness: MaxFreshness * time.Second,
		MinCloseDelay:     DefaultMinCloseDelay * time.Second,
		MaxPendingTimeout: DefaultMaxPendingTimeout * time.Second,
	}
	if devnet {
		s.TrustClasses |= verdictcell.VTPM.Bit()
	}
	return s
}

// AddVerifier lists a verifier's key.
func (s *State) AddVerifier(public ed25519.PublicKey, since time.Time) {
	s.Verifiers[verdictcell.KeyID(public)] = Verifier{Public: public, Since: since}
}

// Data returns the data cell.
func (s *State) Data() (*cell.Cell, error) {
	verifiers, manifests, models := toncell.NewDict(), toncell.NewDict(), toncell.NewDict()
	var errs []error
	put := func(d *cell.Dictionary, key [32]byte, b *toncell.Builder) {
		c, err := b.Cell()
		if err == nil {
			err = toncell.SetDict256(d, key, c)
		}
		errs = append(errs, err)
	}
	for id, v := range s.Verifiers {
		if len(v.Public) != ed25519.PublicKeySize || verdictcell.KeyID(v.Public) != id {
			errs = append(errs, fmt.Errorf("verifier %x is not listed under its own id", id))
			continue
		}
		put(verifiers, id, toncell.NewBuilder().Bytes(v.Public).Uint(unix(v.Since), 32))
	}
	for hash, m := range s.Manifests {
		put(manifests, hash, toncell.NewBuilder().Uint(uint64(m.State), 8).Uint(unix(m.GraceUntil), 32))
	}
	for root, m := range s.Models {
		put(models, root, toncell.NewBuilder().Bits256(m.NameHash).Bool(m.Active))
	}
	governance, err := toncell.NewBuilder().Uint(uint64(s.GovernanceKind), 8).Addr(s.Owner).Cell()
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("building registry data: %w", err)
	}
	settings, err := toncell.NewBuilder().Uint(uint64(s.FeeCapBps), 16).Uint(seconds(s.Freshness), 32).
		Uint(seconds(s.MinCloseDelay), 32).Uint(seconds(s.MaxPendingTimeout), 32).Ref(governance).Cell()
	if err != nil {
		return nil, fmt.Errorf("building registry settings: %w", err)
	}
	data, err := toncell.NewBuilder().Uint(Layout, 16).Uint(uint64(s.Version), 32).
		Bool(s.Paused).Bool(s.Devnet).Uint(uint64(s.TrustClasses), 32).
		Uint(uint64(s.Threshold), 8).Uint(uint64(len(s.Verifiers)), 8).
		Dict(verifiers).Dict(manifests).Dict(models).Ref(settings).Cell()
	if err != nil {
		return nil, fmt.Errorf("building registry data: %w", err)
	}
	return data, nil
}

func unix(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.Unix())
}

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

func timeOf(v uint64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.Unix(int64(v), 0).UTC()
}

// Decode reads a data cell. The caller has proven that it is the registry's.
func Decode(data *cell.Cell) (*State, error) {
	r := toncell.NewReader(data)
	if v := r.Uint(16); r.Err() == nil && v != Layout {
		return nil, fmt.Errorf("decoding registry data: layout %d, want %d", v, Layout)
	}
	s := &State{
		Version: uint32(r.Uint(32)), Paused: r.Bool(), Devnet: r.Bool(),
		TrustClasses: uint32(r.Uint(32)), Threshold: uint8(r.Uint(8)),
		Verifiers: map[[32]byte]Verifier{}, Manifests: map[[32]byte]Manifest{}, Models: map[[32]byte]Model{},
	}
	count := int(r.Uint(8))
	r.Dict(256, MaxVerifiers, func(key *big.Int, v *toncell.Reader) error {
		s.Verifiers[toncell.Key256(key)] = Verifier{Public: v.Bytes(32), Since: timeOf(v.Uint(32))}
		return v.End()
	})
	r.Dict(256, maxManifests, func(key *big.Int, v *toncell.Reader) error {
		s.Manifests[toncell.Key256(key)] = Manifest{State: ManifestState(v.Uint(8)), GraceUntil: timeOf(v.Uint(32))}
		return v.End()
	})
	r.Dict(256, maxModels, func(key *big.Int, v *toncell.Reader) error {
		s.Models[toncell.Key256(key)] = Model{NameHash: v.Bits256(), Active: v.Bool()}
		return v.End()
	})
	settings := toncell.NewReader(r.Ref())
	s.FeeCapBps = uint16(settings.Uint(16))
	s.Freshness = time.Duration(settings.Uint(32)) * time.Second
	s.MinCloseDelay = time.Duration(settings.Uint(32)) * time.Second
	s.MaxPendingTimeout = time.Duration(settings.Uint(32)) * time.Second
	governance := toncell.NewReader(settings.Ref())
	s.GovernanceKind = uint8(governance.Uint(8))
	s.Owner = governance.Addr()
	if err := errors.Join(r.End(), settings.End(), governance.End()); err != nil {
		return nil, fmt.Errorf("decoding registry data: %w", err)
	}
	if count != len(s.Verifiers) {
		return nil, fmt.Errorf("decoding registry data: %d verifiers stated, %d listed", count, len(s.Verifiers))
	}
	for id, v := range s.Verifiers {
		if verdictcell.KeyID(v.Public) != id {
			return nil, fmt.Errorf("decoding registry data: verifier %x is not listed under its own id", id)
		}
	}
	return s, nil
}

// Keys returns the verifiers' keys in ascending order of key id.
func (s *State) Keys() []ed25519.PublicKey {
	ids := s.VerifierIDs()
	out := make([]ed25519.PublicKey, len(ids))
	for i, id := range ids {
		out[i] = s.Verifiers[id].Public
	}
	return out
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

// VerifierIDs returns the key ids in ascending order.
func (s *State) VerifierIDs() [][32]byte {
	ids := make([][32]byte, 0, len(s.Verifiers))
	for id := range s.Verifiers {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
	return ids
}
