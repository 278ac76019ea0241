package main

import (
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/internal/toolstree"
)

// setupIdle names the directory with a day's trace and a policy: $DAY.
func setupIdle(env *testscript.Env) error {
	root, err := toolstree.RepoRoot()
	if err != nil {
		return err
	}
	env.Setenv("DAY", filepath.Join(root, "hostd", "idle", "testdata"))
	return nil
}
