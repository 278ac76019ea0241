package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoon/contracts/coin"
	"cocoon/contracts/receipt"
	"cocoon/hostd/spec"
	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
	"cocoon/internal/toolstree"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/result"
	"cocoon/verifier/tpmtest"
)

// guidePages are the pages whose every command is checked here. The commands
// of docs/verify-quotes.md and docs/hostd.md have tests of their own.
var guidePages = []string{"README.md", "docs/operators.md", "docs/auditors.md", "docs/measurements.md", "docs/image.md", "docs/clients.md", "docs/wallet.md", "docs/devnet.md", "docs/gpu-rims.md", "docs/policy.md", "docs/models.md", "docs/contracts.md", "docs/verifier-api.md"}

// systemTools are the programs on the pages that are not the project's.
var systemTools = []string{"curl", "jq", "useradd", "install", "systemctl", "journalctl", "go", "printf"}

func readRepo(t *testing.T, name string) string {
	t.Helper()
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pageCommand is a command of a page and the comment behind it.
type pageCommand struct{ line, comment string }

// commandsOf returns the commands of a page's sh blocks; lines that go on are
// one.
func commandsOf(page string) []pageCommand {
	var commands []pageCommand
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(strings.ReplaceAll(m[1], "\\\n", " ")) {
			line, comment, _ := strings.Cut(line, " # ")
			if line = strings.TrimSpace(line); line != "" {
				commands = append(commands, pageCommand{line, strings.TrimSpace(comment)})
			}
		}
	}
	return commands
}

// pageCommands returns the command lines of a page's sh blocks.
func pageCommands(page string) []string {
	var lines []string
	for _, c := range commandsOf(page) {
		lines = append(lines, c.line)
	}
	return lines
}

// pageDocument returns a JSON document that a page shows under a file name.
func pageDocument(t *testing.T, page, name string) []byte {
	t.Helper()
	m := regexp.MustCompile("(?s)```json " + regexp.QuoteMeta(name) + "\n(.*?)\n```").FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("the page shows no %s", name)
	}
	return []byte(m[1])
}

var (
	wordRE      = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
	shortAddrRE = regexp.MustCompile(`^0:[0-9a-f]+…$`)
	shortHexRE  = regexp.MustCompile(`^[0-9a-f]+…$`)
)

// commandWords splits a command line, without sudo, and makes shortened
// addresses and hashes whole; a shortened key becomes key.
func commandWords(line, key string) []string {
	var words []string
	for _, w := range wordRE.FindAllString(line, -1) {
		w = strings.Trim(w, `"'`)
		switch {
		case shortAddrRE.MatchString(w):
			w = "0:" + strings.Repeat("7", 64)
		case shortHexRE.MatchString(w):
			w = key
		}
		words = append(words, w)
	}
	if words[0] == "sudo" {
		words = words[1:]
	}
	return words
}

// TestEveryCommandOfTheGuidesExists parses each command of the pages as its
// program does: path, flags, values and arguments.
func TestEveryCommandOfTheGuidesExists(t *testing.T) {
	helps := programHelps(t)
	targets := readRepo(t, "Makefile")
	for _, page := range guidePages {
		lines := pageCommands(readRepo(t, page))
		if len(lines) < 2 {
			t.Errorf("%s has %d commands", page, len(lines))
		}
		for _, line := range lines {
			words := commandWords(line, strings.Repeat("7", 64))
			switch program := words[0]; {
			case program == "cocoon":
				checkCobra(t, page, line, words[1:])
			case program == "make":
				for _, target := range words[1:] {
					if !strings.Contains(target, "=") && !strings.Contains(targets, "\n"+target+":") {
						t.Errorf("%s: %s: the Makefile has no %s", page, line, target)
					}
				}
			case strings.HasPrefix(program, "cocoon-"):
				checkHelp(t, page, line, program, words[1:], helps)
			case program == "install":
				readRepo(t, words[len(words)-2])
			case !slices.Contains(systemTools, program):
				t.Errorf("%s: %s: unknown program", page, line)
			}
		}
	}
}

func checkCobra(t *testing.T, page, line string, args []string) {
	t.Helper()
	cmd, rest, err := newRootCmd().Find(args)
	if err == nil && !cmd.Runnable() {
		t.Errorf("%s: %s: %q only has subcommands", page, line, cmd.CommandPath())
		return
	}
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	for _, check := range []func() error{
		func() error { return cmd.ValidateArgs(cmd.Flags().Args()) }, cmd.ValidateRequiredFlags, cmd.ValidateFlagGroups,
	} {
		if err == nil {
			err = check()
		}
	}
	if err != nil {
		t.Errorf("%s: %s: %v", page, line, err)
	}
}

// programHelps builds the services and returns their help by program and
// verb.
func programHelps(t *testing.T) map[string]string {
	t.Helper()
	dir := buildServices(t)
	helps := map[string]string{}
	for _, args := range [][]string{{"cocoon-hostd", "serve"}, {"cocoon-hostd", "run"}, {"cocoon-gateway"}, {"cocoon-verifier"}, {"cocoon-verifier", "keygen"}} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, args[0]), append(args[1:], "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v --help: %v\n%s", args, err, out)
		}
		helps[strings.Join(args, " ")] = string(out)
	}
	return helps
}

func buildServices(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "cocoon/cmd/cocoon-hostd", "cocoon/cmd/cocoon-gateway", "cocoon/cmd/cocoon-verifier").CombinedOutput()
	if err != nil {
		t.Fatalf("building the services: %v\n%s", err, out)
	}
	return dir
}

func checkHelp(t *testing.T, page, line, program string, args []string, helps map[string]string) {
	t.Helper()
	verb := program
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb += " " + args[0]
	}
	help, ok := helps[verb]
	if !ok {
		t.Errorf("%s: %s: unknown verb", page, line)
	}
	for _, a := range args {
		if name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "="); strings.HasPrefix(a, "-") && !regexp.MustCompile(`(?m)^\s+(-\w, )?--?`+regexp.QuoteMeta(name)+`\b`).MatchString(help) {
			t.Errorf("%s: %s: %s has no flag %s", page, line, verb, a)
		}
	}
}

// offline says whether a command can run in guideDir, and what has to follow
// it on the command line because the page speaks of now and the files do not.
func offline(args []string, built, ran bool) (bool, []string) {
	has := func(words ...string) bool { return len(args) >= len(words) && slices.Equal(args[:len(words)], words) }
	at := []string{"--at", tpmtest.Now.Format(time.RFC3339)}
	switch {
	case has("verify", "evidence"):
		return true, at // the last --at counts
	case has("receipt", "verify"):
		return !slices.Contains(args, "--config"), nil
	case has("model", "release"), has("model", "releases"):
		return false, nil // a service, and the log of one that ran
	case has("policy"), has("verdict", "show"), has("model"):
		return true, nil
	case has("measure", "key"), has("manifest", "key"):
		return true, nil
	case has("audit"):
		for _, outside := range []string{"--ton-config", "--machine", "--rebuild", "--earlier"} {
			if slices.Contains(args, outside) {
				return false, nil
			}
		}
		return isFile("build/keys/keys.json"), nil // a release was made
	case has("manifest", "verify"):
		return false, nil // a shortened key
	case has("manifest"), has("log"):
		return built, nil
	case has("measure", "record"), has("measure", "rtmr") && slices.Contains(args, "--acpi-tables"), slices.Contains(args, "--log"), slices.Contains(args, "--id-key"), slices.Contains(args, "--recorded"), slices.Contains(args, "release"), slices.Contains(args, "--model"):
		return false, nil // boots machines, needs a recording, a release, a machine's tables, a log, a key, a model's root
	case has("measure"):
		return built && (ran || !slices.Contains(args, "build/demo/config.json")), nil
	case has("demo", "verify"):
		return ran, nil
	}
	return false, nil
}

// TestOfflineCommandsOfTheGuides runs every command of the pages that needs
// neither a network nor a machine, in order.
func TestOfflineCommandsOfTheGuides(t *testing.T) {
	pages := map[string]string{}
	for _, page := range guidePages {
		pages[page] = readRepo(t, page)
	}
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	built := isFile(filepath.Join(root, "build/image/image.json")) && isFile(filepath.Join(root, "build/packs/packs.json")) &&
		isFile(filepath.Join(root, "build/tools/usr/share/ovmf/OVMF.fd"))
	ran := isFile(filepath.Join(root, "build/demo/report.json")) && newer(filepath.Join(root, "build/demo/report.json"), filepath.Join(root, "build/bin/cocoon"))
	if !built {
		t.Log("commands that measure are not run: run make deps image first")
	}
	if !ran {
		t.Log("cocoon demo verify is not run: there is no run of these programs; run make demo first")
	}
	key := guideDir(t, root)
	n := 0
	for _, page := range guidePages {
		for _, line := range pageCommands(pages[page]) {
			words := commandWords(line, key)
			if words[0] != "cocoon" {
				continue
			}
			ok, more := offline(words[1:], built, ran)
			if !ok {
				continue
			}
			n++
			if code, stdout, stderr := runHere(t, append(words[1:], more...)...); code != 0 {
				t.Errorf("%s: %s\nexit code is %d\n%s%s", page, line, code, stdout, stderr)
			}
		}
	}
	t.Logf("%d commands ran", n)
	if n < 5 {
		t.Errorf("only %d commands ran", n)
	}
}

func isFile(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular()
}

func newer(a, b string) bool {
	sa, err := os.Stat(a)
	if err != nil {
		return false
	}
	sb, err := os.Stat(b)
	return err != nil || sa.ModTime().After(sb.ModTime())
}

// guideDir makes the files that the pages name in a directory of their own
// and goes there. It returns the receipt key.
func guideDir(t *testing.T, root string) (receiptKey string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(root, "build"), filepath.Join(dir, "build")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, "tools.lock"), filepath.Join(dir, "tools.lock")); err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte, err error) {
		t.Helper()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, model := range []string{"qwen3-8b", "ours"} {
		if err := os.Mkdir(filepath.Join(dir, model), 0o700); err != nil {
			t.Fatal(err)
		}
		write(model+"/config.json", []byte(`{"model_type":"qwen3"}`), nil)
	}
	w := tpmtest.NewWorld(t)
	for name, v := range map[string]any{"evidence.json": w.Evidence(t), "policy.json": w.Policy, "owner-policy.json": w.Policy} {
		b, err := json.Marshal(v)
		write(name, b, err)
	}
	write("manifest.json", w.Envelope(t), nil)
	write("cases.json", pageDocument(t, readRepo(t, "docs/policy.md"), "cases.json"), nil)
	v, err := result.Sign(appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now}), scriptKey("verifier"), "guide")
	if err != nil {
		t.Fatal(err)
	}
	write("verdict.jwt", []byte(v.Token), nil)
	answer, err := json.Marshal(verdictText{EAR: v.Token, Checks: v.Checks})
	write("answer.json", answer, err)

	request, response := []byte(`{"model":"chat"}`), []byte("data: [DONE]\n\n")
	write("body.json", request, nil)
	write("answer.sse", response, nil)
	client := scriptPublic(scriptKey("client"))
	book, err := receipt.OpenBook(receipt.BookOptions{
		Job: toncell.Address{Hash: sha256Of("job")}, GlobalID: -3, ClientKey: client[:], Key: scriptKey("receipt"),
		ModelRoot: sha256Of("model"), Manifest: sha256Of("manifest"), Verdict: sha256Of("verdict"), Price: receipt.Price{Completion: 900000},
		Deposit: coin.TON, Credit: coin.TON, Path: filepath.Join(dir, "book.log"), Clock: func() time.Time { return tpmtest.Now },
	})
	if err != nil {
		t.Fatal(err)
	}
	account, err := book.Open(coin.TON / 2)
	if err != nil {
		t.Fatal(err)
	}
	s, err := account.Issue(receipt.Delivery{Request: sha256.Sum256(request), Response: sha256.Sum256(response), Tokens: receipt.Tokens{Prompt: 7, Completion: 100}})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := s.Marshal()
	write("receipt.json", doc, err)
	if err := book.Close(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	public := scriptPublic(scriptKey("receipt"))
	return hex.EncodeToString(public[:])
}

// TestDocumentsOfTheGuidesAreGood gives each document that a page shows to
// its reader.
func TestDocumentsOfTheGuidesAreGood(t *testing.T) {
	operators, clients := readRepo(t, "docs/operators.md"), readRepo(t, "docs/clients.md")
	if _, err := evidence.ParseConfig(pageDocument(t, operators, "config.json")); err != nil {
		t.Error(err)
	}
	if _, err := evidence.ParseOperator(pageDocument(t, operators, "operator.json")); err != nil {
		t.Error(err)
	}
	if _, err := spec.Parse(pageDocument(t, operators, "vm.json")); err != nil {
		t.Error(err)
	}
	root := tpmtest.NewWorld(t).Policy.TPM.AKRoots[0]
	p := strings.Replace(string(pageDocument(t, clients, "policy.json")), "BASE64 OF THE VERIFIER'S AK AUTHORITY, DER", base64.StdEncoding.EncodeToString(root), 1)
	if _, err := policy.Parse([]byte(p)); err != nil {
		t.Error(err)
	}
	var list []rules.Rule
	if err := jcs.Decode(pageDocument(t, readRepo(t, "docs/policy.md"), "rules.json"), policy.MaxSize, &list); err != nil {
		t.Fatal(err)
	}
	if _, err := rules.Compile(list); err != nil || len(list) < 3 {
		t.Errorf("%d rules, %v", len(list), err)
	}
}

// TestServicesOfTheOperatorsPage starts the services that a page's config
// suffices for.
func TestServicesOfTheOperatorsPage(t *testing.T) {
	page, bin, dir := readRepo(t, "docs/operators.md"), buildServices(t), t.TempDir()
	gateway := strings.Replace(string(pageDocument(t, page, "gateway.json")), "0.0.0.0:8443", "127.0.0.1:0", 1)
	for name, b := range map[string][]byte{"hostd.json": pageDocument(t, page, "hostd.json"), "gateway.json": []byte(gateway)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"cocoon-hostd", "serve", "--config", "hostd.json", "--check"}, {"cocoon-verifier", "keygen", "--dir", "keys"}} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, args[0]), args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "cocoon-gateway"), "--config", "gateway.json")
	cmd.Dir = dir
	log, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 4096)
	n, err := log.Read(first)
	if err != nil || !bytes.Contains(first[:n], []byte("gateway ready")) {
		t.Errorf("the gateway says %q, %v", first[:n], err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_, _ = io.Copy(io.Discard, log)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the gateway ends with %v", err)
	}
}

// TestClientsPageNamesEveryFlag holds the page against proxy and chat.
func TestClientsPageNamesEveryFlag(t *testing.T) {
	page := readRepo(t, "docs/clients.md")
	for _, cmd := range []*cobra.Command{newProxyCmd(), newChatCmd()} {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(page, "`--"+f.Name+"`") {
				t.Errorf("%s: --%s is not on the page", cmd.Name(), f.Name)
			}
		})
	}
}

// TestLinksOfThePagesResolve follows every relative link.
func TestLinksOfThePagesResolve(t *testing.T) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := fs.Glob(os.DirFS(root), "docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, page := range append(pages, "README.md", "SECURITY.md") {
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(readRepo(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			n++
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d links were found", n)
	}
}
