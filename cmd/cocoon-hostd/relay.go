package main

import (
	"os"

	"github.com/spf13/cobra"

	"cocoon/hostd/relay"
)

// newRelayCmd carries one connection of a guest; QEMU starts it.
func newRelayCmd() *cobra.Command {
	var slots string
	cmd := &cobra.Command{
		Use:    "relay HOST:PORT|unix:/PATH",
		Short:  "carry the connection on standard input to a target (started by QEMU)",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		Run: func(cmd *cobra.Command, args []string) {
			// Standard error is the guest's connection: nothing may be written
			// there, so a failure shows as the connection's end and exit code.
			if err := serveRelay(cmd, slots, args[0]); err != nil {
				os.Exit(1)
			}
		},
	}
	cmd.Flags().StringVar(&slots, "slots", "", "directory of lock files that bound the number of relays")
	return cmd
}

func serveRelay(cmd *cobra.Command, slots, target string) error {
	if slots != "" {
		slot, err := relay.Slot(slots, relay.DefaultMax)
		if err != nil {
			return err
		}
		defer slot.Close()
	}
	guest, err := relay.Guest()
	if err != nil {
		return err
	}
	return relay.Serve(cmd.Context(), guest, target)
}
