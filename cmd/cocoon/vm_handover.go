package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cocoon/enclave/handover"
	"cocoon/internal/fault"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
)

type handoverFlags struct {
	listen, own, peer, ownCollateral, peerCollateral, ticket string
	timeout                                                  time.Duration
}

func newVMHandoverCmd() *cobra.Command {
	f := &handoverFlags{}
	cmd := &cobra.Command{
		Use:   "handover --from MANIFEST --to MANIFEST --ticket FILE",
		Short: "carry a data disk's key from one image's VM to the next",
		Long: `Carry the key of a data disk from the VM that has it to the next image's.

Both VMs have this address as "handover" in operator.json and in their forwards;
the next one is started without the disk and with "takeover": true. Each proves
itself to the other; what this command sees opens nothing. It writes a ticket,
with which the next image's VM opens the disk: give it as fw_cfg file
ticket.json.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.listen, "listen", "127.0.0.1:4434", "`address` that the VMs' forwards lead to")
	fs.StringVar(&f.own, "from", "", "manifest `file` of the image that has the disk")
	fs.StringVar(&f.peer, "to", "", "manifest `file` of the next image")
	fs.StringVar(&f.ownCollateral, "from-collateral", "", "collateral `file` for the first VM's evidence (TDX, CRLs, RIMs)")
	fs.StringVar(&f.peerCollateral, "to-collateral", "", "the same for the next VM's")
	fs.StringVar(&f.ticket, "ticket", "", "`file` to write the ticket to")
	fs.DurationVar(&f.timeout, "timeout", 15*time.Minute, "how long to wait for both")
	for _, name := range []string{"from", "to", "ticket"} {
		_ = cmd.MarkFlagRequired(name) // the flag is there
	}
	return cmd
}

func (f *handoverFlags) run(cmd *cobra.Command) error {
	m, err := f.material()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return fault.New(fault.ExitNotReady, "handover.listen", "name a free address of this machine with --listen", "listening: %w", err)
	}
	defer l.Close()
	fmt.Fprintf(cmd.ErrOrStderr(), "cocoon: waiting for both machines at %s\n", l.Addr())
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	ticket, err := handover.Carry(ctx, l, m, func(role string) { fmt.Fprintf(cmd.ErrOrStderr(), "cocoon: the %s is here\n", role) })
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.ticket, ticket, 0o644); err != nil { // it is nobody's secret
		return fmt.Errorf("writing the ticket: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "ticket written to %s\n", f.ticket)
	return nil
}

func (f *handoverFlags) material() (handover.Material, error) {
	var m handover.Material
	var own, peer []byte
	for _, in := range []struct {
		flag, path string
		limit      int
		to         *[]byte
	}{
		{"--from", f.own, manifest.MaxEnvelope, &m.Own}, {"--to", f.peer, manifest.MaxEnvelope, &m.Peer},
		{"--from-collateral", f.ownCollateral, evidence.MaxEvidence, &own}, {"--to-collateral", f.peerCollateral, evidence.MaxEvidence, &peer},
	} {
		if in.path == "" {
			continue
		}
		b, err := readInput(in.flag, in.path, in.limit)
		if err != nil {
			return m, err
		}
		*in.to = b
	}
	m.OwnCollateral, m.PeerCollateral = json.RawMessage(own), json.RawMessage(peer)
	return m, nil
}
