package strictyaml

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type config struct {
	Listen string   `json:"listen"`
	Files  []string `json:"files,omitempty"`
	Limits limits   `json:"limits,omitzero"`
	On     bool     `json:"on,omitempty"`
	Since  string   `json:"since,omitempty"`
}

type limits struct {
	Burst     int     `json:"burst,omitempty"`
	PerSecond float64 `json:"per_second,omitempty"`
}

func TestDocumentsAreRead(t *testing.T) {
	want := config{Listen: "127.0.0.1:0", Files: []string{"a", "b c"}, Limits: limits{Burst: 40, PerSecond: 2.5}, On: true, Since: "2026-06-01T00:00:00Z"}
	for name, doc := range map[string]string{
		"YAML":             "# how it runs\nlisten: 127.0.0.1:0\nfiles:\n  - a\n  - b c\nlimits:\n  burst: 40\n  per_second: 2.5\non: true\nsince: 2026-06-01T00:00:00Z\n",
		"YAML's flow form": "{listen: '127.0.0.1:0', files: [a, \"b c\"], limits: {burst: 40, per_second: 2.5}, on: true, since: 2026-06-01T00:00:00Z}",
		"JSON":             `{"listen":"127.0.0.1:0","files":["a","b c"],"limits":{"burst":40,"per_second":2.5},"on":true,"since":"2026-06-01T00:00:00Z"}`,
		"a marked start":   "---\nlisten: 127.0.0.1:0\nfiles: [a, b c]\nlimits: {burst: 40, per_second: 2.5}\non: true\nsince: \"2026-06-01T00:00:00Z\"\n...\n",
	} {
		var got config
		if err := Decode([]byte(doc), 1<<10, &got); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWhatIsNotExactIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ doc, want string }{
		"nothing":                   {"", "empty"},
		"a comment alone":           {"# x\n", "empty"},
		"an unknown key":            {"listen: a\nlisten_on: b\n", `unknown field "listen_on"`},
		"an unknown key below":      {"limits: {brst: 1}\n", `unknown field "limits.brst"`},
		"a key in capitals":         {"Listen: a\n", `unknown field "Listen"`},
		"a key twice":               {"listen: a\nlisten: b\n", "duplicate key"},
		"a key twice below":         {"limits:\n  burst: 1\n  burst: 2\n", "duplicate key"},
		"a key twice in JSON":       {`{"listen":"a","listen":"b"}`, "duplicate key"},
		"two documents":             {"listen: a\n---\nlisten: b\n", "more than one document"},
		"a second, broken document": {"listen: a\n---\n{", "more than one document"},
		"a number for a string":     {"listen: 8443\n", "cannot unmarshal number"},
		"a string for a number":     {"limits: {burst: \"40\"}\n", "cannot unmarshal string"},
		"a fraction for a count":    {"limits: {burst: 1.5}\n", "burst"},
		"yes for true":              {"on: yes\n", "cannot unmarshal string"},
		"True for true":             {"on: True\n", "write true or false"},
		"octal":                     {"limits: {burst: 0o17}\n", "as in JSON"},
		"old octal":                 {"limits: {burst: 017}\n", "as in JSON"},
		"underscores":               {"limits: {burst: 1_000}\n", "as in JSON"},
		"hexadecimal":               {"limits: {burst: 0x10}\n", "as in JSON"},
		"infinity":                  {"limits: {per_second: .inf}\n", "as in JSON"},
		"not a number":              {"limits: {per_second: .nan}\n", "as in JSON"},
		"null":                      {"listen: null\n", "leave it out"},
		"no value":                  {"listen:\n", "leave it out"},
		"a tilde":                   {"files: [~]\n", "leave it out"},
		"an anchor":                 {"listen: &a b\n", "anchors"},
		"an alias":                  {"listen: &a b\nsince: *a\n", "anchors"},
		"a merge key":               {"limits:\n  <<: {burst: 1}\n", "no plain string"},
		"a tag":                     {"listen: !!str 1\n", "tags"},
		"a tag of one's own":        {"listen: !x a\n", "tags"},
		"binary":                    {"listen: !!binary aGk=\n", "tags"},
		"a tag on a key":            {"!!str listen: a\n", "no plain string"},
		"a number as key":           {"1: a\n", "no plain string"},
		"a list for the whole":      {"- a\n", "cannot unmarshal array"},
		"a tab":                     {"limits:\n\tburst: 1\n", "cannot start any token"},
		"no UTF-8":                  {"listen: \"\xff\"\n", "UTF-8"},
		"depth":                     {strings.Repeat("[", 40) + strings.Repeat("]", 40), "deeper"},
		"numbers of values":         {"files: [" + strings.Repeat("a,", 20000) + "a]", "more than"},
		"size":                      {"listen: " + strings.Repeat("a", 1<<16), "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			var got config
			if err := Decode([]byte(c.doc), 1<<16, &got); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v, want %q", got, err, c.want)
			}
		})
	}
}

// FuzzDecode holds that what is read is what JSON would be: read again from
// its own JSON it is the same.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"listen: a\nfiles: [b]\n", `{"limits":{"burst":1,"per_second":1e2}}`, "on: true\nsince: 2026-01-01\n", "a: &b [*b]", "? [x]\n: y"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var one, two config
		if Decode(doc, 1<<16, &one) != nil {
			return
		}
		b, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(b, 1<<20, &two); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if diff := cmp.Diff(one, two); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}
