// Package modules selects kernel modules and puts them into loading order.
//
// In go the text of a kernel's modules.dep and modules.builtin (depmod(8),
// modules.dep(5)) and the names wanted; out comes the list of module files
// such that each stands after everything it needs.
package modules

import (
	"fmt"
	"path"
	"strings"
)

// Index knows a kernel's modules.
type Index struct {
	files   map[string]string   // name -> path as in modules.dep
	needs   map[string][]string // path -> paths
	builtin map[string]bool
}

// Name returns the module name of a file: no directory, no .ko or compression
// suffix, and underscores for hyphens, as the kernel spells it.
func Name(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// Parse reads modules.dep and modules.builtin.
func Parse(dep, builtin string) (*Index, error) {
	x := &Index{files: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	for i, line := range strings.Split(dep, "\n") {
		if line == "" {
			continue
		}
		file, needs, ok := strings.Cut(line, ":")
		if !ok || file == "" {
			return nil, fmt.Errorf("modules.dep line %d has no colon", i+1)
		}
		if old, dup := x.files[Name(file)]; dup {
			return nil, fmt.Errorf("modules.dep has %s twice: %s and %s", Name(file), old, file)
		}
		x.files[Name(file)] = file
		x.needs[file] = strings.Fields(needs)
	}
	for _, line := range strings.Fields(builtin) {
		x.builtin[Name(line)] = true
	}
	return x, nil
}

// choose returns the first of names "a|b|c" that the kernel has, or the first.
func (x *Index) choose(names string) string {
	all := strings.Split(strings.ReplaceAll(names, "-", "_"), "|")
	for _, n := range all {
		if _, ok := x.files[n]; ok || x.builtin[n] {
			return n
		}
	}
	return all[0]
}

// Order returns the files of the wanted modules and all they need, each once
// and after its needs. Built-in modules need no file; unknown ones are an
// error, for a module that is silently missing fails much later, at boot. A
// module that was renamed is wanted as "new|old".
func (x *Index) Order(want []string) ([]string, error) {
	var out []string
	state := map[string]int{} // 1 open, 2 done
	var visit func(file string) error
	visit = func(file string) error {
		switch state[file] {
		case 1:
			return fmt.Errorf("module %s needs itself", Name(file))
		case 2:
			return nil
		}
		needs, ok := x.needs[file]
		if !ok {
			return fmt.Errorf("modules.dep has no line for %s", file)
		}
		state[file] = 1
		for _, n := range needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		state[file] = 2
		out = append(out, file)
		return nil
	}
	for _, name := range want {
		n := x.choose(name)
		file, ok := x.files[n]
		if !ok {
			if x.builtin[n] {
				continue
			}
			return nil, fmt.Errorf("kernel has no module %s", name)
		}
		if err := visit(file); err != nil {
			return nil, err
		}
	}
	return out, nil
}
