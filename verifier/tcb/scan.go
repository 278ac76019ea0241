package tcb

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a document, as Intel's library does.
const maxDepth = 32

var errSyntax = errors.New("invalid JSON")

// scanner reads one JSON text from front to back, once, without building a
// tree: TCB info is read on every cold verification, where encoding/json
// would take a third of the time. It refuses what RFC 8259 does not allow,
// and duplicate keys. The first error sticks.
type scanner struct {
	b     []byte
	i     int
	depth int
	err   error
}

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at byte %d: %w", s.i, fmt.Errorf(format, args...))
	}
}

// peek returns the next byte that is not white space, or 0 at the end.
func (s *scanner) peek() byte {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) expect(c byte) bool {
	if s.err == nil && s.peek() == c {
		s.i++
		return true
	}
	s.fail("%w: no %q", errSyntax, c)
	return false
}

// end refuses anything but white space.
func (s *scanner) end() {
	if s.err == nil && (s.peek() != 0 || s.i < len(s.b)) {
		s.fail("%w: data after the value", errSyntax)
	}
}

// object calls member for each key; member must consume the value. Keys that
// it does not know it passes to skip: Intel adds members to a version of the
// documents, and its own library ignores those it does not know.
func (s *scanner) object(member func(key []byte)) {
	if !s.expect('{') || !s.enter() {
		return
	}
	defer func() { s.depth-- }()
	var seen [24][]byte
	n := 0
	for first := true; s.err == nil; first = false {
		if first && s.peek() == '}' {
			s.i++
			return
		}
		key := s.str()
		if s.err != nil || !s.expect(':') {
			return
		}
		for _, k := range seen[:n] {
			if bytes.Equal(k, key) {
				s.fail("duplicate key %q", key)
				return
			}
		}
		if n == len(seen) {
			s.fail("more than %d members in one object", len(seen))
			return
		}
		seen[n] = key
		n++
		member(key)
		if s.err != nil {
			return
		}
		if s.peek() == ',' {
			s.i++
			continue
		}
		s.expect('}')
		return
	}
}

// array calls element for each element; element must consume it.
func (s *scanner) array(max int, element func(i int)) (n int) {
	if !s.expect('[') || !s.enter() {
		return 0
	}
	defer func() { s.depth-- }()
	if s.peek() == ']' {
		s.i++
		return 0
	}
	for s.err == nil {
		if n == max {
			s.fail("more than %d elements", max)
			return n
		}
		element(n)
		n++
		if s.err != nil {
			return n
		}
		if s.peek() == ',' {
			s.i++
			continue
		}
		s.expect(']')
		return n
	}
	return n
}

func (s *scanner) enter() bool {
	if s.depth++; s.depth > maxDepth {
		s.fail("nesting deeper than %d", maxDepth)
		return false
	}
	return true
}

// str reads a string. The result aliases the text unless it has escapes.
func (s *scanner) str() []byte {
	if !s.expect('"') {
		return nil
	}
	start, escaped := s.i, false
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			raw := s.b[start:s.i]
			s.i++
			if !utf8.Valid(raw) {
				s.fail("%w: string is not UTF-8", errSyntax)
				return nil
			}
			if !escaped {
				return raw
			}
			var out string
			if err := json.Unmarshal(s.b[start-1:s.i], &out); err != nil {
				s.fail("%w: %w", errSyntax, err)
			}
			return []byte(out)
		case c == '\\':
			escaped = true
			s.i += 2
		case c < 0x20:
			s.fail("%w: control character in a string", errSyntax)
			return nil
		default:
			s.i++
		}
	}
	s.i = len(s.b)
	s.fail("%w: string without an end", errSyntax)
	return nil
}

// uint reads an integer between 0 and max without sign, fraction or exponent.
func (s *scanner) uint(max uint64) uint64 {
	c := s.peek()
	if s.err != nil || c < '0' || c > '9' {
		s.fail("not an unsigned integer")
		return 0
	}
	start := s.i
	var v uint64
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		d := uint64(s.b[s.i] - '0')
		if v > (math.MaxUint64-d)/10 {
			s.fail("number above %d", max)
			return 0
		}
		v = v*10 + d
		s.i++
	}
	if c == '0' && s.i > start+1 {
		s.fail("%w: number with a leading zero", errSyntax)
	}
	if s.i < len(s.b) && (s.b[s.i] == '.' || s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		s.fail("not an integer")
	}
	if v > max {
		s.fail("number above %d", max)
	}
	return v
}

// hex reads a string of exactly 2*len(dst) hex digits of either case.
func (s *scanner) hex(dst []byte) {
	raw := s.str()
	if s.err != nil {
		return
	}
	if len(raw) != 2*len(dst) {
		s.fail("%d hex digits, not %d", len(raw), 2*len(dst))
		return
	}
	if _, err := hex.Decode(dst, raw); err != nil {
		s.fail("decoding hex: %w", err)
	}
}

// time reads an RFC 3339 time.
func (s *scanner) time() time.Time {
	raw := s.str()
	if s.err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, string(raw))
	if err != nil {
		s.fail("reading a time: %w", err)
	}
	return t.UTC()
}

// skip reads any value.
func (s *scanner) skip() {
	switch c := s.peek(); {
	case s.err != nil:
	case c == '{':
		s.object(func([]byte) { s.skip() })
	case c == '[':
		s.array(math.MaxInt, func(int) { s.skip() })
	case c == '"':
		s.str()
	default:
		start := s.i
		for s.i < len(s.b) && bytes.IndexByte([]byte(" \t\r\n,]}:"), s.b[s.i]) < 0 {
			s.i++
		}
		if !json.Valid(s.b[start:s.i]) {
			s.fail("%w: unknown token", errSyntax)
		}
	}
}
