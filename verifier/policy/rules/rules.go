// Package rules has what a site adds to a policy: expressions in CEL, Google's
// Common Expression Language, over the facts of one appraisal. In come rules
// from a policy and facts from an appraiser, out comes a check for each rule.
// A rule can only refuse: it never makes up for another check.
//
// Definitions: the CEL specification (cel.dev), standard library and the
// strings extension; the facts are listed at Facts.
package rules

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"

	"cocoon/verifier/result"
)

// Limits of rules. Costs are CEL's own units, about one for each step.
const (
	MaxRules      = 64
	MaxExpression = 4096 // bytes
	maxText       = 512  // bytes of reason and remedy
	maxDepth      = 64
	maxCost       = 100_000
)

// Rule is one demand of a site. Evidence is refused unless Expression is true.
type Rule struct {
	ID         string `json:"id"`         // lower-case words, digits, dots: the check is "policy.rule." and this
	Expression string `json:"expression"` // CEL, of type bool
	Reason     string `json:"reason"`     // shown when it is false
	Remedy     string `json:"remedy,omitempty"`
}

// Prefix starts the IDs of the checks.
const Prefix = "policy.rule."

// Facts are what rules can speak about, by the names under which they see
// them. Times are in UTC, hashes lower-case hex.
type Facts struct {
	TrustClass   string            // trust_class
	Now          time.Time         // now
	Claims       map[string]any    // claims: as in the evidence
	Config       map[string]any    // config: as in the evidence
	Measurements map[string]string // measurements: registers by name
	Manifest     map[string]any    // manifest: sha256, name, version; empty where none fits
	CPU          map[string]any    // cpu: what the TEE's verification found; see docs/policy.md
	GPUs         []map[string]any  // gpus: likewise, in the evidence's order
}

var idForm = regexp.MustCompile(`^[a-z0-9]+([._][a-z0-9]+)*$`)

// Set is compiled rules. It is safe for concurrent use.
type Set struct {
	rules    []Rule
	programs []cel.Program
}

// Compile checks and compiles rules. The error joins what is wrong with any of
// them.
func Compile(list []Rule) (*Set, error) {
	if len(list) > MaxRules {
		return nil, fmt.Errorf("%d rules, want at most %d", len(list), MaxRules)
	}
	s := &Set{rules: slices.Clone(list)}
	if len(list) == 0 {
		return s, nil
	}
	env, err := environment()
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, r := range list {
		p, err := compile(env, r)
		if err == nil && slices.ContainsFunc(list[:i], func(o Rule) bool { return o.ID == r.ID }) {
			err = errors.New("its id is repeated")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("rule %d (%.64q): %w", i, r.ID, err))
			continue
		}
		s.programs = append(s.programs, p)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func environment() (*cel.Env, error) {
	dyn := cel.MapType(cel.StringType, cel.DynType)
	env, err := cel.NewEnv(
		cel.Variable("trust_class", cel.StringType), cel.Variable("now", cel.TimestampType),
		cel.Variable("claims", dyn), cel.Variable("config", dyn), cel.Variable("manifest", dyn), cel.Variable("cpu", dyn),
		cel.Variable("measurements", cel.MapType(cel.StringType, cel.StringType)), cel.Variable("gpus", cel.ListType(dyn)),
		ext.Strings(), cel.ParserRecursionLimit(maxDepth), cel.ParserExpressionSizeLimit(MaxExpression),
	)
	if err != nil {
		return nil, fmt.Errorf("making the environment of rules: %w", err)
	}
	return env, nil
}

func compile(env *cel.Env, r Rule) (cel.Program, error) {
	switch {
	case len(r.ID) > 64 || !idForm.MatchString(r.ID):
		return nil, errors.New("id must be 1 to 64 lower-case letters, digits, dots and underscores")
	case r.Expression == "" || len(r.Expression) > MaxExpression:
		return nil, fmt.Errorf("expression must have 1 to %d bytes", MaxExpression)
	case r.Reason == "" || len(r.Reason) > maxText || len(r.Remedy) > maxText:
		return nil, fmt.Errorf("reason must have 1 to %d bytes, remedy at most as many", maxText)
	}
	ast, issues := env.Compile(r.Expression)
	if err := issues.Err(); err != nil {
		return nil, fmt.Errorf("compiling its expression: %w", err)
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("its expression is of type %s, want bool", ast.OutputType())
	}
	p, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, fmt.Errorf("preparing its expression: %w", err)
	}
	return p, nil
}

// Len returns the number of rules.
func (s *Set) Len() int { return len(s.rules) }

// Appraise holds facts against every rule. A rule that cannot be evaluated,
// because a fact is missing or the cost too high, fails.
func (s *Set) Appraise(f *Facts) []result.Check {
	if len(s.rules) == 0 {
		return nil
	}
	vars := f.variables()
	out := make([]result.Check, 0, len(s.rules))
	for i, r := range s.rules {
		c := result.Check{ID: Prefix + r.ID, Status: result.Pass, Expected: r.Expression}
		v, _, err := s.programs[i].Eval(vars)
		switch {
		case err != nil:
			c.Status, c.Actual = result.Fail, "cannot be evaluated: "+oneLine(err)
		case v.Value() != true:
			c.Status, c.Actual = result.Fail, "false"
		default:
			c.Actual = "true"
		}
		if c.Status == result.Fail {
			if c.Reason, c.Remedy = r.Reason, r.Remedy; c.Remedy == "" {
				c.Remedy = "ask who runs the verifier what rule " + r.ID + " of the policy wants"
			}
		}
		out = append(out, c)
	}
	return out
}

func (f *Facts) variables() map[string]any {
	some := func(m map[string]any) map[string]any {
		if m == nil {
			return map[string]any{}
		}
		return m
	}
	measurements, gpus := f.Measurements, f.GPUs
	if measurements == nil {
		measurements = map[string]string{}
	}
	if gpus == nil {
		gpus = []map[string]any{}
	}
	return map[string]any{
		"trust_class": f.TrustClass, "now": f.Now.UTC(), "claims": some(f.Claims), "config": some(f.Config),
		"manifest": some(f.Manifest), "cpu": some(f.CPU), "measurements": measurements, "gpus": gpus,
	}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", " ") }
