package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/modelpack"
)

func newModelVerifyCmd() *cobra.Command {
	var id, key, mode string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE|DIR [--id MODEL@REVISION:ROOT]",
		Short: "check a model pack, or a directory, against its name",
		Long: `Computes a pack's hash tree again from its data and compares all of it, its name
and its list of files. With --id it must be the pack of that name, which is what
a config, a manifest or the registry names. A directory is checked against --id
without writing a pack.

Exit codes: 0 it is what its name says; 2 it is not; 5 it is no pack.`,
		Example: `  cocoon model verify qwen3-8b-2026-05.pack
  cocoon model verify ./snapshot --id qwen3-8b@2026-05:0f3c…
  cocoon model verify ours-3.pack --key ours.key --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := newProgress(cmd, filepath.Base(args[0]), "verifying", mode)
			if err != nil {
				return err
			}
			o := modelpack.Options{Progress: p}
			d, err := verifyModel(cmd, args[0], id, key, o)
			if err != nil {
				return err
			}
			path := args[0]
			if st, err := os.Stat(path); err == nil && st.IsDir() {
				path = ""
			}
			return newPackReport(d, path).output(cmd.OutOrStdout(), asJSON)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&id, "id", "", "the `name` that it must have, MODEL@REVISION:ROOT")
	fs.StringVar(&key, "key", "", "the key `file` of an encrypted pack")
	fs.StringVar(&mode, "progress", progressAuto, "how to show progress on standard error: `auto`, json or none")
	fs.BoolVar(&asJSON, "json", false, "write the result as JSON")
	return cmd
}

func verifyModel(cmd *cobra.Command, path, id, key string, o modelpack.Options) (*modelpack.Description, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		if id == "" || key != "" {
			return nil, usage("verifying a directory: it takes --id, and no --key")
		}
		if o.Name, o.Revision, _, err = modelpack.ParseID(id); err != nil {
			return nil, err
		}
		d, err := modelpack.Identify(cmd.Context(), path, o)
		if err != nil {
			return nil, err
		}
		return d, sameID(id, d.ID())
	}
	f, d, err := modelpack.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if id != "" {
		if _, _, _, err := modelpack.ParseID(id); err != nil {
			return nil, err
		}
		if err := sameID(id, d.ID()); err != nil {
			return nil, err
		}
	}
	if key != "" {
		if o.Key, err = readModelKey(key, d.ID()); err != nil {
			return nil, err
		}
	}
	return d, modelpack.Verify(cmd.Context(), f, d, o)
}

func sameID(want, got string) error {
	if want == got {
		return nil
	}
	return fault.Mismatch(fault.ExitRefused, modelpack.CodeCorrupt, "the model", want, got, "use the model that the name is of")
}
