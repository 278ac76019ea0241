package lock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const good = `{"format":"cocoon-tools-lock/1","release":"trixie","packages":[
{"set":"tools","name":"seabios","suite":"trixie-backports","version":"1.17.0-1~bpo13+1","sha256":"1a335215bbdb076e8fe8fc47c2985dcfa2cc4506e5c27697733cc0a4125dd1e9","floor":"1.17"},
{"set":"engine","name":"libc6","suite":"forky","version":"2.43-7","sha256":"5c71715c51103beb4fbba9fe9f8dff604af6610dfa71c70bff342f54a7860803","floor":"2.43"}]}`

func TestParseRefusesWhatIsNotALock(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"an unknown key", `"release"`, `"relase"`, "unknown field"},
		{"a duplicate key", `"release":"trixie"`, `"release":"trixie","release":"sid"`, "duplicate key"},
		{"another format", "lock/1", "lock/2", "format"},
		{"a release that is no suite", `"trixie"`, `"../x"`, "not a suite name"},
		{"an unknown set", `"set":"tools"`, `"set":"misc"`, "unknown set"},
		{"a name with a slash", `"seabios"`, `"sea/bios"`, "not a package name"},
		{"a name that is an option", `"seabios"`, `"-y"`, "not a package name"},
		{"a suite with a space", `"forky"`, `"for ky"`, "not a suite name"},
		{"a version that is an option", `"2.43-7"`, `"--x"`, "not a Debian version"},
		{"a short hash", `c71715c`, `c`, "64 lower-case hex"},
		{"an upper-case hash", `5c71715c`, `5C71715C`, "64 lower-case hex"},
		{"an empty floor", `"floor":"1.17"`, `"floor":""`, "not a Debian version"},
		{"a package pinned twice", `"set":"engine","name":"libc6"`, `"set":"tools","name":"seabios"`, "pinned twice"},
		{"trailing data", `}]}`, `}]} {}`, "data after"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			doc := strings.Replace(good, tt.old, tt.new, 1)
			if doc == good {
				t.Fatal("the case changes nothing")
			}
			_, err := Parse([]byte(doc))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestParseReadsSetsAndSuites(t *testing.T) {
	l, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(l.Set(SetTools)); n != 1 {
		t.Errorf("tools set has %d packages, want 1", n)
	}
	if got := strings.Join(l.Suites(), " "); got != "trixie-backports forky" {
		t.Errorf("suites are %q", got)
	}
}

// The repository's own lock must parse and pin what the build relies on.
func TestTheRepositoryLockPinsWhatTheBuildNeeds(t *testing.T) {
	l, err := Load(filepath.Join("..", "..", "tools.lock"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, p := range l.Packages {
		have[p.Set+"/"+p.Name] = true
		if p.Suite == l.Release {
			t.Errorf("%s is pinned from the stable release, which moves by itself", p.Name)
		}
	}
	for _, want := range []string{"tools/qemu-system-x86", "tools/ovmf-generic", "engine/llama.cpp-tools", "engine/libc6"} {
		if !have[want] {
			t.Errorf("lock does not pin %s", want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	if doc, err := os.ReadFile(filepath.Join("..", "..", "tools.lock")); err == nil {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		l, err := Parse(doc)
		if err != nil {
			return
		}
		for _, p := range l.Packages {
			if strings.HasPrefix(p.Name, "-") || strings.ContainsAny(p.Name+p.Version+p.Floor+p.Suite, " \n/=") {
				t.Fatalf("accepted a package that could be taken for an option or a path: %+v", p)
			}
		}
	})
}
