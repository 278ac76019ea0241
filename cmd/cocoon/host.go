package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	hostdv1 "cocoon/api/hostd/v1"
	"cocoon/hostd/client"
	"cocoon/hostd/wire"
	"cocoon/internal/fault"
)

// hostFlags say where the host daemon is.
type hostFlags struct {
	at, ca, cert, key string
}

func (f *hostFlags) register(cmd *cobra.Command) {
	fs := cmd.PersistentFlags()
	fs.StringVar(&f.at, "hostd", client.DefaultSocket(), "the host daemon's `socket`, or https://HOST:PORT; also $COCOON_HOSTD")
	fs.StringVar(&f.ca, "hostd-ca", "", "with https: the PEM `file` of the authority of the daemon's certificate")
	fs.StringVar(&f.cert, "hostd-cert", "", "with https: the PEM `file` of your certificate")
	fs.StringVar(&f.key, "hostd-key", "", "with https: the PEM `file` of its key")
}

// remote says whether the daemon is named by an address.
func (f *hostFlags) remote() bool { return strings.HasPrefix(f.at, "https://") }

// dial returns a client; nothing is called yet.
func (f *hostFlags) dial() (*client.Client, error) {
	if !f.remote() {
		if f.ca != "" || f.cert != "" || f.key != "" {
			return nil, usage("reading --hostd: certificates are for https://HOST:PORT")
		}
		return client.New(f.at), nil
	}
	if f.ca == "" || f.cert == "" || f.key == "" {
		return nil, usage("reading --hostd: https needs --hostd-ca, --hostd-cert and --hostd-key")
	}
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "hostd.tls.ca", "give the PEM file of the authority with --hostd-ca", "reading authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fault.New(fault.ExitParse, "hostd.tls.ca", "give the PEM file of the authority with --hostd-ca", "reading authority: no certificate in %s", f.ca)
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "hostd.tls.certificate", "give certificate and key of one pair", "reading your certificate: %w", err)
	}
	return client.NewTLS(strings.TrimPrefix(f.at, "https://"), &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{pair}}), nil
}

// with calls do with a client.
func (f *hostFlags) with(do func(c *client.Client) error) error {
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// newHostCmd has the verbs that concern the whole host.
func newHostCmd() *cobra.Command {
	f := &hostFlags{}
	cmd := &cobra.Command{
		Use:   "host",
		Short: "see what the host daemon does, and stop all of it for a while",
		Args:  cobra.NoArgs,
	}
	f.register(cmd)
	cmd.AddCommand(newHostStatusCmd(f), newHostFetchCmd(f), newHostDrainCmd(f), newHostResumeCmd(f))
	return cmd
}

func newHostStatusCmd(f *hostFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "say what the host daemon is doing",
		Long: `Shows the daemon, what runs and serves, memory, disk and GPUs, whether the host
is drained, and what the idle mode decided last. What VMs say about themselves is
their own word.

Exit codes: 0 shown; 3 the daemon does not answer.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(func(c *client.Client) error {
				st, err := c.Status(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(st)
					if err != nil {
						return fmt.Errorf("encoding status: %w", err)
					}
					return writeRawJSON(cmd.OutOrStdout(), b)
				}
				_, err = io.WriteString(cmd.OutOrStdout(), hostText(st))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the status as JSON")
	return cmd
}

func hostText(st *hostdv1.StatusResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "hostd %s, process %d, since %s\n", plain(st.Version), st.Pid, st.Started.AsTime().Format(time.RFC3339))
	if st.Ephemeral {
		b.WriteString("VMs end with the daemon\n")
	}
	if st.DrainedSince != nil {
		fmt.Fprintf(&b, "drained since %s: nothing starts before \"cocoon host resume\"\n", st.DrainedSince.AsTime().Format(time.RFC3339))
	}
	b.WriteString("VMs:")
	if len(st.Vms) == 0 {
		b.WriteString(" none")
	}
	for _, phase := range slices.Sorted(maps.Keys(st.Vms)) {
		fmt.Fprintf(&b, " %d %s", st.Vms[phase], plain(phase))
	}
	fmt.Fprintf(&b, "; %d say that they serve, %d requests\n", st.Serving, st.Requests)
	fmt.Fprintf(&b, "memory: %d MiB given, %d MiB available; disk: %d MiB free; GPUs given: %d\n", st.MemoryGivenMib, st.MemoryAvailableMib, st.DiskFreeBytes>>20, st.GpusGiven)
	if st.Idle != nil {
		b.WriteString("idle mode: " + decisionLine(wire.ReadDecision(st.Idle)))
	}
	return b.String()
}

func newHostDrainCmd(f *hostFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "drain",
		Short: "drain and stop every VM, and let none start",
		Long: `Drains and stops every VM, as for work on the machine, and lets none start until
"cocoon host resume", also after a restart. Returns once all have ended.

Exit codes: 0 drained; 3 the daemon does not answer; 6 a VM did not end.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(func(c *client.Client) error {
				names, err := c.Drain(cmd.Context())
				if err != nil {
					return err
				}
				return hostDone(cmd, "drained", names)
			})
		},
	}
}

func newHostResumeCmd(f *hostFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "end a drain, and start the VMs that ran before it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(func(c *client.Client) error {
				names, err := c.Resume(cmd.Context())
				if err != nil {
					return err
				}
				return hostDone(cmd, "resumed", names)
			})
		},
	}
}

func newHostFetchCmd(f *hostFlags) *cobra.Command {
	var sha, name string
	var size int64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fetch URL --name NAME --sha256 HASH",
		Short: "let the host daemon bring an image or a pack by its hash",
		Long: `Lets the daemon bring a file into its directory, and prints its path there, for a
VM's spec. What has arrived when this command ends is kept: run it again to go on.

Exit codes: 0 it is there; 2 another hash or size; 3 network; 5 not a hash; 6 no
room on the disk.`,
		Example: "  cocoon host fetch https://models.example/chat.img --name chat.img --sha256 4fdd3d…0a5e11",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.ErrOrStderr()
			if asJSON {
				out = cmd.OutOrStdout()
			}
			bar := newProgressBar(out, asJSON)
			defer bar.end()
			return f.with(func(c *client.Client) error {
				path, err := c.Fetch(cmd.Context(), name, args[0], sha, size, bar.show)
				if err != nil || asJSON {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), plain(path))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&sha, "sha256", "", "the file's SHA-256, `hex`")
	cmd.Flags().StringVar(&name, "name", "", "the file's `name` on the host")
	cmd.Flags().Int64Var(&size, "size", 0, "the file's size in `bytes`, where you know it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write progress as JSON, one object a line")
	need(cmd, "sha256")
	need(cmd, "name")
	return cmd
}

func hostDone(cmd *cobra.Command, word string, names []string) error {
	what := "no VM"
	if len(names) > 0 {
		what = plain(strings.Join(names, ", "))
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", word, what)
	return err
}

// writeRawJSON writes a JSON document indented.
func writeRawJSON(w io.Writer, b []byte) error {
	return writeIndented(w, json.RawMessage(b))
}
