// Package tolk holds the contracts' sources and reads messages by them: an
// opcode is that of a `struct (0x…)` in a source, and its fields are read in the
// order and with the types that are written there. So what is shown of a message
// is what the contract would read. In: a message's body; out: names and values.
// It is for people who look at a chain; nothing decides by it.
//
// Types: intN, uintN, bitsN, bool, coins, address, cell, Cell<T>, structs, and
// any of them with a question mark. A field of another type ends the reading.
package tolk

import (
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

//go:embed *.tolk
var sources embed.FS

const (
	maxDepth  = 16
	maxFields = 256
)

// Message is a decoded body.
type Message struct {
	Name   string
	Op     uint32
	Fields []Field
	// Rest says what follows the known fields, or why reading ended; empty if
	// nothing does.
	Rest string
}

// Field is one value; a struct or a cell of one has Fields instead of a Value.
type Field struct {
	Name, Type, Value string
	Fields            []Field
}

type member struct{ name, kind string }

type structure struct {
	name    string
	members []member
}

type schema struct {
	byOp   map[uint32]*structure
	byName map[string]*structure
}

var (
	structRE = regexp.MustCompile(`(?ms)^struct (?:\(0x([0-9a-fA-F]{8}|[0-9a-fA-F]{2})\) )?(\w+) \{\n(.*?)^\}`)
	memberRE = regexp.MustCompile(`^(\w+): ([\w<>?]+(?:, \w+>)?)`)
)

var load = sync.OnceValues(func() (*schema, error) {
	s := &schema{byOp: map[uint32]*structure{}, byName: map[string]*structure{}}
	files, err := sources.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := sources.ReadFile(f.Name())
		if err != nil {
			return nil, err
		}
		for _, m := range structRE.FindAllStringSubmatch(string(b), -1) {
			st := &structure{name: m[2]}
			for line := range strings.Lines(m[3]) {
				if p := memberRE.FindStringSubmatch(strings.TrimSpace(line)); p != nil {
					st.members = append(st.members, member{p[1], p[2]})
				}
			}
			s.byName[st.name] = st
			if len(m[1]) == 8 { // a byte marks data
				op, err := strconv.ParseUint(m[1], 16, 32)
				if err != nil {
					return nil, err
				}
				if s.byOp[uint32(op)] != nil {
					return nil, fmt.Errorf("%s and %s have one opcode", st.name, s.byOp[uint32(op)].name)
				}
				s.byOp[uint32(op)] = st
			}
		}
	}
	return s, nil
})

// Decode reads a message's body; false if its opcode is none of ours. A text
// comment and a bounced message are recognised, too.
func Decode(body *cell.Cell) (*Message, bool) {
	s, err := load()
	if err != nil || body == nil {
		return nil, false
	}
	r := body.BeginParse()
	op, err := r.LoadUInt(32)
	if err != nil {
		return nil, false
	}
	m := &Message{Op: uint32(op)}
	switch st := s.byOp[m.Op]; {
	case st != nil:
		m.Name = st.name
		d := &decoder{schema: s}
		m.Fields, err = d.structure(st, r, 0)
	case op == 0 && r.BitsLeft()%8 == 0:
		m.Name = "comment"
		var text string
		if text, err = r.LoadStringSnake(); err == nil {
			m.Fields = []Field{{Name: "text", Type: "string", Value: text}}
		}
	case op == 0xffffffff:
		m.Name = "bounced"
		m.Fields, err = s.bounced(r)
		return m, err == nil
	case op == 0xfffffffe: // with the whole body in a cell
		m.Name = "bounced"
		original, err := r.LoadRef()
		if err != nil {
			return m, false
		}
		m.Fields, err = s.bounced(original)
		return m, err == nil
	default:
		return nil, false
	}
	switch {
	case err != nil:
		m.Rest = err.Error()
	case r.BitsLeft() > 0 || r.RefsNum() > 0:
		m.Rest = fmt.Sprintf("%d bits and %d cells more", r.BitsLeft(), r.RefsNum())
	}
	return m, true
}

// bounced names the message that came back, by its opcode.
func (s *schema) bounced(r *cell.Slice) ([]Field, error) {
	op, err := r.LoadUInt(32)
	if err != nil {
		return nil, err
	}
	f := Field{Name: "message", Type: "uint32", Value: fmt.Sprintf("%#08x", op)}
	if st := s.byOp[uint32(op)]; st != nil {
		f.Value = st.name
	}
	return []Field{f}, nil
}

type decoder struct {
	schema *schema
	fields int
}

func (d *decoder) structure(st *structure, r *cell.Slice, depth int) ([]Field, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deeply")
	}
	var out []Field
	for _, m := range st.members {
		if d.fields++; d.fields > maxFields {
			return out, errors.New("too many fields")
		}
		f, err := d.field(m, r, depth)
		if err != nil {
			return out, fmt.Errorf("reading %s: %w", m.name, err)
		}
		out = append(out, f)
	}
	return out, nil
}

func (d *decoder) field(m member, r *cell.Slice, depth int) (f Field, err error) {
	f = Field{Name: m.name, Type: m.kind}
	kind, optional := strings.CutSuffix(m.kind, "?")
	if optional && kind != "address" { // addr_none is the absent address
		there, err := r.LoadBoolBit()
		if err != nil || !there {
			f.Value = "none"
			return f, err
		}
	}
	inner, isCell := strings.CutPrefix(kind, "Cell<")
	switch {
	case kind == "bool":
		var v bool
		v, err = r.LoadBoolBit()
		f.Value = strconv.FormatBool(v)
	case kind == "coins":
		v, err2 := r.LoadBigCoins()
		if err = err2; err == nil {
			f.Value = v.String()
		}
	case kind == "address":
		var a *address.Address
		if a, err = r.LoadAddr(); err == nil {
			f.Value = "none"
			if a.Type() == address.StdAddress {
				f.Value = a.StringRaw()
			}
		}
	case kind == "cell":
		c, err2 := r.LoadRefCell()
		if err = err2; err == nil {
			f.Value = "cell " + hex.EncodeToString(c.Hash())
		}
	case isCell:
		c, err2 := r.LoadRefCell()
		if err2 != nil {
			return f, err2
		}
		s := c.BeginParse()
		st := d.schema.byName[strings.TrimSuffix(inner, ">")]
		if st == nil {
			return f, fmt.Errorf("unknown type %s", m.kind)
		}
		for op, other := range d.schema.byOp { // such a cell starts with its tag
			if other == st {
				if got, err := s.LoadUInt(32); err != nil || uint32(got) != op {
					return f, fmt.Errorf("not a %s", st.name)
				}
			}
		}
		f.Fields, err = d.structure(st, s, depth+1)
	case d.schema.byName[kind] != nil:
		f.Fields, err = d.structure(d.schema.byName[kind], r, depth+1)
	case kind == "RemainingBitsAndRefs":
		bits := r.BitsLeft()
		b, err2 := r.LoadSlice(bits)
		for err2 == nil && r.RefsNum() > 0 {
			_, err2 = r.LoadRefCell()
		}
		f.Value, err = fmt.Sprintf("%d bits %s", bits, hex.EncodeToString(b)), err2
	default:
		err = number(&f, kind, r)
	}
	return f, err
}

// number reads intN, uintN and bitsN.
func number(f *Field, kind string, r *cell.Slice) error {
	name := strings.TrimRight(kind, "0123456789")
	n, err := strconv.ParseUint(kind[len(name):], 10, 16)
	if err != nil || n == 0 || n > 1023 {
		return fmt.Errorf("unknown type %s", kind)
	}
	switch {
	case name == "bits" || name == "uint" && n >= 128:
		b, err := r.LoadSlice(uint(n))
		f.Value = hex.EncodeToString(b)
		return err
	case name == "uint":
		v, err := r.LoadBigUInt(uint(n))
		if err == nil {
			f.Value = v.String()
		}
		return err
	case name == "int":
		v, err := r.LoadBigInt(uint(n))
		if err == nil {
			f.Value = v.String()
		}
		return err
	}
	return fmt.Errorf("unknown type %s", kind)
}
