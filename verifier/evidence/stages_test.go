package evidence_test

import (
	"fmt"
	"strings"
	"testing"

	"cocoon/verifier/evidence"
	"cocoon/verifier/tpmtest"
)

// recorded returns evidence with a record of the boot.
func recorded(t testing.TB) []byte {
	t.Helper()
	w := tpmtest.NewWorld(t)
	ev := w.Evidence(t)
	w.GiveStages(t, ev)
	b, err := ev.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestARecordOfTheBootIsReadStrictly puts one record after the other into the
// same evidence.
func TestARecordOfTheBootIsReadStrictly(t *testing.T) {
	doc := string(recorded(t))
	i := strings.Index(doc, `"stages":{`)
	if i < 0 || doc[len(doc)-1] != '}' {
		t.Fatalf("evidence without a record: %s", doc)
	}
	read := func(record string) error {
		_, err := evidence.Parse([]byte(doc[:i] + `"stages":` + record + "}"))
		return err
	}
	list := func(stages ...string) string {
		return `{"list":[` + strings.Join(stages, ",") + `],"version":1}`
	}
	ok := func(name string) string { return fmt.Sprintf(`{"ms":1,"name":%q,"status":"ok"}`, name) }
	many := make([]string, evidence.MaxStages)
	for i := range many {
		many[i] = ok(fmt.Sprint("s", i))
	}
	failed := `{"code":"pack.root_differs","ms":5,"name":"model","status":"failed"}`
	for name, record := range map[string]string{
		"one":                  list(ok("config")),
		"as many as there may": list(many...),
		"one that runs":        list(ok("config"), `{"ms":0,"name":"evidence","status":"running"}`),
		"one that failed":      list(ok("config"), failed),
		"none":                 "null",
	} {
		if err := read(record); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, record := range map[string]string{
		"another version":             strings.Replace(list(ok("config")), `"version":1`, `"version":2`, 1),
		"no version":                  `{"list":[` + ok("config") + `]}`,
		"no stage":                    list(),
		"no list":                     `{"version":1}`,
		"more than there may":         list(append(many, ok("more"))...),
		"a stage twice":               list(ok("config"), ok("config")),
		"a name for a terminal":       list(ok("\x1b[2J")),
		"a long name":                 list(ok(strings.Repeat("a", 33))),
		"no name":                     list(ok("")),
		"another status":              list(`{"ms":1,"name":"config","status":"skipped"}`),
		"a stage after one that runs": list(`{"ms":0,"name":"config","status":"running"}`, ok("model")),
		"a stage after a failure":     list(failed, ok("serve")),
		"a failure without a code":    list(`{"ms":1,"name":"config","status":"failed"}`),
		"a code of what passed":       list(`{"code":"a.b","ms":1,"name":"config","status":"ok"}`),
		"a code with a space":         list(`{"code":"a b","ms":1,"name":"config","status":"failed"}`),
		"a long code":                 list(`{"code":"` + strings.Repeat("a", 33) + `","ms":1,"name":"config","status":"failed"}`),
		"less than no time":           list(`{"ms":-1,"name":"config","status":"ok"}`),
		"more time than there is":     list(`{"ms":1099511627777,"name":"config","status":"ok"}`),
		"half a millisecond":          list(`{"ms":0.5,"name":"config","status":"ok"}`),
		"time of one that still runs": list(`{"ms":1,"name":"config","status":"running"}`),
		"an unknown key":              strings.Replace(list(ok("config")), `{"list"`, `{"x":1,"list"`, 1),
		"an unknown key of a stage":   list(`{"ms":1,"name":"config","status":"ok","x":1}`),
		"a key of a stage twice":      list(`{"ms":1,"ms":1,"name":"config","status":"ok"}`),
		"text":                        `"config"`,
		"something behind it":         list(ok("config")) + `,"x":1`,
	} {
		if err := read(record); err == nil {
			t.Errorf("%s: was read", name)
		}
	}
}
