package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/client"
	"cocoon/hostd/daemon"
	"cocoon/hostd/gpumode"
	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
)

func newGPUListCmd() *cobra.Command {
	f := &hostFlags{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list this host's NVIDIA GPUs and NVSwitches",
		Long: `Lists GPUs and NVSwitches of NVIDIA with driver, IOMMU group, VM and, as root,
confidential-computing mode. Which VM has one is what the host daemon says, where
one answers; another machine's are listed with --hostd https://HOST:PORT. All of
it is the host's word; the guest attests its GPUs itself.

Exit codes: 0 listed, also where there is none.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := listGPUs(cmd, f)
			if err != nil {
				return err
			}
			if asJSON {
				return writeIndented(cmd.OutOrStdout(), map[string]any{"devices": rows})
			}
			if len(rows) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no NVIDIA GPU or NVSwitch on this host")
				return err
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(tw, "ADDRESS\tKIND\tMODEL\tDRIVER\tGROUP\tPOWER\tVM\tMODE")
			for _, r := range rows {
				mode := string(r.Mode)
				if mode == "" {
					mode = "unknown: " + r.ModeErr
				}
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.BDF, r.Kind, r.Model, r.Driver, r.Group, r.Power, r.VM, plain(mode))
			}
			return tw.Flush()
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the list as JSON")
	return cmd
}

// listGPUs looks at this machine itself, for root sees more than a daemon that
// is not, and asks the daemon whose they are. Another machine's it asks for all.
func listGPUs(cmd *cobra.Command, f *hostFlags) ([]daemon.GPU, error) {
	var theirs []daemon.GPU
	err := f.with(func(c *client.Client) (err error) {
		theirs, err = c.GPUs(cmd.Context())
		return err
	})
	if f.asked(cmd) {
		return theirs, err
	}
	sys, err := vfio.NewLinux()
	if err != nil {
		return nil, err
	}
	rows, err := daemon.ListGPUs(sys)
	for i := range rows {
		for _, t := range theirs {
			if t.BDF == rows[i].BDF {
				rows[i].VM = t.VM
			}
		}
	}
	return rows, err
}

const defaultGPUState = "/var/lib/cocoon-gpu"

func newGPUPrepareCmd() *cobra.Command {
	f := &hostFlags{}
	var mode, dir string
	var tool gpumode.Tool
	cmd := &cobra.Command{
		Use:   "prepare ADDRESS...",
		Short: "bind GPUs to vfio-pci, reset them and check their mode",
		Long: `Binds GPUs and NVSwitches to vfio-pci, pins their power, resets them and checks
the confidential-computing mode. If anything fails, everything is taken back.
"cocoon gpu restore" gives them back to their drivers.

With --tool a device in another mode is brought into the wanted one by NVIDIA's
tool, of exactly the version that --tool-sha256 names ("cocoon gpu tool"). The tool
is never interrupted, also if this command is; the mode is then read from the
device, whatever the tool says.

With --hostd the host daemon does it, which must run as root and have the tool in
its config; it refuses devices that a VM has.

Exit codes: 0 prepared; 3 the daemon does not answer; 6 the machine is not ready for it.`,
		Example: "  cocoon gpu prepare 0000:1b:00.0 --mode cc",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch vfio.Mode(mode) {
			case vfio.ModeCC, vfio.ModePPCIE, vfio.ModeOff:
			default:
				return usage("reading --mode %q: not cc, ppcie or off", mode)
			}
			for _, bdf := range args {
				if err := vfio.CheckBDF(bdf); err != nil {
					return err
				}
			}
			if f.asked(cmd) {
				if err := ownState(cmd); err != nil {
					return err
				}
				err := f.with(func(c *client.Client) error { return c.PrepareGPUs(cmd.Context(), mode, args) })
				for i := 0; err == nil && i < len(args); i++ {
					fmt.Fprintf(cmd.OutOrStdout(), "prepared %s: mode %s\n", args[i], mode)
				}
				return err
			}
			sys, err := vfio.NewLinux()
			if err != nil {
				return err
			}
			store, err := vfio.OpenStore(dir)
			if err != nil {
				return err
			}
			defer store.Close()
			set := modeSetter(cmd, sys, dir)
			o := vfio.Options{System: sys, Mode: vfio.Mode(mode), Record: store.Add, Busy: set.Busy}
			if tool.Dir != "" {
				if err := tool.Validate(); err != nil {
					return usage("reading --tool: %w", err)
				}
				set.Tool, o.Set = tool, set.Set
			}
			p, err := vfio.Prepare(cmd.Context(), o, args)
			if err != nil {
				return err
			}
			for _, d := range p.Devices {
				fmt.Fprintf(cmd.OutOrStdout(), "prepared %s (%s): mode %s\n", d.BDF, d.Model, mode)
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&mode, "mode", string(vfio.ModeCC), "the `mode` that every device must be in: cc, ppcie or off")
	cmd.Flags().StringVar(&dir, "state-dir", defaultGPUState, "remember the owner's drivers in this `directory`")
	cmd.Flags().StringVar(&tool.Dir, "tool", "", "set the mode with NVIDIA's gpu-admin-tools in this `directory`")
	cmd.Flags().StringVar(&tool.SHA256, "tool-sha256", "", "the `hash` that pins its version")
	cmd.Flags().StringVar(&tool.Python, "python", "", "the Python 3 that runs it; default: /usr/bin/python3")
	return cmd
}

// asked says whether the daemon is to do it, and not this program.
func (f *hostFlags) asked(cmd *cobra.Command) bool { return cmd.Flags().Changed("hostd") || f.remote() }

// ownState refuses flags that mean nothing to a daemon.
func ownState(cmd *cobra.Command) error {
	for _, name := range []string{"state-dir", "tool", "tool-sha256", "python"} {
		if cmd.Flags().Changed(name) {
			return usage("reading --%s: with --hostd the daemon's own config decides", name)
		}
	}
	return nil
}

// modeSetter knows which devices the tool is at work on.
func modeSetter(cmd *cobra.Command, sys vfio.System, dir string) *gpumode.Setter {
	return &gpumode.Setter{Dir: filepath.Join(dir, "modes"), System: sys, Clock: time.Now, Logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))}
}

func newGPUToolCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "tool DIR",
		Short: "print what pins a version of NVIDIA's gpu-admin-tools",
		Long: `Prints the hash of the programs in a directory with a release of NVIDIA's
gpu-admin-tools, as the section gpu_tool of hostd.json: the SHA-256 of what
"find * -name '*.py' | LC_ALL=C sort | xargs sha256sum" writes there. Look at the
programs first: they run as root.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("resolving path: %w", err)
			}
			sum, err := gpumode.Hash(dir)
			if err != nil {
				return err
			}
			return writeIndented(cmd.OutOrStdout(), map[string]any{"gpu_tool": gpumode.Tool{Dir: dir, SHA256: sum}})
		},
	}
}

func newGPURestoreCmd() *cobra.Command {
	f := &hostFlags{}
	var dir string
	cmd := &cobra.Command{
		Use:   "restore [ADDRESS...]",
		Short: "give prepared GPUs back to their drivers, all without arguments",
		Long: `Gives prepared GPUs and NVSwitches back to the drivers that they had. With --hostd
the host daemon does it, which must run as root: it refuses devices that a VM has,
and resets the others first.

Exit codes: 0 restored; 3 the daemon does not answer; 6 one was not prepared, or
is in use.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.asked(cmd) {
				if err := ownState(cmd); err != nil {
					return err
				}
				return f.with(func(c *client.Client) error {
					done, err := c.RestoreGPUs(cmd.Context(), args)
					if err == nil {
						_, err = fmt.Fprintf(cmd.OutOrStdout(), "restored %d devices\n", len(done))
					}
					return err
				})
			}
			sys, err := vfio.NewLinux()
			if err != nil {
				return err
			}
			store, err := vfio.OpenStore(dir)
			if err != nil {
				return err
			}
			defer store.Close()
			before := store.Select(args...)
			if len(before) == 0 && len(args) > 0 {
				return fault.New(fault.ExitNotReady, "gpu.not_prepared", "list what is there: cocoon gpu list", "restoring GPUs: none of these was prepared")
			}
			if err := vfio.Restore(cmd.Context(), vfio.Options{System: sys, Busy: modeSetter(cmd, sys, dir).Busy}, before); err != nil {
				return err
			}
			if err := store.Forget(before); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "restored %d devices\n", len(before))
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&dir, "state-dir", defaultGPUState, "where the owner's drivers are remembered, a `directory`")
	return cmd
}
