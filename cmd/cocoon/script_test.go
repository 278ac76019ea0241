package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cocoon": func() { os.Exit(run(os.Args[1:])) },
	})
}

// TestScripts runs testdata/*.txtar, one story a file. Each script starts in
// its own empty directory with a home of its own; scriptSetups put there what
// the scripts of a room need.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir+"/home")
			env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/home/.cache")
			for _, setup := range scriptSetups {
				if err := setup(env); err != nil {
					return err
				}
			}
			return nil
		},
		Condition: condition,
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"exits": cmdExits, "enclave": cmdEnclave},
	})
}

// cmdExits runs a command and wants an exit code: "exits 4 cocoon verify …".
// Exit codes are a contract, of which testscript's "!" knows only "not 0".
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGS...]")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("running %s: %v", args[1], err)
		}
		code = exit.ExitCode()
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code is %d, want %s", code, args[0])
	}
}

// scriptSetups prepare a script's directory and environment.
var scriptSetups = []func(*testscript.Env) error{setupDCAP, setupSNP, setupTPM, setupDevnet, setupJob, setupEvidence, setupGPU, setupVerifyGPU, setupVerdict, setupAppraise, setupService, setupIdle, setupFetch}
