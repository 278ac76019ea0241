package eventlog

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
)

// ErrAlgorithm is returned where a log lacks an algorithm or this package
// cannot compute it.
var ErrAlgorithm = errors.New("hash algorithm is not in the log or not known")

// Registers are register values by number.
type Registers map[int][]byte

// newHash returns the hash of an algorithm, nil if it is unknown.
func newHash(a Algorithm) hash.Hash {
	switch a {
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	}
	return nil
}

// Has reports whether the log carries digests of an algorithm.
func (l *Log) Has(a Algorithm) bool {
	for _, b := range l.Algorithms {
		if a == b {
			return true
		}
	}
	return false
}

// Replay returns the value of every register that the log extends, and of PCR
// 0 where it has a startup locality. Registers start at zero, which is right
// for PCR 0 to 15 and for RTMRs (PFP section 3.3.3).
func (l *Log) Replay(a Algorithm) (Registers, error) {
	h := newHash(a)
	if h == nil || !l.Has(a) {
		return nil, fmt.Errorf("replaying event log with algorithm %#04x: %w", uint16(a), ErrAlgorithm)
	}
	regs := Registers{}
	if l.StartupLocality != 0 {
		v := make([]byte, h.Size())
		v[len(v)-1] = l.StartupLocality
		regs[0] = v
	}
	for i := range l.Events {
		e := &l.Events[i]
		if e.Type == NoAction {
			continue
		}
		v, ok := regs[int(e.Register)]
		if !ok {
			v = make([]byte, h.Size())
		}
		h.Reset()
		h.Write(v)
		h.Write(e.Digest(a))
		regs[int(e.Register)] = h.Sum(v[:0])
	}
	return regs, nil
}

// Of returns the extended events of one register, in order.
func (l *Log) Of(register int) []*Event {
	var out []*Event
	for i := range l.Events {
		if e := &l.Events[i]; int64(e.Register) == int64(register) && e.Type != NoAction {
			out = append(out, e)
		}
	}
	return out
}
