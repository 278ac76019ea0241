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
		return toncell.NewBuilder().Uint(unix(p.ReadyAt), 32).Uint(uint64(p.Signers), 8).Bool(p.Owners).Ref(p.Order).Cell()
	})
	checkpoints, err4 := dict(256, s.Checkpoints, bigHash, func(_ [32]byte, c Checkpoint) (*cell.Cell, error) {
		return toncell.NewBuilder().Uint(c.Size, 64).Bits256(c.Root).Uint(unix(c.At), 32).Cell()
	})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	ownersPending := uint64(0)
	for _, p := range s.Pending {
		if p.Owners {
			ownersPending++
		}
	}
	o := &s.Owners
	b := toncell.NewBuilder().Uint(ownersPending, 8).Uint(uint64(o.Threshold), 8).Uint(uint64(o.Veto), 8).Uint(uint64(o.Final), 8).
		Uint(seconds(o.Delay), 32).Dict(owners)
	return s.cold(b).Dict(bonds).Uint(uint64(len(s.Pending)), 8).Dict(pending).Coins(s.Slashed).Dict(checkpoints).Cell()
}

// Data returns the data cell.
func (s *State) Data() (*cell.Cell, error) {
	admin, err1 := s.admin()
	manifests, lists, err2 := s.lists()
	accounts, fees, err3 := s.accounts()
	if err := errors.Join(err1, err2, err3, s.check()); err != nil {
		return nil, fmt.Errorf("building registry data: %w", err)
	}
	n := s.counts()
	data, err := toncell.NewBuilder().Uint(Layout, 16).Uint(uint64(s.Version), 32).Uint(s.NextOrder, 64).
		Ref(admin).Dict(manifests).Dict(lists).Dict(accounts).
		Bool(s.Paused).Bool(s.Devnet).Uint(uint64(s.TrustClasses), 32).
		Uint(uint64(s.FeeCapBps), 16).Coins(s.VerifierFee).Uint(seconds(s.Freshness), 16).
		Uint(uint64(s.Threshold), 8).Coins(s.Owed).Bits256(fees).
		Uint(uint64(n.next), 32).Uint(uint64(n.listed), 8).Uint(uint64(n.waiting), 8).Uint(unix(n.until), 32).Cell()
	if err != nil {
		return nil, fmt.Errorf("building registry data: %w", err)
	}
	return data, nil
}

// perAccounts verifiers' fees are in one entry, 64 bits each, the first in the
// lowest. The first of these is in the root.
const perAccounts = 4

func (s *State) accounts() (others *cell.Dictionary, first [32]byte, err error) {
	entries, taken := map[uint32]*big.Int{}, map[uint32]bool{}
	for id, v := range s.allVerifiers() {
		if taken[v.Account] || v.Account >= s.NextAccount {
			return nil, first, fmt.Errorf("verifier %x has account %d, which is not its own", id, v.Account)
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
	if e := entries[0]; e != nil {
		e.FillBytes(first[:])
		delete(entries, 0)
	}
	others, err = dict(32, entries, bigUint[uint32], func(_ uint32, e *big.Int) (*cell.Cell, error) {
		return toncell.NewBuilder().Bytes(e.FillBytes(make([]byte, 32))).Cell()
	})
	return others, first, err
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
	for id, v := range s.allVerifiers() {
		if taken[v.Account] || v.Account >= s.NextAccount {
			return fmt.Errorf("verifier %x has account %d, which is not its own", id, v.Account)
		}
		taken[v.Account] = true
		e := accounts[v.Account/perAccounts]
		if v.Earned = binary.BigEndian.Uint64(e[8*(perAccounts-1-v.Account%perAccounts):]); v.Earned > 0 {
			left--
		}
		if w, waits := s.Waiting[ID{KindVerifier, id}]; waits {
			w.Earned = v.Earned
			s.Waiting[ID{KindVerifier, id}] = w
		} else {
			s.Verifiers[id] = v
		}
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
	s.readManifests(r)
	s.readLists(r)
	accounts := map[uint32][32]byte{}
	r.Dict(32, maxListed, func(key *big.Int, v *toncell.Reader) error {
		if key.Sign() == 0 {
			return errors.New("the first accounts are not in the root")
		}
		accounts[uint32(key.Uint64())] = v.Bits256()
		return v.End()
	})
	s.Paused, s.Devnet, s.TrustClasses = r.Bool(), r.Bool(), uint32(r.Uint(32))
	s.FeeCapBps, s.VerifierFee = uint16(r.Uint(16)), r.Coins()
	s.Freshness = time.Duration(r.Uint(16)) * time.Second
	s.Threshold = uint8(r.Uint(8))
	s.Owed = r.Coins()
	if fees := r.Bits256(); fees != ([32]byte{}) {
		accounts[0] = fees
	}
	n := counts{uint32(r.Uint(32)), uint8(r.Uint(8)), uint8(r.Uint(8)), timeOf(r.Uint(32))}
	s.NextAccount, s.VerifiersWait, s.VerifiersWaitUntil = n.next, n.waiting, n.until
	if err := errors.Join(r.End(), s.readAdmin(admin), s.check()); err != nil {
		return nil, fmt.Errorf("decoding registry data: %w", err)
	}
	if got := s.counts(); got != n {
		return nil, fmt.Errorf("decoding registry data: %d verifiers stated, %d listed", n.listed, got.listed)
	}
	if err := s.earned(accounts); err != nil {
		return nil, fmt.Errorf("decoding registry data: %w", err)
	}
	return s, nil
}

func (s *State) readAdmin(c *cell.Cell) error {
	if c == nil {
		return nil // the reader has the error
	}
	r := toncell.NewReader(c)
	o := &s.Owners
	owners := r.Uint(8)
	o.Threshold, o.Veto, o.Final = uint8(r.Uint(8)), uint8(r.Uint(8)), uint8(r.Uint(8))
	o.Delay = time.Duration(r.Uint(32)) * time.Second
	readKeys(r, o)
	s.readCold(r)
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.Bonds[toncell.Key256(key)] = Bond{Owner: v.Addr(), Amount: v.Coins(), Unbonding: v.Coins(), UnlockAt: timeOf(v.Uint(32))}
		return v.End()
	})
	pending := int(r.Uint(8))
	r.Dict(64, MaxPending, func(key *big.Int, v *toncell.Reader) error {
		p := Pending{ReadyAt: timeOf(v.Uint(32)), Signers: uint8(v.Uint(8)), Owners: v.Bool(), Order: v.Ref()}
		s.Pending[key.Uint64()] = p
		if p.Owners {
			owners--
		}
		return v.End()
	})
	if r.Err() == nil && (pending != len(s.Pending) || owners != 0) {
		r.Fail("%d pending orders stated, %d there", pending, len(s.Pending))
	}
	s.Slashed = r.Coins()
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		s.Checkpoints[toncell.Key256(key)] = Checkpoint{Size: v.Uint(64), Root: v.Bits256(), At: timeOf(v.Uint(32))}
		return v.End()
	})
	return r.End()
}

func readKeys(r *toncell.Reader, o *Owners) {
	r.Dict(8, MaxOwners, func(key *big.Int, v *toncell.Reader) error {
		o.Keys[uint8(key.Uint64())] = v.Bytes(32)
		return v.End()
	})
}
