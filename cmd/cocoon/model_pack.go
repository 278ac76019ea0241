package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/modelpack"
)

type modelPackFlags struct {
	name, revision, out, keyOut, progress string
	encrypt, json                         bool
	workers                               int
}

func newModelPackCmd() *cobra.Command {
	f := &modelPackFlags{}
	cmd := &cobra.Command{
		Use:   "pack DIR --revision REVISION",
		Short: "make a model pack of a directory",
		Long: `Packs a directory into one read-only disk that a guest mounts and verifies block
by block: a file system and its hash tree. The name, MODEL@REVISION:ROOT, fixes
every byte. Equal directories give equal packs, on every machine and for every
user; nothing but the directory is needed. Files whose name begins with a dot
are left out; links to files are followed.

The pack appears under its name when it is whole; what a run that was cut short
leaves (FILE.partial) the next one replaces.

With --encrypt the pack is encrypted with a new key, which is written to its own
file and nowhere else: whoever loses it loses the pack.`,
		Example: `  cocoon model pack qwen3-8b --revision 2026-05
  cocoon model pack ./snapshot --name qwen3-8b --revision 9a3c1f2 --out qwen.pack --progress json --json
  cocoon model pack ./secret --name ours --revision 3 --encrypt --key-out ours.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runModelPack(cmd, f, args[0]) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.name, "name", "", "the model's `name` (default: the directory's)")
	fs.StringVar(&f.revision, "revision", "", "which `revision` of the model it is, such as a commit or a date")
	fs.StringVar(&f.out, "out", "", "the pack's `file` (default NAME-REVISION.pack)")
	fs.BoolVar(&f.encrypt, "encrypt", false, "encrypt the pack with a new key")
	fs.StringVar(&f.keyOut, "key-out", "", "write the key to this `file`, which must not exist (default FILE.key)")
	fs.IntVar(&f.workers, "workers", 0, "hash with this `number` of processors (default all)")
	fs.StringVar(&f.progress, "progress", progressAuto, "how to show progress on standard error: `auto`, json or none")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	return cmd
}

func runModelPack(cmd *cobra.Command, f *modelPackFlags, dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return usage("reading %q: %v", dir, err)
	}
	if f.name == "" {
		f.name = filepath.Base(abs)
	}
	if f.revision == "" {
		return usage("packing %s: --revision says which revision of the model it is", dir)
	}
	if err := modelpack.CheckName(f.name, f.revision); err != nil {
		return err
	}
	if f.out == "" {
		f.out = f.name + "-" + f.revision + ".pack"
	}
	if f.keyOut != "" && !f.encrypt {
		return usage("--key-out is for --encrypt")
	}
	p, err := newProgress(cmd, f.name, "packing", f.progress)
	if err != nil {
		return err
	}
	o := modelpack.Options{Name: f.name, Revision: f.revision, Workers: f.workers, Progress: p}
	var keys *os.File
	if f.encrypt {
		if f.keyOut == "" {
			f.keyOut = f.out + ".key"
		}
		// Before the work: a pack whose key cannot be written is worth nothing.
		if keys, err = os.OpenFile(f.keyOut, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return fault.New(fault.ExitInternal, "file.unwritable", "name a file that does not exist with --key-out", "writing the key: %w", err)
		}
		defer keys.Close()
		key := modelpack.NewKey()
		o.Key = &key
	}
	d, err := modelpack.Make(cmd.Context(), dir, f.out, o)
	if keys != nil {
		if err == nil {
			err = writeModelKey(keys, o.Key, d.ID())
		}
		if err != nil {
			// The key of no pack; a pack without its key is of no use either.
			return errors.Join(err, os.Remove(f.keyOut))
		}
	}
	if err != nil {
		return err
	}
	return newPackReport(d, f.out).output(cmd.OutOrStdout(), f.json)
}

// writeModelKey has the key on disk before the verb says that there is a pack.
func writeModelKey(f *os.File, k *modelpack.Key, id string) error {
	doc, err := modelpack.MarshalKey(k, id)
	if err == nil {
		_, err = f.Write(doc)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fault.New(fault.ExitInternal, "file.unwritable", "make room, and make the pack again", "writing the key: %w", err)
	}
	return nil
}
