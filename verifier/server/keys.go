package server

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

// SigningKey signs verdicts from NotBefore until RetireAt or, if that is
// earlier, until another of the keys begins. Zero times bound nothing.
type SigningKey struct {
	crypto.Signer // Ed25519
	NotBefore     time.Time
	RetireAt      time.Time
}

// maxSigningKeys bounds a rotation: the key set is read by everyone.
const maxSigningKeys = 16

// publishedFor is for how long after its end a key is listed: until its last
// verdict has expired, and a minute for clocks that go after.
const publishedFor = result.MaxLifetime + time.Minute

// ring is a signing key and when it signs: in [begin, end).
type ring struct {
	crypto.Signer
	public     ed25519.PublicKey
	begin, end time.Time
}

// newRing puts keys in the order in which they sign.
func newRing(one crypto.Signer, many []SigningKey) ([]ring, error) {
	if (one == nil) == (len(many) == 0) {
		return nil, errors.New("one signing key is needed, or a list of them")
	}
	if one != nil {
		many = []SigningKey{{Signer: one}}
	}
	if len(many) > maxSigningKeys {
		return nil, fmt.Errorf("%d signing keys, at most %d", len(many), maxSigningKeys)
	}
	out := make([]ring, len(many))
	for i, k := range many {
		public, ok := k.Public().(ed25519.PublicKey)
		if !ok {
			return nil, errors.New("a signing key is no Ed25519 key")
		}
		if !k.RetireAt.IsZero() && !k.NotBefore.Before(k.RetireAt) {
			return nil, fmt.Errorf("signing key %s retires before it begins", result.KeyID(public))
		}
		out[i] = ring{Signer: k.Signer, public: public, begin: k.NotBefore, end: k.RetireAt}
	}
	slices.SortStableFunc(out, func(a, b ring) int { return a.begin.Compare(b.begin) })
	for i := range out {
		if slices.ContainsFunc(out[:i], func(o ring) bool { return o.public.Equal(out[i].public) }) {
			return nil, fmt.Errorf("signing key %s is there twice", result.KeyID(out[i].public))
		}
		if i+1 == len(out) {
			break
		}
		next := out[i+1].begin
		if next.Equal(out[i].begin) {
			return nil, errors.New("two signing keys begin at the same time")
		}
		if out[i].end.IsZero() || next.Before(out[i].end) {
			out[i].end = next
		}
	}
	return out, nil
}

func (k *ring) state(now time.Time) string {
	switch {
	case now.Before(k.begin):
		return wire.KeyNext
	case !k.end.IsZero() && !now.Before(k.end):
		return wire.KeyRetiring
	}
	return wire.KeyCurrent
}

// signer returns the key that signs now. There may be none: the keys of a
// rotation that nobody went on with.
func (m *material) signer(now time.Time) (*ring, error) {
	for i := range m.keys {
		if m.keys[i].state(now) == wire.KeyCurrent {
			return &m.keys[i], nil
		}
	}
	return nil, fault.New(fault.ExitNetwork, "verifier.signing_key", "the verifier's operator has to add a key", "signing verdict: no key is in force")
}

// published returns the keys under which verdicts are good, or will be: the
// current one first.
func (m *material) published(now time.Time) []*ring {
	var out []*ring
	for i := range m.keys {
		k := &m.keys[i]
		switch k.state(now) {
		case wire.KeyCurrent:
			out = slices.Insert(out, 0, k)
		case wire.KeyNext:
			out = append(out, k)
		case wire.KeyRetiring:
			if now.Before(k.end.Add(publishedFor)) {
				out = append(out, k)
			}
		}
	}
	return out
}

func text(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
