package needtool

import (
	"fmt"
	"testing"
)

// outcome is a test that only says how it was ended.
type outcome struct {
	testing.TB
	how string
}

func (o *outcome) Helper()                   {}
func (o *outcome) Fatalf(f string, a ...any) { o.end("failed: " + fmt.Sprintf(f, a...)) }
func (o *outcome) Skipf(f string, a ...any)  { o.end("skipped: " + fmt.Sprintf(f, a...)) }
func (o *outcome) end(how string)            { o.how = how; panic(o) }
func (o *outcome) find(names ...string) (p string) {
	defer func() { _ = recover() }()
	return Find(o, names...)
}

func TestAbsenceSkipsOrFails(t *testing.T) {
	for env, want := range map[string]string{
		"":  "skipped: there is no no-such-program or none-such here: make deps installs it",
		"1": "failed: there is no no-such-program or none-such here, and it is required: make deps installs it",
	} {
		t.Setenv(EnvRequired, env)
		o := &outcome{}
		if o.find("no-such-program", "none-such"); o.how != want {
			t.Errorf("with %q: %q, want %q", env, o.how, want)
		}
		o = &outcome{}
		if p := o.find("no-such-program", "sh"); p == "" || o.how != "" {
			t.Errorf("with %q: sh is %q, the test %s", env, p, o.how)
		}
	}
}
