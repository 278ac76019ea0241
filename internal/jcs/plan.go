package jcs

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
)

// A plan says how values of a type are read and written in one pass. Types that
// most of the project's documents are made of have one: structs with tags,
// slices, maps by string, pointers, strings, bytes, integers, booleans, raw
// JSON, and fixed-size values with a text form. Others have none and are left to
// encoding/json, which is what a plan must agree with (FuzzPlan).
type plan struct {
	kind   kind
	typ    reflect.Type
	elem   *plan
	fields []field
	byName map[string]int
}

type kind int

const (
	kindString kind = iota
	kindBytes
	kindBool
	kindInt
	kindUint
	kindStruct
	kindSlice
	kindMap
	kindPointer
	kindRaw
	kindText
)

// field is one of a struct's, which a plan has in the order of RFC 8785.
type field struct {
	name   string
	member []byte // `"name":`
	index  int
	omit   bool // omitempty
	plan   *plan
}

var (
	rawType       = reflect.TypeFor[json.RawMessage]()
	byteType      = reflect.TypeFor[byte]()
	appenderType  = reflect.TypeFor[encoding.TextAppender]()
	textInType    = reflect.TypeFor[encoding.TextUnmarshaler]()
	otherwiseJSON = []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](),
		reflect.TypeFor[encoding.TextMarshaler](), textInType}
)

// maxFields is the number of fields that a struct with a plan has at most: one
// word says which were seen.
const maxFields = 64

var plans sync.Map // reflect.Type → *plan, nil for none

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := newPlan(t, 0)
	plans.Store(t, p)
	return p
}

// newPlan returns nil for types without a plan. Recursive ones run out of depth.
func newPlan(t reflect.Type, depth int) *plan {
	if depth > MaxDepth {
		return nil
	}
	if t == rawType {
		return &plan{kind: kindRaw, typ: t}
	}
	own := false
	for _, i := range otherwiseJSON {
		// A pointer's methods are decided on with what it points to.
		own = own || t.Kind() != reflect.Pointer && (t.Implements(i) || reflect.PointerTo(t).Implements(i))
	}
	p := &plan{typ: t}
	if own {
		// Of those with a form of their own only fixed-size values, such as hashes.
		to := reflect.PointerTo(t)
		if t.Kind() != reflect.Array || !t.Implements(appenderType) || !to.Implements(textInType) || to.Implements(otherwiseJSON[0]) || to.Implements(otherwiseJSON[1]) {
			return nil
		}
		p.kind = kindText
		return p
	}
	var of reflect.Type
	switch t.Kind() {
	case reflect.String:
		p.kind = kindString
	case reflect.Bool:
		p.kind = kindBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		p.kind = kindInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		p.kind = kindUint
	case reflect.Struct:
		return structPlan(p, depth)
	case reflect.Slice:
		p.kind, of = kindSlice, t.Elem()
		if of == byteType {
			p.kind = kindBytes
			return p
		}
		if of.Kind() == reflect.Uint8 {
			return nil
		}
	case reflect.Map:
		if t.Key() != reflect.TypeFor[string]() {
			return nil
		}
		p.kind, of = kindMap, t.Elem()
	case reflect.Pointer:
		p.kind, of = kindPointer, t.Elem()
	default:
		return nil
	}
	if of != nil {
		if p.elem = newPlan(of, depth+1); p.elem == nil {
			return nil
		}
	}
	return p
}

func structPlan(p *plan, depth int) *plan {
	t := p.typ
	p.kind, p.byName = kindStruct, map[string]int{}
	folded := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			return nil
		}
		tag := f.Tag.Get("json")
		if !f.IsExported() || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "" {
			name = f.Name
		}
		fold := strings.ToLower(name)
		if plainPrefix([]byte(name)) != len(name) || strings.ContainsAny(name, "<>&'") || folded[fold] || options != "" && options != "omitempty" {
			return nil
		}
		folded[fold] = true
		of := newPlan(f.Type, depth+1)
		if of == nil {
			return nil
		}
		at := 0
		for at < len(p.fields) && p.fields[at].name < name {
			at++
		}
		p.fields = append(p.fields[:at], append([]field{{name: name, member: []byte(`"` + name + `":`), index: i, omit: options != "", plan: of}}, p.fields[at:]...)...)
	}
	if len(p.fields) > maxFields {
		return nil
	}
	for i := range p.fields {
		p.byName[p.fields[i].name] = i
	}
	return p
}
