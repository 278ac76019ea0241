package tolk

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// A reader of cells by docs/contracts.tlb. It knows as much of TL-B as the
// schema uses: numbered and empty tags, uintN, intN, bitsN, Bool, Coins,
// MsgAddress(Int), ^T, ^[ … ], (Maybe ^T), (HashmapE n T) and cond?T.

type tlbField struct{ name, kind string }

type constructor struct {
	name   string
	tag    uint64
	bits   uint // of the tag; 0: none
	fields []tlbField
	result string
}

type tlbSchema struct {
	all    []*constructor
	byType map[string][]*constructor
}

var (
	commentRE = regexp.MustCompile(`//[^\n]*`)
	headRE    = regexp.MustCompile(`^(\w+)(?:#([0-9a-f]+)|\$_)$`)
)

// readTLB parses the schema, which states each constructor up to a semicolon.
func readTLB(t *testing.T) *tlbSchema {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "contracts.tlb"))
	if err != nil {
		t.Fatal(err)
	}
	s := &tlbSchema{byType: map[string][]*constructor{}}
	statements := strings.Split(commentRE.ReplaceAllString(string(b), ""), ";")
	for _, text := range statements[:len(statements)-1] {
		words := tlbWords(text)
		n := len(words)
		m := headRE.FindStringSubmatch(words[0])
		if m == nil || n < 3 || words[n-2] != "=" {
			t.Fatalf("cannot read %q", text)
		}
		c := &constructor{name: m[1], result: words[n-1]}
		if m[2] != "" {
			if c.tag, err = strconv.ParseUint(m[2], 16, 64); err != nil {
				t.Fatal(err)
			}
			c.bits = uint(4 * len(m[2]))
		}
		for _, w := range words[1 : n-2] {
			name, kind, ok := strings.Cut(w, ":")
			if !ok {
				t.Fatalf("cannot read field %q of %s", w, c.name)
			}
			c.fields = append(c.fields, tlbField{name, kind})
		}
		s.all = append(s.all, c)
		s.byType[c.result] = append(s.byType[c.result], c)
	}
	return s
}

// tlbWords splits at blanks outside of brackets.
func tlbWords(text string) []string {
	var out []string
	var word strings.Builder
	depth := 0
	for _, r := range text + " " {
		switch r {
		case '(', '[':
			depth++
		case ')', ']':
			depth--
		case ' ', '\n', '\t':
			if depth == 0 {
				if word.Len() > 0 {
					out = append(out, word.String())
				}
				word.Reset()
				continue
			}
			r = ' '
		}
		word.WriteRune(r)
	}
	return out
}

// whole reads a cell as a type and refuses anything left over.
func (s *tlbSchema) whole(kind string, c *cell.Cell) error {
	r := c.BeginParse()
	if err := s.read(kind, r, nil); err != nil {
		return err
	}
	if r.BitsLeft() > 0 || r.RefsNum() > 0 {
		return fmt.Errorf("%d bits and %d references are left of %s", r.BitsLeft(), r.RefsNum(), kind)
	}
	return nil
}

// constructorOf picks the constructor by the tag that is there.
func (s *tlbSchema) constructorOf(kind string, r *cell.Slice) (*constructor, error) {
	for _, c := range s.byType[kind] {
		if c.bits == 0 {
			return c, nil
		}
		if r.BitsLeft() < c.bits {
			continue
		}
		ahead := r.Copy()
		if v, err := ahead.LoadUInt(c.bits); err == nil && v == c.tag {
			_, err := r.LoadUInt(c.bits)
			return c, err
		}
	}
	return nil, fmt.Errorf("no constructor of %s fits", kind)
}

// read takes one value off r; flags are the Bool fields read before it.
func (s *tlbSchema) read(kind string, r *cell.Slice, flags map[string]bool) error {
	if cond, then, ok := strings.Cut(kind, "?"); ok && regexp.MustCompile(`^\w+$`).MatchString(cond) {
		there, known := flags[cond]
		if !known {
			return fmt.Errorf("%s depends on a field that is no Bool before it", kind)
		}
		if !there {
			return nil
		}
		kind = then
	}
	switch {
	case strings.HasPrefix(kind, "("):
		return s.parametric(strings.Trim(kind, "()"), r)
	case kind == "^Cell":
		_, err := r.LoadRef()
		return err
	case strings.HasPrefix(kind, "^["):
		inner, err := r.LoadRefCell()
		if err != nil {
			return err
		}
		return s.fields(tlbFieldsOf(strings.Trim(kind, "^[] ")), inner)
	case strings.HasPrefix(kind, "^"):
		inner, err := r.LoadRefCell()
		if err != nil {
			return err
		}
		return s.whole(kind[1:], inner)
	case kind == "Bool":
		_, err := r.LoadBoolBit()
		return err
	case kind == "Coins":
		_, err := r.LoadBigCoins()
		return err
	case kind == "MsgAddress" || kind == "MsgAddressInt":
		a, err := r.LoadAddr()
		if err == nil && a.Type() != address.StdAddress && (kind == "MsgAddressInt" || a.Type() != address.NoneAddress) {
			err = fmt.Errorf("address %s is not %s", a, kind)
		}
		return err
	}
	if m := regexp.MustCompile(`^(?:uint|int|bits)(\d+)$`).FindStringSubmatch(kind); m != nil {
		n, err := strconv.ParseUint(m[1], 10, 16)
		if err != nil {
			return err
		}
		_, err = r.LoadSlice(uint(n))
		return err
	}
	c, err := s.constructorOf(kind, r)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, f := range c.fields {
		if f.kind == "Bool" {
			v, err := r.LoadBoolBit()
			if err != nil {
				return fmt.Errorf("%s.%s: %w", c.name, f.name, err)
			}
			seen[f.name] = v
			continue
		}
		if err := s.read(f.kind, r, seen); err != nil {
			return fmt.Errorf("%s.%s: %w", c.name, f.name, err)
		}
	}
	return nil
}

func tlbFieldsOf(text string) []tlbField {
	var out []tlbField
	for _, w := range tlbWords(text) {
		name, kind, _ := strings.Cut(w, ":")
		out = append(out, tlbField{name, kind})
	}
	return out
}

// fields reads an anonymous constructor's cell.
func (s *tlbSchema) fields(list []tlbField, c *cell.Cell) error {
	r := c.BeginParse()
	for _, f := range list {
		if err := s.read(f.kind, r, nil); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if r.BitsLeft() > 0 || r.RefsNum() > 0 {
		return fmt.Errorf("%d bits and %d references are left", r.BitsLeft(), r.RefsNum())
	}
	return nil
}

// parametric reads (Maybe ^T) and (HashmapE n T), the latter's values whole.
func (s *tlbSchema) parametric(kind string, r *cell.Slice) error {
	words := strings.Fields(kind)
	switch words[0] {
	case "Maybe":
		there, err := r.LoadBoolBit()
		if err != nil || !there {
			return err
		}
		return s.read(words[1], r, nil)
	case "HashmapE":
		n, err := strconv.ParseUint(words[1], 10, 16)
		if err != nil {
			return err
		}
		d, err := r.LoadDict(uint(n))
		if err != nil {
			return err
		}
		all, err := d.LoadAll()
		if err != nil {
			return err
		}
		for _, kv := range all {
			if err := s.read(words[2], kv.Value, nil); err != nil {
				return err
			}
			if kv.Value.BitsLeft() > 0 || kv.Value.RefsNum() > 0 {
				return fmt.Errorf("%d bits and %d references are left of a value %s", kv.Value.BitsLeft(), kv.Value.RefsNum(), words[2])
			}
		}
		return nil
	}
	return fmt.Errorf("unknown type (%s)", kind)
}
