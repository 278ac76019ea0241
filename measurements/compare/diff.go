package compare

import (
	"sort"
	"strings"
)

// Difference is a register that is not the same, or that only one side has.
type Difference struct {
	Register string  `json:"register"`
	A        string  `json:"a,omitempty"` // empty: A has no value for it
	B        string  `json:"b,omitempty"`
	Causes   []Cause `json:"causes"`
}

// Cause is a component of it that is not the same.
type Cause struct {
	Component string `json:"component"`
	Source    string `json:"source,omitempty"`
	A         string `json:"a,omitempty"` // empty: only B has it
	B         string `json:"b,omitempty"`
}

// Diff returns what differs, by register name; components that differ in
// registers without a value come last. A register that one side does not know
// is compared by its components, and one that was never extended equals one
// that is not mentioned.
func Diff(a, b *Snapshot) []Difference {
	causes := map[string][]Cause{}
	for _, r := range componentRegisters(a, b) {
		if cs := align(a.of(r), b.of(r)); len(cs) > 0 {
			causes[r] = cs
		}
	}
	out := []Difference{}
	used := map[string]bool{}
	for _, n := range names(a.Registers, b.Registers) {
		va, vb := a.Registers[n], b.Registers[n]
		r := base(n)
		if va == vb {
			used[r] = true // parts that carry other names are then no difference
			continue
		}
		if va == "" && !a.hasKind(n) || vb == "" && !b.hasKind(n) {
			continue // one side does not speak of such registers
		}
		if va == "" && (zero(vb) || a.mentions(r)) || vb == "" && (zero(va) || b.mentions(r)) {
			continue
		}
		used[r] = true
		out = append(out, Difference{n, va, vb, append([]Cause{}, causes[r]...)})
	}
	for _, r := range componentRegisters(a, b) {
		if !used[r] && len(causes[r]) > 0 {
			out = append(out, Difference{Register: r, Causes: causes[r]})
		}
	}
	return out
}

// base returns the name of a register without its bank: "PCR 4", "SNP".
func base(n string) string {
	f := strings.Fields(n)
	if len(f) > 2 && f[0] == "PCR" {
		return f[0] + " " + f[1]
	}
	if len(f) > 1 && f[0] != "PCR" {
		return f[0]
	}
	return n
}

// hasKind reports whether a side has any register of one's kind: of a bank, of
// a TEE.
func (s *Snapshot) hasKind(n string) bool {
	kind := func(n string) string {
		f := strings.Fields(n)
		if f[0] == "PCR" {
			return f[len(f)-1]
		}
		return strings.TrimRight(f[0], "0123456789")
	}
	for m := range s.Registers {
		if m != "" && n != "" && kind(m) == kind(n) {
			return true
		}
	}
	return false
}

func zero(v string) bool { return strings.Trim(v, "0") == "" }

func (s *Snapshot) of(register string) []Component {
	var out []Component
	for _, c := range s.Components {
		if c.Register == register {
			out = append(out, c)
		}
	}
	return out
}

func (s *Snapshot) mentions(register string) bool { return len(s.of(register)) > 0 }

// componentRegisters returns the registers of which both sides have parts.
func componentRegisters(a, b *Snapshot) []string {
	seen, out := map[string]bool{}, []string{}
	for _, c := range a.Components {
		if !seen[c.Register] && b.mentions(c.Register) {
			seen[c.Register] = true
			out = append(out, c.Register)
		}
	}
	return out
}

func names(a, b map[string]string) []string {
	seen := map[string]bool{}
	for n := range a {
		seen[n] = true
	}
	for n := range b {
		seen[n] = true
	}
	out := make([]string, 0, len(seen))
	for n := range seen {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// align pairs the parts of a register: those of equal digest, in order, then
// what is left of each by name, else by type, first with first. What is left
// after that stands alone. A part whose digest is not known is no cause.
func align(a, b []Component) []Cause {
	a, b = unequal(a, b)
	taken := make([]bool, len(b))
	var out []Cause
	for _, x := range a {
		at := find(x, b, taken)
		if at < 0 {
			if x.Digest != "" {
				out = append(out, Cause{x.Name, x.Source, x.Digest, ""})
			}
			continue
		}
		taken[at] = true
		y := b[at]
		if x.Digest == "" || y.Digest == "" || x.Digest == y.Digest {
			continue
		}
		name, source := x.Name, x.Source
		if source == "" && y.Source != "" { // the side that knows its files says what this is
			name, source = y.Name, y.Source
		}
		out = append(out, Cause{name, source, x.Digest, y.Digest})
	}
	for i, y := range b {
		if !taken[i] && y.Digest != "" {
			out = append(out, Cause{y.Name, y.Source, "", y.Digest})
		}
	}
	return out
}

func find(x Component, b []Component, taken []bool) int {
	for i, y := range b {
		if !taken[i] && x.Name == y.Name {
			return i
		}
	}
	for i, y := range b {
		if !taken[i] && x.Type != "" && x.Type == y.Type {
			return i
		}
	}
	return -1
}

// maxAligned bounds the parts of one register that are paired by a longest
// common subsequence; an event log cannot be longer.
const maxAligned = 4096

// unequal removes the longest common subsequence of digests.
func unequal(a, b []Component) (ra, rb []Component) {
	// The ends are equal in most logs: cut them off first.
	for len(a) > 0 && len(b) > 0 && same(a[0], b[0]) {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && same(a[len(a)-1], b[len(b)-1]) {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a)*len(b) > maxAligned*16 {
		return a, b
	}
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if same(a[i], b[j]) {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case same(a[i], b[j]):
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			ra = append(ra, a[i])
			i++
		default:
			rb = append(rb, b[j])
			j++
		}
	}
	return append(ra, a[i:]...), append(rb, b[j:]...)
}

func same(a, b Component) bool { return a.Digest != "" && a.Digest == b.Digest }
