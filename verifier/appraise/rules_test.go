package appraise_test

import (
	"testing"

	"cocoon/verifier/appraise"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpmtest"
)

func TestRulesOfThePolicyCanOnlyRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		expression string
		spoil      bool
		accepted   bool
	}{
		"a true one":                          {`config.model.name == "chat" && config.engine.args[1] == "2048" && manifest.version == 1`, false, true},
		"one about registers":                 {`measurements.pcr8 == "0000000000000000000000000000000000000000000000000000000000000000"`, false, true},
		"a false one":                         {`trust_class != "vtpm"`, false, false},
		"one about what is not there":         {`cpu.status == "UpToDate"`, false, false},
		"a true one saves no bad evidence":    {`true`, true, false},
		"one about a number of the config":    {`config.gpus.count == 0`, false, true},
		"one about the time of the appraisal": {`now > timestamp("2020-01-01T00:00:00Z")`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := tpmtest.NewWorld(t)
			w.Policy.Rules = []rules.Rule{{ID: "site", Expression: c.expression, Reason: "the site wants it"}}
			ev := w.Evidence(t)
			if c.spoil {
				ev.CPU.Signature[len(ev.CPU.Signature)-1] ^= 1
			}
			r := resulttest.Complete(t, appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now}))
			if r.Accepted != c.accepted {
				t.Errorf("accepted %t: %v", r.Accepted, r.Err())
			}
			found := false
			for _, k := range r.Checks() {
				found = found || k.ID == "policy.rule.site" && (k.Status == result.Pass) == (c.accepted || c.spoil)
			}
			if !found {
				t.Errorf("no check of the rule in %+v", r.Failed())
			}
		})
	}
}

func TestRulesThatAreNotThePolicysRefuse(t *testing.T) {
	w := tpmtest.NewWorld(t)
	w.Policy.Rules = []rules.Rule{{ID: "site", Expression: "true", Reason: "r"}}
	none, err := rules.Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]*rules.Set{"another set": none} {
		r := resulttest.Complete(t, appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now, Rules: set}))
		if r.Accepted {
			t.Errorf("%s: accepted", name)
		}
	}
	w.Policy.Rules[0].Expression = "nonsense"
	if r := resulttest.Complete(t, appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})); r.Accepted {
		t.Error("rules that do not compile: accepted")
	}
}
