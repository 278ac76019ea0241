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
	errs = append(errs, k.checkShare(c, args))
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

// maxShared is how much of a GPU engines may have together, in hundredths: the
// most that one alone may.
const maxShared = 98

// checkShare refuses arguments with which several models cannot run together. An
// engine takes nearly a whole GPU's memory unless it is told otherwise, and the
// next one would fail after minutes of the boot. All models have these arguments.
func (k *kind) checkShare(c *evidence.Config, args []string) error {
	models := len(c.ServedModels())
	gpus, sharing := c.GPUs.Of(0, models)
	if models == 1 || sharing == 0 || k.memory == "" {
		return nil
	}
	value := func(flag string) string {
		for i := 0; i+1 < len(args); i += 2 {
			if args[i] == flag {
				return args[i+1]
			}
		}
		return ""
	}
	var errs []error
	if n, err := strconv.Atoi(value(k.parallel)); err == nil && n > len(gpus) {
		errs = append(errs, refuse("flag %s: %d, and each of %d models has %d of the GPUs", k.parallel, n, models, len(gpus)))
	}
	if sharing > 1 {
		v := value(k.memory)
		if v == "" {
			errs = append(errs, refuse("%d models share a GPU, and %s does not say how much of it each has, at most 0.%02d", sharing, k.memory, maxShared/sharing))
		} else if n, err := strconv.Atoi(strings.TrimPrefix(v, "0.")); err == nil && n*sharing > maxShared {
			errs = append(errs, refuse("flag %s: %.32q, and %d models share a GPU: at most 0.%02d", k.memory, v, sharing, maxShared/sharing))
		}
	}
	return errors.Join(errs...)
}

func refuse(format string, args ...any) error {
	return fault.New(fault.ExitRefused, CodeArgument,
		"change the config's engine arguments to ones the image allows", "checking engine arguments: "+format, args...)
}
