package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/netconfig"
	"cocoon/contracts/coin"
	"cocoon/hostd/doctor"
	"cocoon/hostd/idle"
	"cocoon/hostd/pccs"
	"cocoon/hostd/spec"
	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
	"cocoon/measurements/pcr"
	"cocoon/verifier/collateral/forecast"
	"cocoon/verifier/nvgpu/services"
)

// doctorFlags are the flags of "cocoon doctor".
type doctorFlags struct {
	rimFlags
	fix, json  bool
	state      string
	tools      string
	spec       string
	driver     string
	quote      string
	collateral string
	early      string
	dcapRoots  string
	idlePolicy string
	pckid      string
	pccs       string
	tonConfig  string
	wallet     addressFlag
	low        string
}

func newDoctorCmd() *cobra.Command {
	f := &doctorFlags{}
	cmd := &cobra.Command{
		Use:   "doctor [--fix] [--spec FILE] [--ton-config FILE] [--driver VERSION]",
		Short: "say whether this machine can serve, and what to do",
		Long: `Examines this machine: CPU, firmware, kernel, QEMU, IOMMU, GPUs, memory, disk,
clock and, where it is told of them, the network, the wallet and the platform's
TCB. It changes nothing, and takes at most five seconds. As root it sees more;
what could not be seen never counts as good.

--fix lists what it would do and does it: loads kernel modules and pins the
power of GPUs. A reboot takes all of it back; if one thing fails, so does the
doctor, at once.

Exit codes: 0 ready for production; 7 ready for development only; 6 not ready.`,
		Example: `  sudo cocoon doctor
  sudo cocoon doctor --fix
  cocoon doctor --json --spec vm.json --driver 550.90.07`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd, f) },
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.fix, "fix", false, "do what can be taken back about the findings, after listing it")
	fs.BoolVar(&f.json, "json", false, "write the report as JSON")
	fs.StringVar(&f.state, "state", "/var/lib/cocoon-hostd", "hostd's state `directory`, for the space in it")
	fs.StringVar(&f.tools, "tools", "", "tools tree `directory`; default: $"+toolstree.EnvDir+", or build/tools of the repository")
	fs.StringVar(&f.spec, "spec", "", "see whether what the forwards of this VM spec `file` name can be reached")
	fs.StringVar(&f.driver, "driver", "", "the `version` of NVIDIA's driver in the image, to look for its reference measurements")
	fs.StringVar(&f.quote, "quote", "", "forecast the TCB of the platform that made the quote in this `file`")
	fs.StringVar(&f.collateral, "collateral", "", "with this collateral, a JSON `file` or a directory, instead of Intel's service")
	fs.StringVar(&f.early, "early", "", "and with this one of the next evaluation, a JSON `file` or a directory")
	fs.StringVar(&f.dcapRoots, "roots", "", "trust the root certificates in this PEM `file` instead of Intel's")
	fs.StringVar(&f.pckid, "pckid", "", "ask the PCCS whether it knows the platform with the identifiers in this `file`, as PCKIDRetrievalTool -f writes them")
	fs.StringVar(&f.pccs, "pccs", "", "the `address` of that PCCS; default: as /etc/sgx_default_qcnl.conf has it")
	fs.StringVar(&f.idlePolicy, "idle", "", "read this idle policy `file`")
	fs.StringVar(&f.tonConfig, "ton-config", "", "see whether the lite-servers of this global.config.json `file` answer")
	fs.Var(&f.wallet, "wallet", "the wallet that pays for messages, a TON `address`")
	fs.StringVar(&f.low, "wallet-low", "1", "warn if the wallet has less than this `amount` of TON")
	f.register(cmd)
	return cmd
}

func runDoctor(cmd *cobra.Command, f *doctorFlags) error {
	o, err := f.options(cmd)
	if err != nil {
		return err
	}
	rep := doctor.Run(cmd.Context(), *o)
	if fixes := rep.Fixes(); f.fix && len(fixes) > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "fixing; a reboot takes it back:")
		for _, x := range fixes {
			fmt.Fprintln(cmd.ErrOrStderr(), "  "+plain(x.What))
		}
		if err := doctor.Apply(cmd.Context(), o.System, fixes); err != nil {
			return err
		}
		rep = doctor.Run(cmd.Context(), *o)
	}
	return writeReport(cmd.OutOrStdout(), f.json, rep, func() string { return doctorText(rep) }, []error{rep.Err()})
}

// options turns flags into what the doctor asks.
func (f *doctorFlags) options(cmd *cobra.Command) (*doctor.Options, error) {
	var tools *toolstree.Tree
	var tree toolstree.Tree
	var err error
	if f.tools != "" {
		tree, err = toolstree.At(f.tools)
	} else {
		tree, err = toolstree.Find()
	}
	if err == nil {
		tools = &tree
	} else if f.tools != "" {
		return nil, err
	}
	sys, err := doctor.NewLinux(tools)
	if err != nil {
		return nil, err
	}
	o := &doctor.Options{System: sys, StateDir: f.state, Driver: f.driver, KnownFirmware: map[string]string{}}
	known, err := pcr.Recorded()
	if err != nil {
		return nil, err
	}
	for _, w := range known.Firmwares {
		o.KnownFirmware[w.SHA256.String()] = w.Name
	}
	if tools != nil {
		o.Firmware = strings.TrimPrefix(tools.OVMF(), "/")
	}
	if f.spec != "" {
		s, err := spec.Load(f.spec)
		if err != nil {
			return nil, err
		}
		for _, w := range s.Forwards {
			if !strings.HasPrefix(w.Target, "unix:") {
				o.Reach = append(o.Reach, w.Target)
			}
		}
	}
	now, err := f.now()
	if err != nil {
		return nil, err
	}
	o.RIM = func(ctx context.Context, arch, driver, vbios string) error {
		c, err := f.client(io.Discard, now)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Preflight(ctx, services.Query{Arch: arch, Driver: driver, VBIOS: vbios})
		return err
	}
	if f.pckid != "" {
		if err := f.platform(o); err != nil {
			return nil, err
		}
	}
	if f.idlePolicy != "" {
		o.IdlePolicy = func() (string, error) {
			p, err := idle.Load(f.idlePolicy)
			if err != nil {
				return "", err
			}
			return p.Summary(), nil
		}
	}
	if f.quote != "" {
		o.Forecast = func(ctx context.Context) (*forecast.Report, error) { return f.forecast(ctx) }
	}
	if f.tonConfig != "" {
		low, err := coin.Parse(f.low)
		if err != nil {
			return nil, usage("reading --wallet-low: %w", err)
		}
		o.Ledger = func(ctx context.Context) (*doctor.Ledger, error) { return f.ledger(ctx, sys, int64(low)) }
	}
	return o, nil
}

// platform lets the doctor ask for the platform's certificate.
func (f *doctorFlags) platform(o *doctor.Options) error {
	doc, err := readInput("--pckid", f.pckid, pccs.MaxID)
	if err != nil {
		return err
	}
	id, err := pccs.ParseID(doc)
	if err != nil {
		return fault.New(fault.ExitParse, "pccs.id.parse", "make it with Intel's PCKIDRetrievalTool -f FILE", "%w", err)
	}
	t := &collateralFlags{roots: f.dcapRoots}
	roots, err := t.trusted()
	if err != nil {
		return err
	}
	o.Platform = func(ctx context.Context, at string, any bool) (string, error) {
		if f.pccs != "" {
			at = f.pccs
		}
		return pccs.Ask(ctx, pccs.Options{URL: at, Roots: roots, AnyCertificate: any}, id)
	}
	return nil
}

func (f *doctorFlags) forecast(ctx context.Context) (*forecast.Report, error) {
	t := &tcbStatusFlags{collateralFlags: collateralFlags{collateral: f.collateral, roots: f.dcapRoots, at: f.at, noCache: f.noCache}, early: f.early}
	now, err := t.now()
	if err != nil {
		return nil, err
	}
	in := &forecast.Input{Now: now}
	if in.Roots, err = t.trusted(); err != nil {
		return nil, err
	}
	if in.Quote, err = readQuote(f.quote); err != nil {
		return nil, err
	}
	if _, err := t.sets(ctx, io.Discard, in); err != nil {
		return nil, err
	}
	return forecast.Make(in)
}

// ledger counts the servers that answer and proves the newest block.
func (f *doctorFlags) ledger(ctx context.Context, sys doctor.System, low int64) (_ *doctor.Ledger, err error) {
	cfg, err := netconfig.Load(f.tonConfig)
	if err != nil {
		return nil, err
	}
	l := &doctor.Ledger{Servers: len(cfg.Servers), Balance: -1, Low: low}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range cfg.Servers {
		wg.Go(func() {
			if sys.Dial(ctx, s.Addr) == nil {
				mu.Lock()
				defer mu.Unlock()
				l.Reachable++
			}
		})
	}
	defer wg.Wait()
	c, err := chain.OpenFile(f.tonConfig, chain.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	head, err := c.Head(ctx)
	if err != nil {
		return nil, err
	}
	l.Seqno = head.SeqNo
	if f.wallet.set {
		st, err := c.Account(ctx, f.wallet.Addr())
		if err != nil {
			return nil, err
		}
		if l.Balance = 1 << 62; st.Balance.IsInt64() {
			l.Balance = st.Balance.Int64()
		}
	}
	return l, nil
}

func doctorText(r *doctor.Report) string {
	var b strings.Builder
	ready := map[string]string{doctor.Production: "ready for production", doctor.Development: "ready for development only", doctor.NotReady: "not ready"}[r.Ready]
	fmt.Fprintf(&b, "%s\n", ready)
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "  %-4s  %-18s %s\n", c.Status, c.ID, plain(c.Finding))
		if c.Remedy != "" && c.Status != doctor.Pass {
			fmt.Fprintf(&b, "        %-18s hint: %s\n", "", plain(c.Remedy))
		}
	}
	return b.String()
}
