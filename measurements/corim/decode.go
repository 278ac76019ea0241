package corim

import (
	"bytes"
	"fmt"
	"time"

	"cocoon/measurements/cbor"
)

// Decode reads what Encode writes: anything beyond it, such as a key that this
// package does not know, is refused.
func Decode(b []byte) (*CoRIM, error) {
	v, err := cbor.Decode(b, MaxSize)
	if err != nil {
		return nil, fmt.Errorf("reading CoRIM: %w", err)
	}
	r := &reader{}
	c := r.corim(v)
	if r.err == nil {
		// One document has one form: what was left out while reading shows here.
		var again []byte
		if again, r.err = c.Encode(); r.err == nil && !bytes.Equal(again, b) {
			r.bad("it has parts that are not reference values")
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("reading CoRIM: %w", r.err)
	}
	return c, nil
}

// reader keeps the first error.
type reader struct{ err error }

func (r *reader) bad(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", cbor.ErrForm, what)
	}
}

// as returns a value as a type.
func as[T any](r *reader, v any, what string) T {
	t, ok := v.(T)
	if !ok {
		r.bad(what)
	}
	return t
}

func (r *reader) tagged(v any, number uint64) any {
	t := as[cbor.Tag](r, v, "a tag is missing")
	if t.Number != number {
		r.bad(fmt.Sprintf("tag %d, want %d", t.Number, number))
	}
	return t.Content
}

// opt calls f for a key that is there.
func opt(m cbor.Map, key uint64, f func(any)) {
	if v, ok := m.Get(key); ok {
		f(v)
	}
}

func (r *reader) corim(v any) *CoRIM {
	m := as[cbor.Map](r, r.tagged(v, tagCoRIM), "corim-map")
	c := &CoRIM{}
	opt(m, 0, func(v any) { c.ID = r.id(v) })
	opt(m, 1, func(v any) {
		for _, t := range as[[]any](r, v, "tags") {
			raw := as[[]byte](r, r.tagged(t, tagCoMID), "concise-mid-tag")
			if r.err != nil {
				return
			}
			inner, err := cbor.Decode(raw, MaxSize)
			if err != nil {
				r.err = err
				return
			}
			c.Tags = append(c.Tags, r.comid(inner))
		}
	})
	opt(m, 3, func(v any) {
		switch t := as[cbor.Tag](r, v, "profile"); t.Number {
		case tagURI:
			c.Profile = as[string](r, t.Content, "profile")
		default:
			c.Profile = OID(as[[]byte](r, r.tagged(v, tagOID), "profile"))
		}
	})
	opt(m, 4, func(v any) {
		opt(as[cbor.Map](r, v, "validity-map"), 1, func(v any) {
			n := as[uint64](r, r.tagged(v, tagTime), "not-after")
			if n == 0 || n > maxTime {
				r.bad("not-after is out of range")
			}
			c.NotAfter = time.Unix(int64(min(n, maxTime)), 0).UTC()
		})
	})
	opt(m, 5, func(v any) { c.Entities = r.entities(v) })
	return c
}

func (r *reader) id(v any) any {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		if len(v) == len(UUID{}) {
			return UUID(v)
		}
	}
	r.bad("an id is neither text nor UUID")
	return nil
}

func (r *reader) comid(v any) CoMID {
	m := as[cbor.Map](r, v, "concise-mid-tag")
	c := CoMID{}
	opt(m, 1, func(v any) {
		identity := as[cbor.Map](r, v, "tag-identity-map")
		opt(identity, 0, func(v any) { c.ID = r.id(v) })
		opt(identity, 1, func(v any) { c.Version = as[uint64](r, v, "tag-version") })
	})
	opt(m, 2, func(v any) { c.Entities = r.entities(v) })
	opt(m, 4, func(v any) {
		triples := as[cbor.Map](r, v, "triples-map")
		opt(triples, 0, func(v any) { c.Reference = r.triples(v) })
		opt(triples, 1, func(v any) { c.Endorsed = r.triples(v) })
	})
	return c
}

func (r *reader) entities(v any) []Entity {
	var out []Entity
	for _, e := range as[[]any](r, v, "entities") {
		m, x := as[cbor.Map](r, e, "entity-map"), Entity{}
		opt(m, 0, func(v any) { x.Name = as[string](r, v, "entity-name") })
		opt(m, 1, func(v any) { x.RegID = as[string](r, r.tagged(v, tagURI), "reg-id") })
		opt(m, 2, func(v any) {
			for _, role := range as[[]any](r, v, "roles") {
				x.Roles = append(x.Roles, as[uint64](r, role, "role"))
			}
		})
		out = append(out, x)
	}
	return out
}

func (r *reader) triples(v any) []Triple {
	var out []Triple
	for _, e := range as[[]any](r, v, "triples") {
		record := as[[]any](r, e, "triple record")
		if len(record) != 2 {
			r.bad("a triple record has not two parts")
			return out
		}
		t := Triple{}
		opt(as[cbor.Map](r, record[0], "environment-map"), 0, func(v any) { t.Class = r.class(v) })
		for _, x := range as[[]any](r, record[1], "measurements") {
			t.Measurements = append(t.Measurements, r.measurement(x))
		}
		out = append(out, t)
	}
	return out
}

func (r *reader) class(v any) Class {
	m, c := as[cbor.Map](r, v, "class-map"), Class{}
	opt(m, 0, func(v any) {
		t := as[cbor.Tag](r, v, "class-id")
		b := as[[]byte](r, t.Content, "class-id")
		switch {
		case t.Number == tagUUID && len(b) == len(UUID{}):
			c.ID = UUID(b)
		case t.Number == tagOID:
			c.ID = OID(b)
		case t.Number == tagBytes:
			c.ID = Bytes(b)
		default:
			r.bad("class-id")
		}
	})
	opt(m, 1, func(v any) { c.Vendor = as[string](r, v, "vendor") })
	opt(m, 2, func(v any) { c.Model = as[string](r, v, "model") })
	opt(m, 3, func(v any) { n := as[uint64](r, v, "layer"); c.Layer = &n })
	opt(m, 4, func(v any) { n := as[uint64](r, v, "index"); c.Index = &n })
	return c
}

func (r *reader) measurement(v any) Measurement {
	m, x := as[cbor.Map](r, v, "measurement-map"), Measurement{}
	opt(m, 0, func(v any) { x.Key = r.key(v) })
	values, _ := m.Get(uint64(1))
	mval := as[cbor.Map](r, values, "measurement-values-map")
	opt(mval, 0, func(v any) {
		vm := as[cbor.Map](r, v, "version-map")
		x.Version = &Version{}
		opt(vm, 0, func(v any) { x.Version.Text = as[string](r, v, "version") })
		opt(vm, 1, func(v any) { x.Version.Scheme = as[uint64](r, v, "version-scheme") })
	})
	opt(mval, 1, func(v any) { n := as[uint64](r, r.tagged(v, tagSVN), "svn"); x.SVN = &n })
	opt(mval, 2, func(v any) { x.Digests = r.digests(v) })
	opt(mval, 4, func(v any) { x.Raw = as[[]byte](r, r.tagged(v, tagBytes), "raw-value") })
	opt(mval, 5, func(v any) { x.RawMask = as[[]byte](r, v, "raw-value-mask") })
	opt(mval, 11, func(v any) { x.Name = as[string](r, v, "name") })
	opt(mval, 14, func(v any) {
		for _, p := range as[cbor.Map](r, v, "integrity-registers") {
			x.Registers = append(x.Registers, Register{ID: r.key(p.Key), Digests: r.digests(p.Value)})
		}
	})
	return x
}

// key reads a number or a text.
func (r *reader) key(v any) any {
	switch v.(type) {
	case uint64, string:
		return v
	}
	r.bad("a key is neither number nor text")
	return nil
}

func (r *reader) digests(v any) []Digest {
	var out []Digest
	for _, e := range as[[]any](r, v, "digests") {
		pair := as[[]any](r, e, "digest")
		if len(pair) != 2 {
			r.bad("a digest has not two parts")
			return out
		}
		out = append(out, Digest{Algorithm: r.key(pair[0]), Value: as[[]byte](r, pair[1], "hash-value")})
	}
	return out
}
