package registry

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// begin writes what every entry of a list begins with.
func begin(kind Kind, w Waiting) *toncell.Builder {
	return toncell.NewBuilder().Uint(uint64(kind), 8).Uint(unix(w.From), 32).Uint(w.Order, 64).Uint(uint64(w.Signers), 8)
}

func (v Verifier) store(b *toncell.Builder) *toncell.Builder {
	return b.Bytes(v.Public).Uint(unix(v.From), 32).Uint(unix(v.Until), 32).Uint(uint64(v.Account), 32).Bool(v.Listed)
}

// writer puts entries of several maps into one dictionary.
type writer struct {
	dict *cell.Dictionary
	seen map[[32]byte]bool
	err  error
}

func (w *writer) put(hash [32]byte, b *toncell.Builder) {
	c, err := b.Cell()
	if err == nil && w.seen[hash] {
		err = fmt.Errorf("%x is in the lists twice", hash)
	}
	if err == nil {
		w.seen[hash] = true
		err = w.dict.SetIntKey(bigHash(hash), c)
	}
	w.err = errors.Join(w.err, err)
}

// lists writes the dictionary of manifests and the one of all others.
func (s *State) lists() (manifests, others *cell.Dictionary, err error) {
	m := &writer{dict: cell.NewDict(256), seen: map[[32]byte]bool{}}
	l := &writer{dict: cell.NewDict(256), seen: map[[32]byte]bool{}}
	for hash, v := range s.Manifests {
		m.put(hash, begin(Kind(v.State), Waiting{From: v.GraceUntil}))
	}
	for root, v := range s.Models {
		kind := KindModel
		if !v.Active {
			kind = kindRetired
		}
		l.put(root, begin(kind, Waiting{}).Bits256(v.NameHash))
	}
	for hash, since := range s.Policies {
		l.put(hash, begin(KindPolicy, Waiting{From: since}))
	}
	for id, v := range s.Verifiers {
		if len(v.Public) != ed25519.PublicKeySize || verdictcell.KeyID(v.Public) != id {
			l.err = errors.Join(l.err, fmt.Errorf("verifier %x is not listed under its own id", id))
			continue
		}
		l.put(id, v.store(begin(KindVerifier, Waiting{})))
	}
	for id, g := range s.Gateways {
		l.put(id, g.store(begin(KindGateway, Waiting{})))
	}
	for id, w := range s.Waiting {
		to := l
		b := begin(id.Kind, w)
		switch e := w.Entry.(type) {
		case ManifestEntry:
			to = m
		case ModelEntry:
			b.Bits256(e.NameHash)
		case VerifierEntry:
			w.verifier(e).store(b)
		case GatewayEntry:
			e.Gateway.store(b)
		}
		if is, ok := idOf(w.Entry); !ok || is != id {
			to.err = errors.Join(to.err, fmt.Errorf("%s %x does not wait under its own id", id.Kind, id.Hash))
			continue
		}
		to.put(id.Hash, b)
	}
	return m.dict, l.dict, errors.Join(m.err, l.err)
}

// readManifests reads the first of the two dictionaries.
func (s *State) readManifests(r *toncell.Reader) {
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		hash, state := toncell.Key256(key), ManifestState(v.Uint(8))
		w := readWaits(v)
		switch {
		case state == Active && w.Order > 0:
			w.Entry = ManifestEntry{SHA256: hash, State: Active}
			s.Waiting[ID{KindManifest, hash}] = w
		case state == Active:
			s.Manifests[hash] = Manifest{State: state}
		default:
			s.Manifests[hash] = Manifest{State: state, GraceUntil: w.From}
		}
		return v.End()
	})
}

func readWaits(r *toncell.Reader) Waiting {
	return Waiting{From: timeOf(r.Uint(32)), Order: r.Uint(64), Signers: uint8(r.Uint(8))}
}

// readLists reads the other one.
func (s *State) readLists(r *toncell.Reader) {
	r.Dict(256, maxListed, func(key *big.Int, v *toncell.Reader) error {
		hash, kind := toncell.Key256(key), Kind(v.Uint(8))
		w := readWaits(v)
		switch kind {
		case KindModel, kindRetired:
			m := Model{NameHash: v.Bits256(), Active: kind == KindModel}
			w.Entry = ModelEntry{Root: hash, NameHash: m.NameHash, Active: true}
			s.listed(ID{KindModel, hash}, w, func() { s.Models[hash] = m })
		case KindPolicy:
			w.Entry = PolicyEntry{SHA256: hash, Accepted: true}
			s.listed(ID{KindPolicy, hash}, w, func() { s.Policies[hash] = w.From })
		case KindVerifier:
			e := Verifier{Public: v.Bytes(32), From: timeOf(v.Uint(32)), Until: timeOf(v.Uint(32)), Account: uint32(v.Uint(32)), Listed: v.Bool()}
			if v.Err() == nil && verdictcell.KeyID(e.Public) != hash {
				return fmt.Errorf("verifier %x is not listed under its own id", hash)
			}
			if w.Order > 0 && (!e.Listed || e.From.Before(w.From)) {
				return fmt.Errorf("verifier %x waits and does not", hash)
			}
			w.Entry, w.Account = VerifierEntry{Public: e.Public, From: e.From, Until: e.Until, Listed: true}, e.Account
			s.listed(ID{KindVerifier, hash}, w, func() { s.Verifiers[hash] = e })
		case KindGateway:
			g := readGateway(v)
			w.Entry = GatewayEntry{ID: hash, Gateway: &g}
			s.listed(ID{KindGateway, hash}, w, func() { s.Gateways[hash] = g })
		default:
			return fmt.Errorf("%x is a %s", hash, kind)
		}
		return v.End()
	})
}

// listed puts an entry among the waiting ones if it was scheduled; Settle knows
// whether its time has come.
func (s *State) listed(id ID, w Waiting, here func()) {
	if w.Order > 0 {
		s.Waiting[id] = w
		return
	}
	here()
}

// counts are of the verifiers, as the contract keeps them.
type counts struct {
	next            uint32
	listed, waiting uint8
	until           time.Time
}

func (s *State) counts() counts {
	n := counts{next: s.NextAccount, waiting: s.VerifiersWait, until: s.VerifiersWaitUntil}
	for _, v := range s.allVerifiers() {
		if v.Listed {
			n.listed++
		}
	}
	return n
}
