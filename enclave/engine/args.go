package engine

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// CodeArgument is the code of an argument outside the allow-list.
const CodeArgument = "engine.argument_refused"

// Paths inside the container.
const (
	modelDir   = "/models"
	socketDir  = "/run/engine"
	SocketName = "engine.sock"
)

type check func(value string) error

func intRange(lo, hi int) check {
	return func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || strconv.Itoa(n) != v || n < lo || n > hi {
			return fmt.Errorf("%.32q, want %d to %d", v, lo, hi)
		}
		return nil
	}
}

func oneOf(values ...string) check {
	return func(v string) error {
		for _, w := range values {
			if v == w {
				return nil
			}
		}
		return fmt.Errorf("%.32q, want one of %s", v, strings.Join(values, ", "))
	}
}

// fraction is a part of a GPU's memory, with two digits.
func fraction(v string) error {
	if len(v) != 4 || v[:2] != "0." {
		return fmt.Errorf("%.32q, want 0.10 to 0.98", v)
	}
	return intRange(10, 98)(v[2:])
}

// Check refuses a config that the image's engines do not take, before it is
// measured.
func Check(c *evidence.Config) error {
	a, err := AdapterFor(c.Engine.Kind)
	if err != nil {
		return err
	}
	_, err = a.Argv(c, "model.gguf")
	return err
}

// Argv implements Adapter. Arguments are pairs of flag and value.
func (k *kind) Argv(c *evidence.Config, source string) ([]string, error) {
	if source == "" || strings.ContainsAny(source, "/\x00") || source == ".." {
		return nil, refuse("model file name %q", source)
	}
	argv := append(slices.Clone(k.command), k.fixed(c.Model.Name, source)...)
	var errs []error
	seen := map[string]bool{}
	args := c.Engine.Args
	if len(args)%2 != 0 {
		errs = append(errs, refuse("%d arguments, want pairs of flag and value", len(args)))
		args = args[:len(args)-1]
	}
	for i := 0; i < len(args); i += 2 {
		flag, value := args[i], args[i+1]
		valid, ok := k.flags[flag]
		switch {
		case !ok:
			errs = append(errs, refuse("flag %.64q is not in the allow-list of %s", flag, c.Engine.Kind))
		case seen[flag]:
			errs = append(errs, refuse("flag %s is given twice", flag))
		default:
			if err := valid(value); err != nil {
				errs = append(errs, refuse("flag %s: %w", flag, err))
			}
		}
		seen[flag] = true
		argv = append(argv, flag, value)
	}
	for _, d := range k.defaults {
		if !seen[d[0]] {
			argv = append(argv, d[0], d[1])
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return argv, nil
}

func refuse(format string, args ...any) error {
	return fault.New(fault.ExitRefused, CodeArgument,
		"change the config's engine arguments to ones the image allows", "checking engine arguments: "+format, args...)
}
