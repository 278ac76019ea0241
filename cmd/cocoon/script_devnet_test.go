package main

import (
	"cocoon/contracts/tvm"

	"github.com/rogpeppe/go-internal/testscript"
)

// setupDevnet names the TVM's directory: scripts run outside the repository.
func setupDevnet(env *testscript.Env) error {
	env.Setenv(tvm.EnvDir, tvm.DefaultDir())
	env.Setenv("TVM", tvm.DefaultDir())
	return nil
}
