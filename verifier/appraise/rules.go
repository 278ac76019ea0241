package appraise

import (
	"bytes"
	"encoding/json"
	"fmt"

	"cocoon/internal/jcs"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/result"
)

// checkRules holds the evidence against the policy's own rules, after all else
// was looked at. Rules can only refuse.
func (a *appraisal) checkRules(r *result.Result) {
	if len(a.o.Policy.Rules) == 0 {
		return
	}
	set := a.o.Rules
	if set == nil {
		var err error
		if set, err = rules.Compile(a.o.Policy.Rules); err != nil {
			a.fail(result.SubCPU, rules.Prefix+"compile", "rules that compile", oneLine(err), "the policy's rules do not compile", "correct the policy")
			return
		}
	}
	if set.Len() != len(a.o.Policy.Rules) {
		a.fail(result.SubCPU, rules.Prefix+"compile", fmt.Sprint(len(a.o.Policy.Rules), " rules"), fmt.Sprint(set.Len()), "the compiled rules are not the policy's", "report this")
		return
	}
	f := &rules.Facts{TrustClass: r.TrustClass, Now: a.now, Measurements: r.Measurements}
	var err error
	if a.cpuFacts != nil {
		f.CPU, err = Facts(a.cpuFacts)
	}
	for _, g := range a.gpuFacts {
		var m map[string]any
		if err == nil {
			m, err = Facts(g)
		}
		f.GPUs = append(f.GPUs, m)
	}
	if err == nil && a.ev != nil { // there are none of a platform alone
		f.Claims, err = Facts(a.ev.Claims)
	}
	if err == nil && a.ev != nil {
		f.Config, err = Facts(a.ev.Config)
	}
	if err == nil && r.Manifest != nil {
		f.Manifest, err = Facts(r.Manifest)
	}
	if err != nil {
		a.fail(result.SubCPU, rules.Prefix+"facts", "facts that can be encoded", oneLine(err), "there is nothing for the rules to look at", "report this")
		return
	}
	a.add(result.SubCPU, set.Appraise(f)...)
}

// Facts turns a document, such as what a verification found, into what rules see: maps, lists, texts, booleans,
// and whole numbers.
func Facts(v any) (map[string]any, error) {
	b, err := jcs.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("decoding facts: %w", err)
	}
	delete(m, "checks") // of a verification: rules look at what was found
	for k, x := range m {
		m[k] = whole(x)
	}
	return m, nil
}

func whole(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, y := range x {
			x[k] = whole(y)
		}
	case []any:
		for i, y := range x {
			x[i] = whole(y)
		}
	case json.Number:
		if n, err := x.Int64(); err == nil {
			return n
		}
		if f, err := x.Float64(); err == nil {
			return f
		}
		return x.String()
	}
	return v
}
