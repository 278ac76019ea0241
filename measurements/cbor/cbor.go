// Package cbor writes and reads CBOR in its deterministic form (RFC 8949,
// section 4.2.1): shortest arguments, definite lengths, keys of maps sorted by
// their encoding. In come values, out come bytes, and back; any other form of
// the same data is refused, so one value has one encoding. Floating point and
// simple values other than false, true and null are not supported.
package cbor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Limits of what Decode takes.
const (
	MaxDepth = 24
	maxItems = 1 << 16 // of one array or map
)

// ErrForm is returned for bytes that are not CBOR in deterministic form, and
// for values that have none.
var ErrForm = errors.New("not CBOR in deterministic form")

// Values are: uint64, Negative, []byte, string, []any, Map, Tag, bool and nil.

// Negative is the integer -1-n.
type Negative uint64

// Pair is an entry of a map.
type Pair struct{ Key, Value any }

// Map is a map; Encode sorts it.
type Map []Pair

// Get returns the value of a key that is a uint64 or a string.
func (m Map) Get(key any) (any, bool) {
	for _, p := range m {
		switch k := p.Key.(type) {
		case uint64, string:
			if k == key {
				return p.Value, true
			}
		}
	}
	return nil, false
}

// Tag is a tagged value.
type Tag struct {
	Number  uint64
	Content any
}

// Major types (RFC 8949 section 3.1).
const (
	majorUint, majorNegative, majorBytes, majorText = 0, 1, 2, 3
	majorArray, majorMap, majorTag, majorSimple     = 4, 5, 6, 7
)

const (
	simpleFalse = 0xf4
	simpleTrue  = 0xf5
	simpleNull  = 0xf6
)

// Encode returns the deterministic encoding of a value.
func Encode(v any) ([]byte, error) { return encode(nil, v, 0) }

func head(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func encode(b []byte, v any, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("encoding CBOR deeper than %d: %w", MaxDepth, ErrForm)
	}
	switch v := v.(type) {
	case uint64:
		return head(b, majorUint, v), nil
	case Negative:
		return head(b, majorNegative, uint64(v)), nil
	case []byte:
		return append(head(b, majorBytes, uint64(len(v))), v...), nil
	case string:
		if !utf8.ValidString(v) {
			return nil, fmt.Errorf("encoding text that is not UTF-8: %w", ErrForm)
		}
		return append(head(b, majorText, uint64(len(v))), v...), nil
	case []any:
		b = head(b, majorArray, uint64(len(v)))
		var err error
		for _, e := range v {
			if b, err = encode(b, e, depth+1); err != nil {
				return nil, err
			}
		}
		return b, nil
	case Map:
		return encodeMap(b, v, depth)
	case Tag:
		return encode(head(b, majorTag, v.Number), v.Content, depth+1)
	case bool:
		if v {
			return append(b, simpleTrue), nil
		}
		return append(b, simpleFalse), nil
	case nil:
		return append(b, simpleNull), nil
	}
	return nil, fmt.Errorf("encoding a value of type %T: %w", v, ErrForm)
}

func encodeMap(b []byte, m Map, depth int) ([]byte, error) {
	type entry struct{ key, value []byte }
	entries := make([]entry, len(m))
	for i, p := range m {
		key, err := encode(nil, p.Key, depth+1)
		if err != nil {
			return nil, err
		}
		value, err := encode(nil, p.Value, depth+1)
		if err != nil {
			return nil, err
		}
		entries[i] = entry{key, value}
	}
	slices.SortFunc(entries, func(x, y entry) int { return bytes.Compare(x.key, y.key) })
	b = head(b, majorMap, uint64(len(m)))
	for i, e := range entries {
		if i > 0 && bytes.Equal(entries[i-1].key, e.key) {
			return nil, fmt.Errorf("encoding a map with a key twice: %w", ErrForm)
		}
		b = append(append(b, e.key...), e.value...)
	}
	return b, nil
}

// Decode reads exactly one value of at most limit bytes.
func Decode(b []byte, limit int) (any, error) {
	if len(b) > limit {
		return nil, fmt.Errorf("decoding CBOR of %d bytes, limit %d: %w", len(b), limit, ErrForm)
	}
	d := decoder{b: b}
	v, err := d.value(0)
	if err == nil && d.at != len(b) {
		err = fmt.Errorf("decoding CBOR: %w: data after the value", ErrForm)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

type decoder struct {
	b  []byte
	at int
}

func (d *decoder) bad(what string) error {
	return fmt.Errorf("decoding CBOR at byte %d: %w: %s", d.at, ErrForm, what)
}

// head reads a major type and its argument, which must be in its shortest
// form.
func (d *decoder) head() (major byte, n uint64, err error) {
	if d.at >= len(d.b) {
		return 0, 0, d.bad("it is cut")
	}
	first := d.b[d.at]
	major, low := first>>5, first&31
	d.at++
	if low < 24 {
		return major, uint64(low), nil
	}
	if low > 27 {
		return 0, 0, d.bad("an indefinite or reserved length")
	}
	size := 1 << (low - 24)
	if len(d.b)-d.at < size {
		return 0, 0, d.bad("it is cut")
	}
	for _, c := range d.b[d.at : d.at+size] {
		n = n<<8 | uint64(c)
	}
	d.at += size
	if major == majorSimple || len(head(nil, major, n)) != 1+size {
		return 0, 0, d.bad("a longer form than needed, or a number that is not supported")
	}
	return major, n, nil
}

func (d *decoder) value(depth int) (any, error) {
	if depth > MaxDepth {
		return nil, d.bad("nested too deep")
	}
	major, n, err := d.head()
	if err != nil {
		return nil, err
	}
	switch major {
	case majorUint:
		return n, nil
	case majorNegative:
		return Negative(n), nil
	case majorBytes, majorText:
		if n > uint64(len(d.b)-d.at) {
			return nil, d.bad("it is cut")
		}
		s := d.b[d.at : d.at+int(n)]
		d.at += int(n)
		if major == majorBytes {
			return bytes.Clone(s), nil
		}
		if !utf8.Valid(s) {
			return nil, d.bad("text is not UTF-8")
		}
		return string(s), nil
	case majorArray:
		if n > maxItems || n > uint64(len(d.b)-d.at) {
			return nil, d.bad("an array longer than the data")
		}
		out := make([]any, 0, n)
		for range n {
			v, err := d.value(depth + 1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	case majorMap:
		return d.entries(n, depth)
	case majorTag:
		v, err := d.value(depth + 1)
		return Tag{n, v}, err
	}
	switch byte(n) | majorSimple<<5 {
	case simpleFalse:
		return false, nil
	case simpleTrue:
		return true, nil
	case simpleNull:
		return nil, nil
	}
	return nil, d.bad("a simple value that is not supported")
}

func (d *decoder) entries(n uint64, depth int) (any, error) {
	if n > maxItems || 2*n > uint64(len(d.b)-d.at) {
		return nil, d.bad("a map longer than the data")
	}
	out := make(Map, 0, n)
	var last []byte
	for i := range n {
		start := d.at
		key, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		raw := d.b[start:d.at]
		if i > 0 && bytes.Compare(last, raw) >= 0 {
			return nil, d.bad("keys are not sorted or not distinct")
		}
		last = raw
		value, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, Pair{key, value})
	}
	return out, nil
}
