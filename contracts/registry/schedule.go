package registry

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Kind says what an entry of a list is, by its number in orders.
type Kind uint8

// The kinds of entries that can be scheduled.
const (
	KindManifest Kind = 1
	KindModel    Kind = 2
	KindPolicy   Kind = 3
	KindVerifier Kind = 4
	KindGateway  Kind = 7
)

// kindRetired is a retired model's in the data.
const kindRetired = KindModel | 0x80

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case KindManifest:
		return "manifest"
	case KindModel:
		return "model"
	case KindPolicy:
		return "policy"
	case KindVerifier:
		return "verifier"
	case KindGateway:
		return "gateway"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// MarshalText writes the name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// ID names an entry of a list: a manifest's or a policy's hash, a model's root,
// a verifier's key id, a gateway's id.
type ID struct {
	Kind Kind
	Hash [32]byte
}

// Waiting is an entry that counts from a time on, by itself, unless it is vetoed
// before.
type Waiting struct {
	From    time.Time
	Order   uint64 // the number that it was scheduled with
	Signers uint8
	// Entry is what it will be; a verifier's From is not before the other From.
	Entry   Entry
	Account uint32 // of a verifier
	Earned  uint64 // nanoton, of a verifier whose time has come
}

// idOf returns the id of an entry that lists something new; ok is false if it
// does not.
func idOf(e Entry) (id ID, ok bool) {
	switch e := e.(type) {
	case ManifestEntry:
		return ID{KindManifest, e.SHA256}, e.State == Active
	case ModelEntry:
		return ID{KindModel, e.Root}, e.Active
	case PolicyEntry:
		return ID{KindPolicy, e.SHA256}, e.Accepted
	case VerifierEntry:
		return ID{KindVerifier, verdictcell.KeyID(e.Public)}, e.Listed
	case GatewayEntry:
		return ID{KindGateway, e.ID}, e.Gateway != nil
	}
	return ID{}, false
}

// known says whether the state has the entry, waiting ones apart.
func (s *State) known(id ID) (ok bool) {
	switch id.Kind {
	case KindManifest:
		_, ok = s.Manifests[id.Hash]
	case KindModel:
		_, ok = s.Models[id.Hash]
	case KindPolicy:
		_, ok = s.Policies[id.Hash]
	case KindVerifier:
		_, ok = s.Verifiers[id.Hash]
	case KindGateway:
		_, ok = s.Gateways[id.Hash]
	}
	return ok
}

// OwnersPending says whether an order for other owners is pending: nothing is
// scheduled then.
func (s *State) OwnersPending() bool {
	for _, p := range s.Pending {
		if p.Owners {
			return true
		}
	}
	return false
}

// Schedulable reports whether the order is one new entry of a list, and may be
// scheduled now.
func (o *Order) Schedulable(s *State) bool {
	if len(o.Entries) != 1 || s.OwnersPending() {
		return false
	}
	id, ok := idOf(o.Entries[0])
	_, waits := s.Waiting[id]
	return ok && !s.known(id) && !(waits && id.Kind == KindVerifier)
}

// storeScheduled writes what the contract's Schedule says about the entry: kind,
// id (of a verifier its key) and fields.
func storeScheduled(b *toncell.Builder, e Entry) error {
	id, ok := idOf(e)
	if !ok {
		return errors.New("only a new entry of a list can be scheduled")
	}
	b.Uint(uint64(id.Kind), 8)
	if v, ok := e.(VerifierEntry); ok { // by its key, whose hash is the id
		b.Bytes(v.Public).Uint(unix(v.From), 32).Uint(unix(v.Until), 32)
		return nil
	}
	b.Bits256(id.Hash)
	switch e := e.(type) {
	case ModelEntry:
		b.Bits256(e.NameHash)
	case GatewayEntry:
		e.Gateway.store(b)
	}
	return nil
}

func readScheduled(r *toncell.Reader) (Entry, error) {
	kind, hash := Kind(r.Uint(8)), r.Bits256()
	switch kind {
	case KindManifest:
		return ManifestEntry{SHA256: hash, State: Active}, nil
	case KindModel:
		return ModelEntry{Root: hash, NameHash: r.Bits256(), Active: true}, nil
	case KindPolicy:
		return PolicyEntry{SHA256: hash, Accepted: true}, nil
	case KindVerifier:
		return VerifierEntry{Public: hash[:], From: timeOf(r.Uint(32)), Until: timeOf(r.Uint(32)), Listed: true}, nil
	case KindGateway:
		g := readGateway(r)
		return GatewayEntry{ID: hash, Gateway: &g}, nil
	}
	return nil, errors.Join(r.Err(), fmt.Errorf("a %s cannot be scheduled", kind))
}

// scheduled writes what owners sign to schedule an entry.
func (o *Order) scheduled() (*cell.Cell, error) {
	if len(o.Entries) != 1 || !o.Later {
		return nil, errors.New("building an order: one entry is scheduled at a time, and waits")
	}
	b := toncell.NewBuilder().Uint(tagSchedule, 32).Int32(o.GlobalID).Addr(o.Registry).Uint(o.Number, 64).Uint(unix(o.ValidUntil), 32)
	if err := storeScheduled(b, o.Entries[0]); err != nil {
		return nil, fmt.Errorf("building an order: %w", err)
	}
	return b.Cell()
}

// ScheduledHash stands for the order in the veto of a scheduled entry.
func ScheduledHash(number uint64, id ID) ([32]byte, error) {
	c, err := toncell.NewBuilder().Uint(tagScheduled, 32).Uint(number, 64).Uint(uint64(id.Kind), 8).Bits256(id.Hash).Cell()
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(c.Hash()), nil
}

// Settle takes the entries whose time has come from the waiting ones to where
// they belong.
func (s *State) Settle(now time.Time) {
	for id, w := range s.Waiting {
		if now.Before(w.From) {
			continue
		}
		delete(s.Waiting, id)
		switch e := w.Entry.(type) {
		case ManifestEntry:
			s.Manifests[id.Hash] = Manifest{State: Active}
		case ModelEntry:
			s.Models[id.Hash] = Model{NameHash: e.NameHash, Active: true}
		case PolicyEntry:
			s.Policies[id.Hash] = w.From
		case VerifierEntry:
			s.Verifiers[id.Hash] = w.verifier(e)
		case GatewayEntry:
			s.Gateways[id.Hash] = *e.Gateway
		}
	}
}

func (w Waiting) verifier(e VerifierEntry) Verifier {
	return Verifier{Public: e.Public, From: e.From, Until: e.Until, Listed: true, Account: w.Account, Earned: w.Earned}
}

// Scheduled returns the entry that waits by an order's number.
func (s *State) Scheduled(number uint64) (id ID, w Waiting, ok bool) {
	for id, w := range s.Waiting {
		if w.Order == number {
			return id, w, true
		}
	}
	return ID{}, Waiting{}, false
}

// Gas of the registry's Schedule: what an entry of a kind costs with two of three
// owners' signatures, each fork of its path in the dictionary, each further
// signature, and what a value has beside. A test holds them against the chain.
const (
	gasFork      = 600
	gasSignature = 800
	gasOwners    = 100 // a signature's, for each further fork of the owners' dictionary
	gasBond      = 500 // and a load for each fork of the bonds' dictionary
	gasSpare     = 150
	gasPrice     = 400 // nanoton, mainnet's
)

var scheduleGas = map[Kind]int{KindManifest: 6601, KindModel: 7045, KindPolicy: 7076, KindVerifier: 8372, KindGateway: 7825}

// ScheduleValue is what the message that schedules the order should bring, in
// nanoton: the few that the registry does not use of it pay for the entry's
// storage. From GiveBack on they would come back, but to send them costs a fifth
// of the whole.
func ScheduleValue(s *State, o *Order, signatures int) uint64 {
	if len(o.Entries) != 1 {
		return MessageValue
	}
	id, ok := idOf(o.Entries[0])
	if !ok {
		return MessageValue
	}
	gas := scheduleGas[id.Kind] + gasFork*forks(id.Hash, s.dictOf(id.Kind)) + gasSpare
	gas += max(signatures-2, 0)*gasSignature + signatures*gasOwners*max(bits.Len(uint(len(s.Owners.Keys)))-2, 0)
	if id.Kind == KindVerifier && s.MinBond > 0 {
		bonds := map[[32]byte]bool{}
		addKeys(bonds, s.Bonds)
		gas += gasBond + 100*forks(id.Hash, bonds)
	}
	return uint64(gas * gasPrice)
}

// forks returns how many times the path of a new key in a dictionary forks: once
// for each length of what it begins with in common with another.
func forks(key [32]byte, keys map[[32]byte]bool) int {
	lengths := map[int]bool{}
	for other := range keys {
		lengths[common(key, other)] = true
	}
	return len(lengths)
}

// dictOf returns the keys of the dictionary that entries of a kind are in.
func (s *State) dictOf(kind Kind) map[[32]byte]bool {
	keys := map[[32]byte]bool{}
	for id := range s.Waiting {
		if (id.Kind == KindManifest) == (kind == KindManifest) {
			keys[id.Hash] = true
		}
	}
	if kind == KindManifest {
		addKeys(keys, s.Manifests)
		return keys
	}
	addKeys(keys, s.Models)
	addKeys(keys, s.Policies)
	addKeys(keys, s.Verifiers)
	addKeys(keys, s.Gateways)
	return keys
}

func addKeys[V any](to map[[32]byte]bool, from map[[32]byte]V) {
	for k := range from {
		to[k] = true
	}
}

// common returns how many bits two keys begin with in common.
func common(a, b [32]byte) int {
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return 8*i + bits.LeadingZeros8(x)
		}
	}
	return 256
}

// allVerifiers returns the keys that have an account, those that wait included.
func (s *State) allVerifiers() map[[32]byte]Verifier {
	out := map[[32]byte]Verifier{}
	for id, v := range s.Verifiers {
		out[id] = v
	}
	for id, w := range s.Waiting {
		if e, ok := w.Entry.(VerifierEntry); ok {
			out[id.Hash] = w.verifier(e)
		}
	}
	return out
}
