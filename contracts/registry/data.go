package registry

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

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

// dict writes a map as a dictionary with keys of n bits.
func dict[K comparable, V any](n uint, m map[K]V, key func(K) *big.Int, value func(K, V) (*cell.Cell, error)) (*cell.Dictionary, error) {
	d := cell.NewDict(n)
	for k, v := range m {
		c, err := value(k, v)
		if err == nil {
			err = d.SetIntKey(key(k), c)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

func bigHash(h [32]byte) *big.Int { return new(big.Int).SetBytes(h[:]) }

func bigUint[T uint8 | uint32 | uint64](v T) *big.Int { return new(big.Int).SetUint64(uint64(v)) }

func (s *State) catalog() (*cell.Cell, error) {
	models, err1 := dict(256, s.Models, bigHash, func(_ [32]byte, m Model) (*cell.Cell, error) {
		return toncell.NewBuilder().Bool(m.Active).Bits256(m.NameHash).Cell()
	})
	policies, err2 := dict(256, s.Policies, bigHash, func(_ [32]byte, since time.Time) (*cell.Cell, error) {
		return toncell.NewBuilder().Uint(unix(since), 32).Cell()
	})
	gateways, err3 := dict(256, s.Gateways, bigHash, func(_ [32]byte, g Gateway) (*cell.Cell, error) {
		b := toncell.NewBuilder()
		return g.store(b).Cell()
	})
	checkpoints, err4 := dict(256, s.Checkpoints, bigHash, func(_ [32]byte, c Checkpoint) (*cell.Cell, error) {
		return toncell.NewBuilder().Uint(c.Size, 64).Bits256(c.Root).Uint(unix(c.At), 32).Cell()
	})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	changes, err5 := dict(64, s.OwnerChanges, bigUint[uint64], func(_ uint64, since time.Time) (*cell.Cell, error) {
		return toncell.NewBuilder().Uint(unix(since), 32).Cell()
	})
	if err5 != nil {
		return nil, err5
	}
	directory, err1 := toncell.NewBuilder().Dict(gateways).Dict(checkpoints).Dict(changes).Cell()
	verifiers, err2 := dict(256, s.Verifiers, bigHash, func(id [32]byte, v Verifier) (*cell.Cell, error) {
		if len(v.Public) != ed25519.PublicKeySize || verdictcell.KeyID(v.Public) != id {
			return nil, fmt.Errorf("verifier %x is not listed under its own id", id)
		}
		return toncell.NewBuilder().Bytes(v.Public).Uint(unix(v.From), 32).Uint(unix(v.Until), 32).Uint(uint64(v.Account), 32).Bool(v.Listed).Cell()
	})
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return toncell.NewBuilder().Dict(models).Dict(policies).Dict(verifiers).Uint(uint64(s.NextAccount), 32).Ref(directory).Cell()
}

// store writes a gateway; a bad endpoint is the builder's error.
func (g Gateway) store(b *toncell.Builder) *toncell.Builder {
	var endpoint *cell.Cell
	if len(g.Endpoint) <= 127 {
		endpoint, _ = toncell.NewBuilder().Bytes([]byte(g.Endpoint)).Cell()
	}
	return b.Addr(g.Payout).Ref(endpoint)
}

func readGateway(r *toncell.Reader) Gateway {
	g := Gateway{Payout: r.Addr()}
	c := r.Ref()
	if r.Err() != nil {
		return g
	}
	text := toncell.NewReader(c)
	g.Endpoint = string(text.Bytes(int(c.BitsSize() / 8)))
	if err := text.End(); err != nil {
		r.Fail("endpoint: %v", err)
	}
	return g
}

func (o *Owners) dict() (*cell.Dictionary, error) {
	return dict(8, o.Keys, bigUint[uint8], func(i uint8, k ed25519.PublicKey) (*cell.Cell, error) {
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("owner %d has a key of %d bytes", i, len(k))
		}
		return toncell.NewBuilder().Bytes(k).Cell()
	})
}

// cold writes the parameters that no verdict is held against.
func (p *Parameters) cold(b *toncell.Builder) *toncell.Builder {
	return b.Uint(seconds(p.MinCloseDelay), 32).
		Coins(p.MinWorkerStake).Coins(p.MinBond).Uint(seconds(p.UnbondDelay), 32)
}

func (p *Parameters) readCold(r *toncell.Reader) {
	second := func(v uint64) time.Duration { return time.Duration(v) * time.Second }
	p.MinCloseDelay = second(r.Uint(32))
	p.MinWorkerStake, p.MinBond = r.Coins(), r.Coins()
	p.UnbondDelay = second(r.Uint(32))
}

func (s *State) admin() (*cell.Cell, error) {
	owners, err1 := s.Owners.dict()
	bonds, err2 := dict(256, s.Bonds, bigHash, func(_ [32]byte, v Bond) (*cell.Cell, error) {
		return toncell.NewBuilder().Addr(v.Owner).Coins(v.Amount).Coins(v.Unbonding).Uint(unix(v.UnlockAt), 32).Cell()
	})
	pending, err3 := dict(64, s.Pending, bigUint[uint64], func(_ uint64, p Pending) (*cell.Cell, error) {
		return toncell.NewBuilder().Uint(unix(p.ReadyAt), 32).Uint(uint64(p.Signers), 8).Ref(p.Order).Cell()
	})
	parameters, err4 := s.cold(toncell.NewBuilder()).Cell()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	o := &s.Owners
	return toncell.NewBuilder().Uint(uint64(o.Threshold), 8).Uint(uint64(o.Veto), 8).Uint(uint64(o.Final), 8).
		Uint(seconds(o.Delay), 32).Dict(owners).Uint(uint64(len(s.Pending)), 8).Dict(pending).Dict(bonds).Coins(s.Slashed).Ref(parameters).Cell()
}

// Data returns the data cell.
func (s *State) Data() (*cell.Cell, error) {
	admin, err1 := s.admin()
	manifests, err2 := s.manifests()
	accounts, err3 := s.accounts()
	catalog, err4 := s.catalog()
	if err := errors.Join(err1, err2, err3, err4, s.check()); err != nil {
		return nil, fmt.Errorf("building registry data: %w", err)
	}
	data, err := toncell.NewBuilder().Uint(Layout, 16).Uint(uint64(s.Version), 32).Uint(s.NextOrder, 64).
		Ref(admin).Dict(manifests).Dict(accounts).Ref(catalog).
		Bool(s.Paused).Bool(s.Devnet).Uint(uint64(s.TrustClasses), 32).
		Uint(uint64(s.FeeCapBps), 16).Coins(s.VerifierFee).Uint(seconds(s.Freshness), 16).
		Uint(uint64(s.Threshold), 8).Uint(uint64(s.Listed()), 8).Coins(s.Owed).
		Uint(s.OwnersFrom, 64).Uint(unix(s.OwnersSince), 32).Cell()
	if err != nil {
		return nil, fmt.Errorf("building registry data: %w", err)
	}
	return data, nil
}

func (s *State) manifests() (*cell.Dictionary, error) {
	d, err := dict(256, s.Manifests, bigHash, func(_ [32]byte, m Manifest) (*cell.Cell, error) {
		return toncell.NewBuilder().Uint(uint64(m.State), 8).Uint(unix(m.GraceUntil), 32).Uint(0, 64).Uint(0, 8).Cell()
	})
	for hash, w := range s.Waiting {
		if _, known := s.Manifests[hash]; known {
			return nil, fmt.Errorf("manifest %x waits and does not", hash)
		}
		c, err1 := toncell.NewBuilder().Uint(stateWaits, 8).Uint(unix(w.From), 32).Uint(w.Order, 64).Uint(uint64(w.Signers), 8).Cell()
		if err = errors.Join(err, err1); err == nil {
			err = d.SetIntKey(bigHash(hash), c)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, err
}

// perAccounts verifiers' fees are in one entry, 64 bits each, the first in the
// lowest.
const perAccounts = 4

func (s *State) accounts() (*cell.Dictionary, error) {
	entries, taken := map[uint32]*big.Int{}, map[uint32]bool{}
	for id, v := range s.Verifiers {
		if taken[v.Account] || v.Account >= s.NextAccount {
			return nil, fmt.Errorf("verifier %x has account %d, which is not its own", id, v.Account)
		}
		taken[v.Account] = true
		if v.Earned == 0 {
			continue
		}
		e := entries[v.Account/perAccounts]
		if e == nil {
			e = new(big.Int)
			entries[v.Account/perAccounts] = e
		}
		e.Or(e, new(big.Int).Lsh(new(big.Int).SetUint64(v.Earned), uint(v.Account%perAccounts)*64))
	}
	return dict(32, entries, bigUint[uint32], func(_ uint32, e *big.Int) (*cell.Cell, error) {
		return toncell.NewBuilder().Bytes(e.FillBytes(make([]byte, 32))).Cell()
	})
}

// earned gives every verifier what is in its account.
func (s *State) earned(accounts map[uint32][32]byte) error {
	left := 0
	for _, e := range accounts {
		for i := range perAccounts {
			if binary.BigEndian.Uint64(e[8*i:]) > 0 {
				left++
			}
		}
	}
	taken := map[uint32]bool{}
	for id, v := range s.Verifiers {
		if taken[v.Account] || v.Account >= s.NextAccount {
			return fmt.Errorf("verifier %x has account %d, which is not its own", id, v.Account)
		}
		taken[v.Account] = true
		e := accounts[v.Account/perAccounts]
		if v.Earned = binary.BigEndian.Uint64(e[8*(perAccounts-1-v.Account%perAccounts):]); v.Earned > 0 {
			left--
		}
		s.Verifiers[id] = v
	}
	if left > 0 {
		return fmt.Errorf("%d accounts hold money of no verifier", left)
	}
	return nil
}

// check refuses data that no order could have made: whoever deploys a registry
// chooses its first data, and the contract does not look at it.
func (s *State) check() error {
	if s.TrustClasses&verdictcell.VTPM.Bit() != 0 && !s.Devnet {
		return errors.New("vtpm is accepted by a registry that is not a development one")
	}
	if s.Freshness > MaxFreshness*time.Second {
		return fmt.Errorf("signatures of %s are accepted, the most is %d s", s.Freshness, MaxFreshness)
	}
	return nil
}

// Decode reads a data cell. The caller has proven that it is the registry's.
func Decode(data *cell.Cell) (*State, error) {
	r := toncell.NewReader(data)
	if v := r.Uint(16); r.Err() == nil && v != Layout {
		return nil, fmt.Errorf("decoding registry data: layout %d, want %d", v, Layout)
	}
	s := New(Owners{Keys: map[uint8]ed25519.PublicKey{}}, false)
	s.Version, s.NextOrder = uint32(r.Uint(32)), r.Uint(64)
	admin := r.Ref()
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		state, at := v.Uint(8), timeOf(v.Uint(32))
		w := Waiting{From: at, Order: v.Uint(64), Signers: uint8(v.Uint(8))}
		if state == stateWaits {
			s.Waiting[toncell.Key256(key)] = w
		} else {
			s.Manifests[toncell.Key256(key)] = Manifest{State: ManifestState(state), GraceUntil: at}
		}
		return v.End()
	})
	accounts := map[uint32][32]byte{}
	r.Dict(32, maxListed, func(key *big.Int, v *toncell.Reader) error {
		accounts[uint32(key.Uint64())] = v.Bits256()
		return v.End()
	})
	catalog := r.Ref()
	s.Paused, s.Devnet, s.TrustClasses = r.Bool(), r.Bool(), uint32(r.Uint(32))
	s.FeeCapBps, s.VerifierFee = uint16(r.Uint(16)), r.Coins()
	s.Freshness = time.Duration(r.Uint(16)) * time.Second
	s.Threshold = uint8(r.Uint(8))
	count := int(r.Uint(8))
	s.Owed = r.Coins()
	s.OwnersFrom, s.OwnersSince = r.Uint(64), timeOf(r.Uint(32))
	if err := errors.Join(r.End(), s.readCatalog(catalog), s.readAdmin(admin), s.check()); err != nil {
		return nil, fmt.Errorf("decoding registry data: %w", err)
	}
	if count != s.Listed() {
		return nil, fmt.Errorf("decoding registry data: %d verifiers stated, %d listed", count, s.Listed())
	}
	if err := s.earned(accounts); err != nil {
		return nil, fmt.Errorf("decoding registry data: %w", err)
	}
	for id, v := range s.Verifiers {
		if verdictcell.KeyID(v.Public) != id {
			return nil, fmt.Errorf("decoding registry data: verifier %x is not listed under its own id", id)
		}
	}
	return s, nil
}

func (s *State) readCatalog(c *cell.Cell) error {
	if c == nil {
		return nil // the reader has the error
	}
	r := toncell.NewReader(c)
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.Models[toncell.Key256(key)] = Model{Active: v.Bool(), NameHash: v.Bits256()}
		return v.End()
	})
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.Policies[toncell.Key256(key)] = timeOf(v.Uint(32))
		return v.End()
	})
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.Verifiers[toncell.Key256(key)] = Verifier{
			Public: v.Bytes(32), From: timeOf(v.Uint(32)), Until: timeOf(v.Uint(32)), Account: uint32(v.Uint(32)), Listed: v.Bool(),
		}
		return v.End()
	})
	s.NextAccount = uint32(r.Uint(32))
	directory := r.Ref()
	if r.Err() != nil {
		return r.Err()
	}
	d := toncell.NewReader(directory)
	d.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.Gateways[toncell.Key256(key)] = readGateway(v)
		return v.End()
	})
	d.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.Checkpoints[toncell.Key256(key)] = Checkpoint{Size: v.Uint(64), Root: v.Bits256(), At: timeOf(v.Uint(32))}
		return v.End()
	})
	d.Dict(64, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.OwnerChanges[key.Uint64()] = timeOf(v.Uint(32))
		return v.End()
	})
	return errors.Join(r.End(), d.End())
}

func (s *State) readAdmin(c *cell.Cell) error {
	if c == nil {
		return nil // the reader has the error
	}
	r := toncell.NewReader(c)
	o := &s.Owners
	o.Threshold, o.Veto, o.Final = uint8(r.Uint(8)), uint8(r.Uint(8)), uint8(r.Uint(8))
	o.Delay = time.Duration(r.Uint(32)) * time.Second
	readKeys(r, o)
	pending := int(r.Uint(8))
	r.Dict(64, MaxPending, func(key *big.Int, v *toncell.Reader) error {
		s.Pending[key.Uint64()] = Pending{ReadyAt: timeOf(v.Uint(32)), Signers: uint8(v.Uint(8)), Order: v.Ref()}
		return v.End()
	})
	if r.Err() == nil && pending != len(s.Pending) {
		r.Fail("%d pending orders stated, %d there", pending, len(s.Pending))
	}
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.Bonds[toncell.Key256(key)] = Bond{Owner: v.Addr(), Amount: v.Coins(), Unbonding: v.Coins(), UnlockAt: timeOf(v.Uint(32))}
		return v.End()
	})
	s.Slashed = r.Coins()
	p := toncell.NewReader(r.Ref())
	s.readCold(p)
	return errors.Join(r.End(), p.End())
}

func readKeys(r *toncell.Reader, o *Owners) {
	r.Dict(8, MaxOwners, func(key *big.Int, v *toncell.Reader) error {
		o.Keys[uint8(key.Uint64())] = v.Bytes(32)
		return v.End()
	})
}
