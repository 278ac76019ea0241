package main

import (
	"github.com/spf13/cobra"

	"cocoon/measurements/modelpack"
)

func newModelShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "say what a model pack is",
		Long: `Shows a pack's name, files, and the lines for a guest's config, as the pack itself
has them. It reads no data: cocoon model verify says whether they are true.`,
		Example: `  cocoon model show qwen3-8b-2026-05.pack
  cocoon model show qwen3-8b-2026-05.pack --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, d, err := modelpack.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			return newPackReport(d, args[0]).output(cmd.OutOrStdout(), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON")
	return cmd
}
