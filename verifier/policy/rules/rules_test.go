package rules

import (
	"strings"
	"testing"
	"time"

	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
)

func facts() *Facts {
	return &Facts{
		TrustClass: "tdx", Now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
		Claims:       map[string]any{"payout": "0:aa"},
		Config:       map[string]any{"network_id": int64(-239), "engine": map[string]any{"args": []any{"--ctx-size", "2048"}}},
		Measurements: map[string]string{"mrtd": "00ff"},
		Manifest:     map[string]any{"name": "image", "version": int64(7)},
		CPU:          map[string]any{"status": "UpToDate", "advisories": []any{}},
		GPUs:         []map[string]any{{"arch": "hopper", "driver": "550.144.03"}, {"arch": "hopper", "driver": "550.144.03"}},
	}
}

func TestRulesDecideByFacts(t *testing.T) {
	for expression, want := range map[string]string{
		`trust_class == "tdx"`:                                                  result.Pass,
		`trust_class in ["snp", "az-snp"]`:                                      result.Fail,
		`manifest.version >= 7`:                                                 result.Pass,
		`cpu.status == "UpToDate" && size(cpu.advisories) == 0`:                 result.Pass,
		`gpus.all(g, g.arch == "hopper") && size(gpus) == 2`:                    result.Pass,
		`gpus.exists(g, g.driver.startsWith("535."))`:                           result.Fail,
		`now < timestamp("2027-01-01T00:00:00Z")`:                               result.Pass,
		`measurements["mrtd"].upperAscii() == "00FF"`:                           result.Pass,
		`config.engine.args[1] == "2048"`:                                       result.Pass,
		`measurements["rtmr9"] == ""`:                                           result.Fail, // no such fact
		`cpu.smt == false`:                                                      result.Fail,
		`!has(cpu.smt)`:                                                         result.Pass,
		`[1,2,3,4,5,6,7,8,9].map(a, [1,2,3,4,5,6,7,8,9].map(b, a*b)).size()==9`: result.Pass,
	} {
		s, err := Compile([]Rule{{ID: "it", Expression: expression, Reason: "reason", Remedy: "remedy"}})
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		got := s.Appraise(facts())
		if len(got) != 1 || got[0].Status != want || got[0].ID != "policy.rule.it" || got[0].Expected != expression {
			t.Errorf("%s: got %+v, want %s", expression, got, want)
		}
		if want == result.Fail && (got[0].Reason != "reason" || got[0].Remedy != "remedy" || got[0].Actual == "") {
			t.Errorf("%s: a failed check says %+v", expression, got[0])
		}
	}
}

// TestAFailedRuleWithoutARemedyHasOne wants what every failed check has.
func TestAFailedRuleWithoutARemedyHasOne(t *testing.T) {
	s, err := Compile([]Rule{{ID: "no.remedy", Expression: `trust_class == "snp"`, Reason: "reason"}, {ID: "no.fact", Expression: "cpu.smt == true", Reason: "reason"}})
	if err != nil {
		t.Fatal(err)
	}
	checks := s.Appraise(facts())
	resulttest.CompleteChecks(t, checks)
	for i, id := range []string{"no.remedy", "no.fact"} {
		if c := checks[i]; c.Status != result.Fail || !strings.Contains(c.Remedy, id) {
			t.Errorf("%+v", c)
		}
	}
}

func TestRulesThatMakeNoSenseAreRefused(t *testing.T) {
	good := Rule{ID: "good", Expression: "true", Reason: "r"}
	with := func(change func(*Rule)) []Rule { r := good; change(&r); return []Rule{r} }
	for name, list := range map[string][]Rule{
		"no id":                 with(func(r *Rule) { r.ID = "" }),
		"an id with a space":    with(func(r *Rule) { r.ID = "a b" }),
		"a long id":             with(func(r *Rule) { r.ID = strings.Repeat("a", 65) }),
		"no expression":         with(func(r *Rule) { r.Expression = "" }),
		"a long expression":     with(func(r *Rule) { r.Expression = strings.Repeat(" ", MaxExpression) + "true" }),
		"no reason":             with(func(r *Rule) { r.Reason = "" }),
		"a long remedy":         with(func(r *Rule) { r.Remedy = strings.Repeat("r", 513) }),
		"a syntax error":        with(func(r *Rule) { r.Expression = "trust_class ==" }),
		"an unknown name":       with(func(r *Rule) { r.Expression = "trust == 1" }),
		"a wrong type":          with(func(r *Rule) { r.Expression = "trust_class == 1" }),
		"no bool":               with(func(r *Rule) { r.Expression = "trust_class" }),
		"a dynamic type":        with(func(r *Rule) { r.Expression = "claims.payout" }),
		"deep nesting":          with(func(r *Rule) { r.Expression = strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) }),
		"one id for two":        {good, good},
		"more than can be kept": make([]Rule, MaxRules+1),
	} {
		if s, err := Compile(list); err == nil || s != nil {
			t.Errorf("%s: compiled", name)
		}
	}
	_, err := Compile([]Rule{{ID: "a", Expression: "x", Reason: "r"}, good, {ID: "b", Expression: "1", Reason: "r"}})
	if err == nil || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("not all faults at once: %v", err)
	}
}

func TestACostlyRuleFailsInsteadOfRunning(t *testing.T) {
	list := "[" + strings.Repeat("1,", 99) + "1]"
	s, err := Compile([]Rule{{ID: "costly", Expression: list + ".all(a, " + list + ".all(b, " + list + ".all(c, a+b+c > 0)))", Reason: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	got := s.Appraise(facts())
	if got[0].Status != result.Fail || !strings.Contains(got[0].Actual, "cost") {
		t.Errorf("got %+v", got)
	}
}

func TestRulesWithoutFactsFail(t *testing.T) {
	s, err := Compile([]Rule{{ID: "a", Expression: `cpu.status == "UpToDate"`, Reason: "r"}, {ID: "b", Expression: "size(gpus) > 0", Reason: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Appraise(&Facts{}) {
		if c.Status != result.Fail {
			t.Errorf("%+v", c)
		}
	}
	if none, err := Compile(nil); err != nil || none.Len() != 0 || none.Appraise(facts()) != nil {
		t.Errorf("no rules: %v", err)
	}
}

// FuzzCompile feeds expressions of strangers: they compile within bounds and
// evaluate within the cost, or they are refused.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"true", `gpus.all(g, g.arch == "hopper")`, `config.engine.args.join(",") != ""`, "1/0 == 1", `"a".matches("(a+)+$")`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		s, err := Compile([]Rule{{ID: "fuzz", Expression: expression, Reason: "r"}})
		if err != nil {
			return
		}
		if got := s.Appraise(facts()); len(got) != 1 || got[0].Status != result.Pass && got[0].Status != result.Fail {
			t.Fatalf("got %+v", got)
		}
	})
}
