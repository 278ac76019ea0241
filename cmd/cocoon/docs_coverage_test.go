package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

// wholePages are the pages of which a test runs every command, or refuses it.
var wholePages = map[string]string{
	"docs/hostd.md":         "cmd/cocoon/testdata/vm/page.txtar",
	"docs/performance.md":   "cmd/hammer/docs_test.go",
	"docs/verify-gpu.md":    "cmd/cocoon/docs_gpu_test.go",
	"docs/verify-quotes.md": "cmd/cocoon/docs_verify_test.go",
	"docs/verify-snp.md":    "cmd/cocoon/docs_verify_snp_test.go",
	"docs/verify-tpm.md":    "cmd/cocoon/docs_tpm_test.go",
}

// clientsPage runs what docs/clients.md asks of a worker, against a machine.
const clientsPage = "internal/e2e/clientpage_test.go"

// elsewhere says for commands that no script runs where one is run, and what is
// written there.
var elsewhere = []struct{ command, file, text string }{
	{"make demo", ".ci/run", "make demo"},
	{"make test", ".ci/run", "make test"},
	{"make check-generated", ".ci/run", "make check-generated"},
	{"make deps", ".ci/run", "make deps"},
	{"make image", "Makefile", "test: deps image bin"},
	{"make bin", "Makefile", "test: deps image bin"},
	{"make reproduce", ".ci/run", "make reproduce"},
	{"make release", "scripts/soak", "make release"},
	{"make rebuild", "scripts/soak", "make rebuild RELEASE=build/release"},
	{"cocoon audit build/release --trust build/keys/keys.json --rebuild", "scripts/soak", "cocoon audit build/release --trust build/keys/keys.json --rebuild"},
	{"go test", "Makefile", "go test -timeout 60m ./..."},
	{"cocoon-hostd serve", "cmd/cocoon/testdata/vm/page.txtar", "exec $HOSTD serve --config"},
	{"cocoon-gateway --config", "cmd/cocoon/docs_test.go", `"cocoon-gateway"), "--config", "gateway.json"`},
	{"cocoon-verifier keygen", "cmd/cocoon/docs_test.go", `{"cocoon-verifier", "keygen", "--dir", "keys"}`},
	{"cocoon-verifier --config", "cmd/cocoon-verifier/docs_test.go", `startProcess(t, dir, "--config", "config.yaml")`},
	{"curl -sS", "cmd/cocoon-verifier/docs_test.go", `strings.Contains(m[1], "curl ")`},
	{"jq -r .checks", "cmd/cocoon-verifier/docs_test.go", `strings.HasPrefix(m[1], "jq ")`},
	{"cocoon model release", "internal/e2e/modelkey_test.go", `exec.Command(o.program, "model", "release"`},
	{"cocoon measure --image build/image --packs build/packs --firmware OVMF.fd --model", "internal/e2e/modelkey_test.go", `"--firmware", b.Tools.OVMF(), "--model"`},
	{"cocoon proxy --gateway gateway.example:8443 --policy", clientsPage, `HasPrefix(line, "cocoon proxy ")`},
	{"cocoon chat --gateway gateway.example:8443 --policy", clientsPage, `HasPrefix(line, "cocoon chat ")`},
	{"curl http://127.0.0.1:10000", clientsPage, `pageProxy = "127.0.0.1:10000"`},
	{"printf", "cmd/cocoon-verifier/docs_test.go", `strings.Contains(m[1], "curl ")`},
	{"cocoon vm handover", "cmd/cocoon/vm_handover_test.go", `"--listen", "127.0.0.1:0", "--from"`},
	{"cocoon job voucher", "internal/demo/job.go", `"cocoon", "job", "voucher"`},
	{"cocoon job redeem", "cmd/cocoon/testdata/job.txtar", "cocoon job redeem --config cfg.json --key wallet.key --voucher"},                      // twice, which the contract refuses
	{"cocoon measure explain", "cmd/cocoon/testdata/measure_tee.txtar", "cocoon measure explain --firmware ovmf.fd --image image --log $VECTORS"}, // of another image, which is refused
	{"cocoon audit build/release --trust build/keys/keys.json --machine", "cmd/cocoon/audit_machine_test.go", ".machineOf("},
}

// ranCommand is a command of cocoon that some test runs: its verb, its flags,
// and the exit code wanted.
type ranCommand struct {
	verb  string
	flags []string
	exit  int
}

func newRan(words []string, exit int) ranCommand {
	verb, flags := verbAndFlags(words)
	return ranCommand{verb, flags, exit}
}

// scriptCommands returns what the stories of testdata run.
func scriptCommands(t *testing.T) []ranCommand {
	t.Helper()
	line := regexp.MustCompile(`^(?:(!) )?(?:\[\S+\] )?(?:exits (\d+) )?(?:exec )?(?:sh (?:run\.sh|-c) ')?(cocoon(?:-[a-z]+)? .*?)( &\w+&)?$`)
	var all []ranCommand
	err := filepath.WalkDir("testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".txtar" {
			return err
		}
		b, err := os.ReadFile(path)
		for l := range strings.Lines(string(b)) {
			m := line.FindStringSubmatch(strings.TrimSpace(l))
			if m == nil || m[1] != "" && m[4] == "" { // what runs beside is killed in the end
				continue
			}
			exit, _ := strconv.Atoi(m[2]) // nothing is 0
			all = append(all, newRan(strings.Fields(strings.ReplaceAll(m[3], "'", " ")), exit))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// goCommands returns the commands that a function of a package is called with,
// as far as they are written there as text.
func goCommands(t *testing.T, dir, function string) []ranCommand {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has %d files, %v", dir, len(files), err)
	}
	var all []ranCommand
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); !ok || sel.Sel.Name != function {
				return true
			}
			var words []string
			for _, a := range call.Args {
				ast.Inspect(a, func(n ast.Node) bool {
					if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
						if s, err := strconv.Unquote(lit.Value); err == nil {
							words = append(words, strings.Fields(s)...)
						}
					}
					return true
				})
			}
			all = append(all, newRan(words, 0))
			return true
		})
	}
	return all
}

// verbAndFlags returns what a command line of cocoon asks for: the verb's path
// and its flags, by their long names; of another program nothing.
func verbAndFlags(words []string) (verb string, flags []string) {
	if len(words) == 0 || words[0] != "cocoon" {
		return "", nil
	}
	cmd, _, err := newRootCmd().Find(words[1:])
	if err != nil {
		return "", nil
	}
	for _, w := range words[1:] {
		name, _, _ := strings.Cut(w, "=")
		f := cmd.Flags().Lookup(strings.TrimPrefix(name, "--"))
		if len(name) == 2 && name[0] == '-' && name[1] != '-' {
			f = cmd.Flags().ShorthandLookup(name[1:])
		}
		if strings.HasPrefix(name, "-") && f != nil {
			flags = append(flags, f.Name)
		}
	}
	return cmd.CommandPath(), flags
}

// good reports whether an exit code is what a page's command has on its
// reader's machine: the doctor's says what the machine is, and the pages' hosts
// under .example are not there.
func good(line, verb string, exit int) bool {
	switch {
	case exit == 0:
		return true
	case verb == "cocoon doctor":
		return exit == fault.ExitNotReady
	}
	return exit == fault.ExitNetwork && regexp.MustCompile(`\.example\b`).MatchString(line)
}

// TestEveryCommandOfThePagesIsRun wants for every command of every page a test
// that runs it: the same verb with all its flags. What no test can run says on
// the page what it needs ("# needs …"), and its line is parsed as the program
// does (TestEveryCommandOfTheGuidesExists).
func TestEveryCommandOfThePagesIsRun(t *testing.T) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := append(scriptCommands(t), goCommands(t, "../../internal/demo", "command")...)
	for page := range wholePages {
		for _, c := range commandsOf(readRepo(t, page)) {
			ran = append(ran, newRan(strings.Fields(c.line), 0))
		}
	}
	counts := map[string]int{}
	for _, path := range append(pages, filepath.Join(root, "README.md"), filepath.Join(root, "SECURITY.md")) {
		page, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		text := readRepo(t, page)
		if file := wholePages[page]; file != "" {
			readRepo(t, file)
			continue
		}
		if strings.Contains(text, "```console") {
			t.Errorf("%s: the commands of its console blocks are run by no test", page)
		}
		commands := commandsOf(text)
		for _, c := range commands {
			how := whoRuns(t, c, ran)
			if how == "" {
				t.Errorf("%s: no test runs %s", page, c.line)
			}
			counts[how]++
		}
		if !slices.Contains(guidePages, page) && len(commands) > 0 {
			t.Errorf("%s has commands and is not among the guides", page)
		}
	}
	t.Logf("%v", counts)
}

// whoRuns says how a command is run; empty: not at all.
func whoRuns(t *testing.T, c pageCommand, ran []ranCommand) string {
	t.Helper()
	words := commandWords(c.line, strings.Repeat("7", 64))
	if words[0] == "cocoon" {
		if ok, _ := offline(words[1:], true, true); ok {
			return "offline"
		}
		verb, flags := verbAndFlags(words)
		for _, r := range ran {
			if r.verb == verb && good(c.line, verb, r.exit) && !slices.ContainsFunc(flags, func(f string) bool { return !slices.Contains(r.flags, f) }) {
				return "a script"
			}
		}
	}
	for _, e := range elsewhere {
		if line := strings.Join(words, " "); line != e.command && !strings.HasPrefix(line, e.command+" ") && !strings.HasPrefix(line, e.command+"/") {
			continue
		}
		if !strings.Contains(readRepo(t, e.file), e.text) {
			t.Errorf("%s does not have %q", e.file, e.text)
		}
		return "elsewhere"
	}
	if strings.HasPrefix(c.comment, "needs ") {
		return "marked"
	}
	return ""
}
