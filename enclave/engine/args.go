package engine

import (
	"errors"
	"fmt"
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

// kind is what the image knows about a kind of engine. It is measured with
// the supervisor; a config can only choose among what is here.
type kind struct {
	binary string
	fixed  func(model, modelFile string) []string
	flags  map[string]check // flags a config may set; each takes one value
}

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

// kinds is the table of engines.
//
// llama-server: no web pages, no /slots (it shows prompts), no request log,
// no download, no file paths and no templates from the config.
var kinds = map[string]kind{
	evidence.EngineLlamaServer: {
		binary: "/usr/bin/llama-server",
		fixed: func(model, modelFile string) []string {
			return []string{
				"--model", modelDir + "/" + modelFile,
				"--alias", model,
				"--host", socketDir + "/" + SocketName,
				"--no-ui", "--no-slots", "--offline", "--log-disable", "--metrics",
			}
		},
		flags: map[string]check{
			"--ctx-size":     intRange(128, 1<<20),
			"--parallel":     intRange(1, 256),
			"--threads":      intRange(1, 512),
			"--batch-size":   intRange(1, 1<<16),
			"--ubatch-size":  intRange(1, 1<<16),
			"--n-gpu-layers": intRange(0, 1024),
			"--cache-type-k": oneOf("f32", "f16", "bf16", "q8_0", "q4_0"),
			"--cache-type-v": oneOf("f32", "f16", "bf16", "q8_0", "q4_0"),
			"--flash-attn":   oneOf("on", "off", "auto"),
		},
	},
}

// defaults are set where a config is silent. One thread: llama.cpp's spin
// barriers collapse when cores are shared.
var defaults = [][2]string{{"--threads", "1"}}

// Argv returns the engine's command line for a config, or every argument that
// the allow-list refuses. Arguments are pairs of flag and value. modelFile is
// the name of the model's file in its pack.
func Argv(c *evidence.Config, modelFile string) ([]string, error) {
	k, ok := kinds[c.Engine.Kind]
	if !ok {
		return nil, refuse("engine kind %q is unknown", c.Engine.Kind)
	}
	if modelFile == "" || strings.ContainsAny(modelFile, "/\x00") {
		return nil, refuse("model file name %q", modelFile)
	}
	argv := append([]string{k.binary}, k.fixed(c.Model.Name, modelFile)...)
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
	for _, d := range defaults {
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
