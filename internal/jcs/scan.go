package jcs

import (
	"bytes"
	"encoding/binary"
	"sort"
	"sync"
)

// The scanner takes documents in one pass that are as most are: keys of ASCII
// without escapes, integers of at most 15 digits, strings whose escapes are
// already in RFC 8785's form. What is not so, or not good JSON, it leaves to
// the library and to encoding/json, which decide and say why: it never refuses.

// maxExact is the number of digits that any double holds exactly.
const maxExact = 15

// buffers are scratch space, so that large documents do not grow new ones.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

type scanner struct {
	b     []byte
	i     int
	depth int
	// loose is set where the text is not the RFC 8785 form of what it is decoded
	// to (DecodeExact).
	loose bool
	room  []byte
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
			s.loose = true
		default:
			return
		}
	}
}

func (s *scanner) take(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// plain marks the bytes of a string that stand for themselves: no quote,
// backslash or control character, and ASCII.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// special has a top bit set in one of eight bytes or more if one of them does not
// stand for itself: it has its own, or what is subtracted borrows into it (a byte
// under 0x20, a quote, a backslash). The lowest is exact, and one is enough.
func special(x uint64) uint64 {
	const ones = 0x0101010101010101
	return x | (x - ones*0x20) | ((x ^ ones*'"') - ones) | ((x ^ ones*'\\') - ones)
}

// plainPrefix returns the number of bytes that stand for themselves in front of
// the first that does not. It looks at many at a time: evidence is mostly base64.
func plainPrefix(b []byte) int {
	const tops = 0x8080808080808080
	i := 0
	for len(b)-i >= 32 {
		c := b[i : i+32 : i+32]
		le := binary.LittleEndian
		if (special(le.Uint64(c))|special(le.Uint64(c[8:]))|special(le.Uint64(c[16:]))|special(le.Uint64(c[24:])))&tops != 0 {
			break
		}
		i += 32
	}
	for len(b)-i >= 8 && special(binary.LittleEndian.Uint64(b[i:i+8]))&tops == 0 {
		i += 8
	}
	for i < len(b) && plain[b[i]] {
		i++
	}
	return i
}

// str scans a string and returns it with its quotes; ok is false where it is
// not in RFC 8785's form as it stands. simple means no escapes.
func (s *scanner) str() (text []byte, simple, ok bool) {
	start := s.i
	if !s.take('"') {
		return nil, false, false
	}
	simple = true
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case plain[c]:
			s.i += plainPrefix(s.b[s.i:])
		case c == '"':
			s.i++
			return s.b[start:s.i], simple, true
		case c == '\\' && s.i+1 < len(s.b) && bytes.IndexByte([]byte(`"\bfnrt`), s.b[s.i+1]) >= 0:
			simple = false
			s.i += 2
		default: // other escapes, control characters, and what is not ASCII
			return nil, false, false
		}
	}
	return nil, false, false
}

// number scans an integer that is its own RFC 8785 form.
func (s *scanner) number() bool {
	start := s.i
	negative := s.take('-')
	digits := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	n := s.i - digits
	if n == 0 || n > maxExact || n > 1 && s.b[digits] == '0' || negative && s.b[digits] == '0' {
		return false
	}
	if s.i < len(s.b) {
		switch s.b[s.i] {
		case '.', 'e', 'E':
			return false
		}
	}
	return s.i > start
}

func (s *scanner) literal() bool {
	for _, l := range []string{"true", "false", "null"} {
		if len(s.b)-s.i >= len(l) && string(s.b[s.i:s.i+len(l)]) == l {
			s.i += len(l)
			return true
		}
	}
	return false
}

// checkFast is Check for documents that are as most are. False means that it
// does not know.
func checkFast(doc []byte) bool {
	s := &scanner{b: doc}
	if !s.check() {
		return false
	}
	s.space()
	return s.i == len(doc)
}

func (s *scanner) check() bool {
	if s.depth > MaxDepth {
		return false
	}
	s.space()
	if s.i >= len(s.b) {
		return false
	}
	switch c := s.b[s.i]; {
	case c == '"':
		_, _, ok := s.str()
		return ok
	case c == '{':
		s.i++
		s.depth++
		defer func() { s.depth-- }()
		var room [16][]byte
		keys := room[:0]
		s.space()
		if s.take('}') {
			return true
		}
		for {
			s.space()
			key, simple, ok := s.str()
			if !ok || !simple {
				return false
			}
			if n := len(keys); n > 0 && bytes.Compare(unquote(keys[n-1]), unquote(key)) >= 0 {
				s.loose = true
			}
			keys = append(keys, key)
			s.space()
			if !s.take(':') || !s.check() {
				return false
			}
			s.space()
			if s.take('}') {
				return distinct(keys)
			}
			if !s.take(',') {
				return false
			}
		}
	case c == '[':
		s.i++
		s.depth++
		defer func() { s.depth-- }()
		s.space()
		if s.take(']') {
			return true
		}
		for {
			if !s.check() {
				return false
			}
			s.space()
			if s.take(']') {
				return true
			}
			if !s.take(',') {
				return false
			}
		}
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	return s.literal()
}

// distinct reports whether keys differ in more than case. Many are left to the
// slow way.
func distinct(keys [][]byte) bool {
	if len(keys) > 64 {
		return false
	}
	for i, k := range keys {
		for _, l := range keys[:i] {
			if len(k) == len(l) && bytes.EqualFold(k, l) {
				return false
			}
		}
	}
	return true
}

// appendCanonical appends the RFC 8785 form of a document that is as most are.
// False means that it does not know.
func appendCanonical(dst, doc []byte) ([]byte, bool) {
	s := &scanner{b: doc}
	dst, ok := s.canonical(dst)
	if !ok {
		return nil, false
	}
	s.space()
	return dst, s.i == len(doc)
}

// member is where an object's member stands in the output.
type member struct {
	key      []byte
	from, to int
}

func (s *scanner) canonical(dst []byte) ([]byte, bool) {
	if s.depth > MaxDepth {
		return nil, false
	}
	s.space()
	if s.i >= len(s.b) {
		return nil, false
	}
	start := s.i
	switch c := s.b[s.i]; {
	case c == '"':
		text, _, ok := s.str()
		return append(dst, text...), ok
	case c == '{':
		return s.object(dst)
	case c == '[':
		s.i++
		s.depth++
		defer func() { s.depth-- }()
		dst = append(dst, '[')
		s.space()
		if s.take(']') {
			return append(dst, ']'), true
		}
		for {
			var ok bool
			if dst, ok = s.canonical(dst); !ok {
				return nil, false
			}
			s.space()
			if s.take(']') {
				return append(dst, ']'), true
			}
			if !s.take(',') {
				return nil, false
			}
			dst = append(dst, ',')
		}
	case c == '-' || c >= '0' && c <= '9':
		if !s.number() {
			return nil, false
		}
		return append(dst, s.b[start:s.i]...), true
	}
	ok := s.literal()
	return append(dst, s.b[start:s.i]...), ok
}

// object appends members in the order in which they stand, and puts them in
// order where they were not.
func (s *scanner) object(dst []byte) ([]byte, bool) {
	s.i++
	s.depth++
	defer func() { s.depth-- }()
	dst = append(dst, '{')
	s.space()
	if s.take('}') {
		return append(dst, '}'), true
	}
	var room [16]member
	members, sorted := room[:0], true
	first := len(dst)
	for {
		s.space()
		key, simple, ok := s.str()
		if !ok || !simple {
			return nil, false
		}
		if n := len(members); n > 0 {
			switch c := bytes.Compare(unquote(members[n-1].key), unquote(key)); {
			case c == 0:
				return nil, false
			case c > 0:
				sorted = false
			}
			dst = append(dst, ',')
		}
		m := member{key: key, from: len(dst)}
		s.space()
		if !s.take(':') {
			return nil, false
		}
		dst = append(append(dst, key...), ':')
		if dst, ok = s.canonical(dst); !ok {
			return nil, false
		}
		m.to = len(dst)
		members = append(members, m)
		s.space()
		if s.take('}') {
			break
		}
		if !s.take(',') {
			return nil, false
		}
	}
	if !sorted {
		// UTF-16 order is that of bytes, for keys are ASCII.
		sort.Slice(members, func(i, j int) bool { return bytes.Compare(unquote(members[i].key), unquote(members[j].key)) < 0 })
		pooled := buffers.Get().(*[]byte)
		old := append((*pooled)[:0], dst[first:]...)
		*pooled = old
		defer buffers.Put(pooled)
		dst = dst[:first]
		for i, m := range members {
			if i > 0 {
				if bytes.Equal(members[i-1].key, m.key) {
					return nil, false
				}
				dst = append(dst, ',')
			}
			dst = append(dst, old[m.from-first:m.to-first]...)
		}
	}
	return append(dst, '}'), true
}

func unquote(key []byte) []byte { return key[1 : len(key)-1] }
