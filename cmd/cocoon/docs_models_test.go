package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"cocoon/client/modelowner"
	"cocoon/enclave/firewall"
	"cocoon/internal/jcs"
	"cocoon/ratls/modelkey"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/rules"
)

// TestTheModelOwnersPage holds the page against the verb, the documents' parsers
// and the codes.
func TestTheModelOwnersPage(t *testing.T) {
	page := readRepo(t, "docs/models.md")
	newModelReleaseCmd().Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(page, "`--"+f.Name+"`") {
			t.Errorf("--%s is not on the page", f.Name)
		}
	})
	for _, code := range []string{modelkey.CodeMessage, modelkey.CodeAway, modelkey.CodeBusy, modelkey.CodeNone, modelkey.CodeRefused, modelkey.CodeMismatch, modelkey.CodeUnknown,
		modelkey.CodeConfig, modelkey.CodeChallenge, modelowner.CodeLog, modelowner.CodeLogBad, modelowner.CodeLogBusy, "model.listen"} {
		if !strings.Contains(page, "`"+code+"`") {
			t.Errorf("%s is not on the page", code)
		}
	}
	c, err := evidence.ParseConfig(pageDocument(t, page, "config.json"))
	if err != nil || c.Model.KeySHA256 == nil {
		t.Errorf("config.json: %v", err)
	}
	op, err := evidence.ParseOperator(pageDocument(t, page, "operator.json"))
	if err != nil {
		t.Fatal(err)
	}
	flows, err := firewall.Flows(op, nil)
	if err != nil || !slices.ContainsFunc(flows, func(f firewall.Flow) bool { return f.Name == "model keys" }) {
		t.Errorf("flows of operator.json: %v, %v", flows, err)
	}
	for _, name := range []string{"owner-rules.json", "alone-rules.json"} {
		var list []rules.Rule
		if err := jcs.Decode(pageDocument(t, page, name), policy.MaxSize, &list); err != nil {
			t.Fatal(err)
		}
		if _, err := rules.Compile(list); err != nil || len(list) != 1 {
			t.Errorf("%s: %d rules, %v", name, len(list), err)
		}
	}
}
