package jcs

import (
	"cmp"
	"encoding"
	"encoding/base64"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxInteger is the largest number of maxExact digits.
const maxInteger = 999_999_999_999_999

// appendValue appends the RFC 8785 form of a value whose type has a plan.
// False means that it does not know, and not that the value is bad.
func appendValue(dst []byte, v any) ([]byte, bool) {
	rv := reflect.ValueOf(v)
	if !rv.IsValid() {
		return nil, false
	}
	p := planOf(rv.Type())
	if p == nil {
		return nil, false
	}
	return p.append(dst, rv)
}

func (p *plan) append(dst []byte, v reflect.Value) ([]byte, bool) {
	switch p.kind {
	case kindString:
		return appendString(dst, v.String())
	case kindBytes:
		if v.IsNil() {
			return append(dst, "null"...), true
		}
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v.Bytes())
		return append(dst, '"'), true
	case kindBool:
		return strconv.AppendBool(dst, v.Bool()), true
	case kindInt:
		n := v.Int()
		return strconv.AppendInt(dst, n, 10), n <= maxInteger && n >= -maxInteger
	case kindUint:
		n := v.Uint()
		return strconv.AppendUint(dst, n, 10), n <= maxInteger
	case kindStruct:
		return p.appendStruct(dst, v)
	case kindSlice:
		if v.IsNil() {
			return append(dst, "null"...), true
		}
		dst = append(dst, '[')
		for i := range v.Len() {
			if i > 0 {
				dst = append(dst, ',')
			}
			var ok bool
			if dst, ok = p.elem.append(dst, v.Index(i)); !ok {
				return nil, false
			}
		}
		return append(dst, ']'), true
	case kindMap:
		return p.appendMap(dst, v)
	case kindPointer:
		if v.IsNil() {
			return append(dst, "null"...), true
		}
		return p.elem.append(dst, v.Elem())
	case kindRaw:
		if v.IsNil() {
			return append(dst, "null"...), true
		}
		s := &scanner{b: v.Bytes()}
		dst, ok := s.canonical(dst)
		s.space()
		return dst, ok && s.i == len(s.b)
	case kindText:
		if v.CanAddr() {
			v = v.Addr()
		}
		dst = append(dst, '"')
		start := len(dst)
		dst, err := v.Interface().(encoding.TextAppender).AppendText(dst)
		if err != nil || plainPrefix(dst[start:]) != len(dst)-start {
			return nil, false
		}
		return append(dst, '"'), true
	}
	return nil, false
}

func (p *plan) appendStruct(dst []byte, v reflect.Value) ([]byte, bool) {
	dst = append(dst, '{')
	first := true
	for i := range p.fields {
		f := &p.fields[i]
		fv := v.Field(f.index)
		if f.omit && f.plan.empty(fv) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		var ok bool
		if dst, ok = f.plan.append(append(dst, f.member...), fv); !ok {
			return nil, false
		}
	}
	return append(dst, '}'), true
}

// empty is what encoding/json leaves out for omitempty.
func (p *plan) empty(v reflect.Value) bool {
	switch p.kind {
	case kindString, kindBytes, kindSlice, kindMap, kindRaw:
		return v.Len() == 0
	case kindText:
		return v.Len() == 0 // an array
	case kindStruct:
		return false
	}
	return v.IsZero()
}

func (p *plan) appendMap(dst []byte, v reflect.Value) ([]byte, bool) {
	if v.IsNil() {
		return append(dst, "null"...), true
	}
	type entry struct {
		key      string
		from, to int
	}
	entries := make([]entry, 0, v.Len())
	// One value to read all into: the iterator's own copies are on the heap.
	value := reflect.New(p.elem.typ).Elem()
	dst = append(dst, '{')
	first, sorted := len(dst), true
	for it := v.MapRange(); it.Next(); {
		key := it.Key().String()
		if plainPrefix([]byte(key)) != len(key) {
			return nil, false // the order would be that of UTF-16
		}
		if n := len(entries); n > 0 {
			sorted = sorted && entries[n-1].key < key
			dst = append(dst, ',')
		}
		from := len(dst)
		value.SetIterValue(it)
		var ok bool
		if dst, ok = p.elem.append(append(append(append(dst, '"'), key...), `":`...), value); !ok {
			return nil, false
		}
		entries = append(entries, entry{key, from, len(dst)})
	}
	if !sorted {
		slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
		pooled := buffers.Get().(*[]byte)
		old := append((*pooled)[:0], dst[first:]...)
		dst = dst[:first]
		for i, e := range entries {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, old[e.from-first:e.to-first]...)
		}
		*pooled = old
		buffers.Put(pooled)
	}
	return append(dst, '}'), true
}

// AppendString appends the RFC 8785 form of a string. False means that it is not
// UTF-8, and that nothing is returned.
func AppendString(dst []byte, s string) ([]byte, bool) { return appendString(dst, s) }

// appendString appends a string as RFC 8785, section 3.2.2.2, has it.
func appendString(dst []byte, s string) ([]byte, bool) {
	dst = append(dst, '"')
	start := len(dst)
	if dst = append(dst, s...); plainPrefix(dst[start:]) == len(s) {
		return append(dst, '"'), true
	}
	dst = dst[:start]
	if !utf8.ValidString(s) {
		return nil, false
	}
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			const hex = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[from:]...), '"'), true
}
