package jcs

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"reflect"

	"cocoon/internal/recent"
)

// decodeFast is Decode in one pass, for documents that are as most are, into
// zero values of types that have a plan. False means that it does not know; v
// is then as it was. exact says that doc is the RFC 8785 form of what v is now.
func decodeFast(doc []byte, v any) (done, exact bool) {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() || !rv.Elem().IsZero() {
		return false, false
	}
	p := planOf(rv.Type().Elem())
	if p == nil {
		return false, false
	}
	s := &scanner{b: doc}
	ok := s.decode(p, rv.Elem())
	s.space()
	if !ok || s.i != len(doc) {
		rv.Elem().SetZero()
		return false, false
	}
	return true, !s.loose
}

// decode reads a value. The null of JSON is left to encoding/json.
func (s *scanner) decode(p *plan, v reflect.Value) bool {
	if s.depth > MaxDepth {
		return false
	}
	s.space()
	switch p.kind {
	case kindString, kindBytes, kindText:
		quoted, simple, ok := s.str()
		return ok && simple && s.set(p, v, unquote(quoted))
	case kindBool:
		start := s.i
		if !s.literal() || s.b[start] == 'n' {
			return false
		}
		v.SetBool(s.b[start] == 't')
		return true
	case kindInt, kindUint:
		start := s.i
		if !s.number() {
			return false
		}
		n := integer(s.b[start:s.i])
		if p.kind == kindInt {
			v.SetInt(n)
			return !v.OverflowInt(n)
		}
		v.SetUint(uint64(n))
		return n >= 0 && !v.OverflowUint(uint64(n))
	case kindRaw:
		start := s.i
		if !s.raw() || s.b[start] == 'n' {
			return false
		}
		v.SetBytes(append([]byte(nil), s.b[start:s.i]...))
		return true
	case kindPointer:
		if s.i < len(s.b) && s.b[s.i] == 'n' {
			return false
		}
		v.Set(reflect.New(p.elem.typ))
		return s.decode(p.elem, v.Elem())
	case kindSlice:
		return s.decodeSlice(p, v)
	case kindStruct, kindMap:
		return s.decodeObject(p, v)
	}
	return false
}

// Bounds of the raw JSON that is remembered, in number and bytes. Less is checked
// faster than it is looked for.
const (
	mostRemembered  = 16
	leastRemembered = 1 << 10
	largestRaw      = 256 << 10
)

// checked are objects that check took, by their depth, in a form that leaves
// nothing loose. What check says of an object it says of the bytes up to the last
// brace, whatever follows: where a document has these bytes again, there is nothing
// to look at again. They are every user's of this package, and stay in memory:
// nothing that is a secret may be kept as raw JSON.
var checked = recent.New[int, struct{}](mostRemembered, largestRaw)

// raw is check for what is kept as it stands: most of a document may be of that
// kind, and the same in each.
func (s *scanner) raw() bool {
	start, before := s.i, s.loose
	object := s.i < len(s.b) && s.b[s.i] == '{'
	if object && len(s.b)-s.i >= leastRemembered {
		if n := checked.Prefix(s.depth, s.b[s.i:]); n > 0 {
			s.i += n
			return true
		}
	}
	s.loose = false
	ok := s.check()
	if ok && object && !s.loose && s.i-start >= leastRemembered {
		checked.Put(s.depth, s.b[start:s.i], struct{}{})
	}
	s.loose = s.loose || before
	return ok
}

// set sets what JSON has as a string.
func (s *scanner) set(p *plan, v reflect.Value, text []byte) bool {
	switch p.kind {
	case kindString:
		v.SetString(string(text))
		return true
	case kindBytes:
		b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		n, err := base64.StdEncoding.Decode(b, text)
		v.SetBytes(b[:n])
		if tail := n % 3; err == nil && tail > 0 {
			// Of the last bits some say nothing, and may be anything.
			var last [4]byte
			base64.StdEncoding.Encode(last[:], b[n-tail:n])
			s.loose = s.loose || !bytes.Equal(last[:], text[len(text)-len(last):])
		}
		return err == nil
	}
	to := v.Addr().Interface()
	if to.(encoding.TextUnmarshaler).UnmarshalText(text) != nil {
		return false
	}
	again, err := to.(encoding.TextAppender).AppendText(s.room[:0])
	s.loose = s.loose || err != nil || !bytes.Equal(again, text)
	s.room = again
	return true
}

func (s *scanner) decodeSlice(p *plan, v reflect.Value) bool {
	if !s.take('[') {
		return false
	}
	s.depth++
	defer func() { s.depth-- }()
	v.Set(reflect.MakeSlice(p.typ, 0, 0))
	s.space()
	if s.take(']') {
		return true
	}
	for n := 0; ; n++ {
		if n == v.Cap() {
			more := 1
			if n == 0 {
				more = 4 // mostly there are a few
			}
			v.Grow(more)
		}
		v.SetLen(n + 1)
		v.Index(n).SetZero()
		if !s.decode(p.elem, v.Index(n)) {
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
}

// decodeObject takes keys in the fields' own spelling alone, which no two
// fields share however the case is folded: a key that was seen is a duplicate.
func (s *scanner) decodeObject(p *plan, v reflect.Value) bool {
	if !s.take('{') {
		return false
	}
	s.depth++
	defer func() { s.depth-- }()
	if p.kind == kindMap {
		v.Set(reflect.MakeMap(p.typ))
	}
	var keys [][]byte
	var seen uint64
	next := 0 // the first field that canonical JSON may still have
	s.space()
	if s.take('}') {
		s.leftOut(p, v, 0, len(p.fields))
		return true
	}
	for {
		s.space()
		quoted, simple, ok := s.str()
		if !ok || !simple {
			return false
		}
		key := unquote(quoted)
		s.space()
		if !s.take(':') {
			return false
		}
		if p.kind == kindMap {
			if n := len(keys); n > 0 && bytes.Compare(keys[n-1], key) >= 0 {
				s.loose = true
			}
			keys = append(keys, key)
			one := reflect.New(p.elem.typ).Elem()
			if !s.decode(p.elem, one) {
				return false
			}
			v.SetMapIndex(reflect.ValueOf(string(key)), one)
		} else {
			i, known := p.field(next, key)
			if !known || seen&(1<<i) != 0 {
				return false
			}
			seen |= 1 << i
			f := &p.fields[i]
			if !s.decode(f.plan, v.Field(f.index)) {
				return false
			}
			if i < next || f.omit && f.plan.empty(v.Field(f.index)) {
				s.loose = true
			}
			s.leftOut(p, v, next, i)
			next = i + 1
		}
		s.space()
		if s.take('}') {
			s.leftOut(p, v, next, len(p.fields))
			return distinct(keys)
		}
		if !s.take(',') {
			return false
		}
	}
}

// field finds a field by its key: from the one on that comes next in canonical
// JSON, which may leave some out.
func (p *plan) field(next int, key []byte) (int, bool) {
	for i := next; i < len(p.fields); i++ {
		if p.fields[i].name == string(key) {
			return i, true
		}
	}
	i, known := p.byName[string(key)]
	return i, known
}

// integer is the value of what number scans: maxExact digits at most.
func integer(text []byte) (n int64) {
	digits := bytes.TrimPrefix(text, []byte{'-'})
	for _, c := range digits {
		n = 10*n + int64(c-'0')
	}
	if len(digits) < len(text) {
		return -n
	}
	return n
}

// leftOut notes that a struct has no members for some of its fields. Canonical
// JSON leaves out those alone that are empty and may be.
func (s *scanner) leftOut(p *plan, v reflect.Value, from, to int) {
	for i := from; i < to; i++ {
		if f := &p.fields[i]; !f.omit || !f.plan.empty(v.Field(f.index)) {
			s.loose = true
		}
	}
}
