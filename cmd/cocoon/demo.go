package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cocoon/internal/demo"
	"cocoon/internal/toolstree"
)

func newDemoCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "run the whole job on this machine, or check a run again",
	}
	cmd.AddCommand(newDemoRunCmd(), newDemoVerifyCmd())
	return cmd
}

func newDemoRunCmd() *cobra.Command {
	var out, prompt string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "build, measure, boot, verify, release, chat, settle, refuse (make demo)",
		Long: `Runs the whole job on this machine with the project's own programs, then runs
it again with one thing changed at a time and demands that each is refused as
docs/refusals.md promises. Everything that was shown is kept in the output
directory. Needs root and what make deps installs; make demo does both.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := toolstree.RepoRoot()
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding own program: %w", err)
			}
			if out == "" {
				out = filepath.Join(root, "build", "demo")
			}
			if out, err = filepath.Abs(out); err != nil {
				return fmt.Errorf("finding output directory: %w", err)
			}
			return demo.Run(cmd.Context(), demo.Options{Root: root, Out: out, Bin: filepath.Dir(self), Prompt: prompt, Stdout: cmd.OutOrStdout()})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "output `directory`, emptied first (default build/demo)")
	cmd.Flags().StringVar(&prompt, "prompt", "What is the capital of Japan?", "what the client asks")
	return cmd
}

func newDemoVerifyCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "check a run again, from its files alone",
		Long: `Checks everything that a run kept, offline: the manifest by its hash, the
evidence against it and the client's policy, the verdict's signature, the
refused evidence, which must be refused again with the same codes, and the
money: receipt, enclave key, verdict, manifest, registry state, job,
redemption. Any changed file is a refusal.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			res, err := demo.Verify(args[0])
			if asJSON && res != nil {
				if werr := writeJSON(cmd.OutOrStdout(), res); werr != nil {
					return werr
				}
			} else if res != nil {
				for _, c := range res.Checks {
					fmt.Fprintf(cmd.OutOrStdout(), "%-5s %s: %s\n", c.Status, c.ID, c.Text())
				}
			}
			if err != nil {
				return err
			}
			if !asJSON {
				fmt.Fprintf(cmd.OutOrStdout(), "\nall %d checks passed; %s\n", len(res.Checks), demo.Notice)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the checks as JSON")
	return cmd
}
