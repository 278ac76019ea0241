package jcs

import (
	"encoding"
	"encoding/base64"
	"reflect"
	"strconv"
)

// decodeFast is Decode in one pass, for documents that are as most are, into
// zero values of types that have a plan. False means that it does not know; v
// is then as it was.
func decodeFast(doc []byte, v any) bool {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() || !rv.Elem().IsZero() {
		return false
	}
	p := planOf(rv.Type().Elem())
	if p == nil {
		return false
	}
	s := &scanner{b: doc}
	ok := s.decode(p, rv.Elem())
	s.space()
	if !ok || s.i != len(doc) {
		rv.Elem().SetZero()
		return false
	}
	return true
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
		return ok && simple && set(p, v, unquote(quoted))
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
		n, err := strconv.ParseInt(string(s.b[start:s.i]), 10, 64)
		if err != nil {
			return false
		}
		if p.kind == kindInt {
			v.SetInt(n)
			return !v.OverflowInt(n)
		}
		v.SetUint(uint64(n))
		return n >= 0 && !v.OverflowUint(uint64(n))
	case kindRaw:
		start := s.i
		if !s.check() || s.b[start] == 'n' {
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

// set sets what JSON has as a string.
func set(p *plan, v reflect.Value, text []byte) bool {
	switch p.kind {
	case kindString:
		v.SetString(string(text))
		return true
	case kindBytes:
		b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		n, err := base64.StdEncoding.Decode(b, text)
		v.SetBytes(b[:n])
		return err == nil
	}
	return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(text) == nil
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
		v.Grow(1)
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
	s.space()
	if s.take('}') {
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
			keys = append(keys, key)
			one := reflect.New(p.elem.typ).Elem()
			if !s.decode(p.elem, one) {
				return false
			}
			v.SetMapIndex(reflect.ValueOf(string(key)), one)
		} else {
			i, known := p.byName[string(key)]
			if !known || seen&(1<<i) != 0 {
				return false
			}
			seen |= 1 << i
			f := &p.fields[i]
			if !s.decode(f.plan, v.Field(f.index)) {
				return false
			}
		}
		s.space()
		if s.take('}') {
			return distinct(keys)
		}
		if !s.take(',') {
			return false
		}
	}
}
