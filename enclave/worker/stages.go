package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/enclave/boot"
	"cocoon/enclave/engine"
	"cocoon/enclave/firewall"
	"cocoon/enclave/fwcfg"
	"cocoon/enclave/keys"
	"cocoon/enclave/netdev"
	"cocoon/enclave/pack"
	"cocoon/enclave/pid1"
	"cocoon/enclave/status"
	"cocoon/enclave/vsock"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// stages returns the boot in its order. What is measured comes before every
// key (DESIGN section 2: measured before any key is derived), attestation
// before serving. background ends with the machine; stop ends it.
func (w *Worker) stages(background context.Context, stop context.CancelFunc) []boot.Stage {
	return []boot.Stage{
		{Name: "modules", Timeout: 2 * time.Minute, Run: w.loadModules},
		{Name: "mounts", Run: w.mounts},
		{Name: "devices", Run: func(ctx context.Context) error { return w.devices(ctx, background, stop) }},
		{Name: "clock", Run: w.clock},
		{Name: "network", Run: w.network},
		{Name: "config", Run: w.readConfig},
		{Name: "ciphers", Expand: w.cipherStages},
		{Name: "firewall", Run: func(context.Context) error { return w.openFlows(background) }},
		{Name: "platform", Run: w.openPlatform},
		{Name: "gpus", Expand: w.gpuStages},
		{Name: "latch", Run: w.latch},
		{Name: "gpu-ready", Expand: w.gpuReady},
		{Name: "keys", Run: w.makeKeys},
		{Name: "takeover", Expand: w.takeover},
		{Name: "data", Timeout: 10 * time.Minute, Run: w.openData},
		{Name: "chain", Timeout: 2 * time.Minute, Run: w.openChain},
		{Name: "anchor", Timeout: 10 * time.Minute, Run: func(ctx context.Context) error { return w.holdData(ctx, background) }},
		{Name: "model-key", Expand: w.modelKeyStages},
		{Name: "model", Expand: func() []boot.Stage { return w.perModel("model", 5*time.Minute, w.packs) }},
		{Name: "containerd", Timeout: 2 * time.Minute, Run: func(ctx context.Context) error { return w.startContainerd(ctx, background) }},
		{Name: "engine", Expand: func() []boot.Stage {
			return w.perModel("engine", 35*time.Minute, func(ctx context.Context) error { return w.startEngine(ctx, background) })
		}},
		{Name: "enrol", Expand: w.enrolStages},
		{Name: "evidence", Expand: func() []boot.Stage { return w.perModel("evidence", 2*time.Minute, w.collect) }},
		{Name: "verdict", Expand: func() []boot.Stage {
			return w.perModel("verdict", 2*time.Minute, func(ctx context.Context) error { return w.judge(ctx, background) })
		}},
		{Name: "ledger", Run: w.openLedger},
		{Name: "serve", Timeout: 2 * time.Minute, Run: func(ctx context.Context) error { return w.serve(ctx, background) }},
	}
}

// perModel is a stage that takes so long for each model of the config.
func (w *Worker) perModel(name string, each time.Duration, run func(context.Context) error) []boot.Stage {
	return []boot.Stage{{Name: name, Timeout: time.Duration(1+len(w.config.Models)) * each, Run: run}}
}

func (w *Worker) mounts(context.Context) error {
	if err := pid1.MountAll(pid1.Linux{}, pid1.Mounts()); err != nil {
		return err
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return fmt.Errorf("making run directory: %w", err)
	}
	if err := pid1.LinkDevices(pid1.Linux{}); err != nil {
		return err
	}
	if err := pid1.Cgroups(pid1.Linux{}, pid1.Groups()); err != nil {
		return err
	}
	return pid1.Harden(pid1.Linux{})
}

// devices opens the status channel, over vsock or a virtio-serial port as the
// host has it, and watches the power button.
func (w *Worker) devices(ctx, background context.Context, stop context.CancelFunc) error {
	// Ctrl-Alt-Del becomes a signal; the default is a reset without a stop.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("switching off Ctrl-Alt-Del: %w", err)
	}
	pid1.WatchButton(background, stop)
	w.watch()
	find, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	sys := os.DirFS("/sys")
	name, err := pid1.WaitFor(find, func() (string, error) {
		if vsock.Present(sys) {
			return "", nil
		}
		return pid1.PortByName(sys, status.PortName)
	})
	if err != nil {
		// The console has every line, too.
		w.log.Warn("no status channel", "err", err)
		return nil
	}
	if name == "" {
		return w.openVsock(background)
	}
	port, err := pid1.OpenPort(name)
	if err != nil {
		return err
	}
	w.rep.Attach(port)
	w.listen(background, port)
	return nil
}

// watch starts the watchdog, which is for availability alone: a machine
// without one serves, too.
func (w *Worker) watch() {
	dog, err := pid1.OpenWatchdog(pid1.WatchdogPath, pid1.WatchdogTimeout)
	if err != nil {
		w.log.Warn("no watchdog", "err", err)
		return
	}
	w.dog = dog
	dog.Well(wellFor)
	// Not only until the end is asked for: the end itself may hang.
	go dog.Run(context.Background())
}

func (w *Worker) clock(context.Context) error {
	if now := time.Now(); !pid1.ClockSane(now) {
		return fault.Mismatch(fault.ExitNotReady, "boot.clock", "the machine's clock", "a time between 2026 and 2056",
			now.UTC().Format(time.RFC3339), "set the host's clock; the guest reads it at boot")
	}
	return nil
}

// network closes the firewall, then brings the network up behind it: with
// vsock the loopback device alone.
func (w *Worker) network(ctx context.Context) error {
	if err := firewall.Close(); err != nil {
		return err
	}
	if w.vsock != nil {
		return netdev.Loopback(netdev.Netlink{})
	}
	err := netdev.Setup(ctx, netdev.Netlink{}, netdev.Default())
	if errors.Is(err, netdev.ErrNoDevice) {
		return fault.New(fault.ExitNotReady, "boot.network_absent", "give the machine a virtio network device without an option ROM", "%w", err)
	}
	return err
}

// readConfig reads both documents. The config must be byte for byte the
// RFC 8785 form of itself, since its hash is what everyone compares; the
// operator's file decides nothing about secrecy or identity.
func (w *Worker) readConfig(context.Context) error {
	files := os.DirFS(fwcfg.Dir)
	var errs []error
	doc, err := fwcfg.Read(files, fwcfg.Config, evidence.MaxConfig)
	if err == nil {
		w.config, err = evidence.ParseConfig(doc)
	}
	errs = append(errs, configFault("config.json", err))
	doc, err = fwcfg.Read(files, fwcfg.Operator, evidence.MaxConfig)
	if err == nil {
		w.operator, err = evidence.ParseOperator(doc)
	}
	errs = append(errs, configFault("operator.json", err))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := w.operator.CheckModels(w.config); err != nil {
		return configFault("operator.json", err)
	}
	// Refused before it is measured: arguments outside the image's list.
	return engine.Check(w.config)
}

func configFault(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.ExitNotReady, "config.absent", "start the machine with fw_cfg file opt/cocoon/"+name, "reading %s: %w", name, err)
	default:
		return fault.New(fault.ExitParse, "config.parse", "write "+name+" in RFC 8785 form with known fields only", "reading %s: %w", name, err)
	}
}

func (w *Worker) packs(ctx context.Context) error {
	engine, errE := pack.Mount(ctx, pack.Linux{}, pack.Pack{Name: "engine", Serial: pack.SerialEngine, Verity: w.config.Engine.Verity, Exec: true})
	errs := []error{errE}
	w.loading = time.Now()
	for i, m := range w.config.ServedModels() {
		p := pack.Model(i)
		p.Verity = m.Verity
		if w.modelKeys != nil {
			p.Key, w.modelKeys[i] = w.modelKeys[i], nil // Mount wipes it
		}
		mounted, err := pack.Mount(ctx, pack.Linux{}, p)
		errs = append(errs, err)
		w.models = append(w.models, served{config: m, pack: mounted})
	}
	w.engineDir = engine.Dir
	return errors.Join(errs...)
}

// startEngine starts an engine for each model, one after the other: together
// they have the memory and the cores that one would have.
func (w *Worker) startEngine(ctx, background context.Context) error {
	adapter, err := engine.AdapterFor(w.config.Engine.Kind)
	if err != nil {
		return err
	}
	sizes := make([]uint64, len(w.models))
	for i, s := range w.models {
		if sizes[i], err = pack.Size(os.DirFS(s.pack.Dir)); err != nil {
			return err
		}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("reading memory size: %w", err)
	}
	limits, err := engine.MemoryLimits(uint64(info.Totalram)*uint64(info.Unit), sizes)
	if err != nil {
		return err
	}
	for i := range w.models {
		s := &w.models[i]
		if s.engine, err = w.newEngine(adapter, i, limits[i]); err != nil {
			return err
		}
		loaded := w.watchLoad(ctx, os.DirFS("/sys"), s.pack)
		err = s.engine.Start(ctx)
		loaded()
		if err != nil {
			return err
		}
		w.goBackground(func() { s.engine.Supervise(background) })
	}
	return nil
}

// newEngine returns the manager of model i's engine.
func (w *Worker) newEngine(adapter engine.Adapter, i int, memory uint64) (*engine.Manager, error) {
	container, err := w.container(adapter, i, memory)
	if err != nil {
		return nil, err
	}
	var runtime engine.Runtime = w.containerd
	if len(w.models) > 1 {
		runtime = w.containerd.Named(filepath.Base(container.SocketDir))
	}
	return engine.New(engine.Options{
		Runtime: runtime, Adapter: adapter, Container: container,
		Model: w.models[i].config.Name, UID: engine.ContainerUID, Log: w.log,
	}), nil
}

// container describes model i's engine. One of several has a socket of its own,
// and of the GPUs those that the config gives it.
func (w *Worker) container(adapter engine.Adapter, i int, memory uint64) (engine.Container, error) {
	s := &w.models[i]
	source, err := adapter.Source(os.DirFS(s.pack.Dir))
	if err != nil {
		return engine.Container{}, err
	}
	c := *w.config
	c.Model = s.config
	argv, err := adapter.Argv(&c, source)
	if err != nil {
		return engine.Container{}, err
	}
	container := engine.Container{
		Rootfs: w.engineDir, Argv: argv, ModelDir: s.pack.Dir, SocketDir: Dir + "/engine", Memory: memory, CPUs: cpus() / float64(len(w.models)),
	}
	adapter.Shape(&container)
	if len(w.models) == 1 {
		return container, nil
	}
	container.SocketDir = fmt.Sprintf("%s/engine-%d", Dir, i+1)
	if len(container.Devices) > 0 {
		gpus, _ := w.config.GPUs.Of(i, len(w.models))
		container.Devices = engine.GPUDevices(gpus)
	}
	return container, nil
}

func (w *Worker) makeKeys(context.Context) error {
	k, err := keys.New(rand.Reader)
	if err != nil {
		return err
	}
	w.keys = k
	hash, err := w.config.Hash()
	if err != nil {
		return err
	}
	w.rep.Report(status.Line{Type: status.TypeWorker, Worker: &status.Worker{
		ReceiptKey: k.ReceiptPublic().String(), TLSSPKISHA256: k.SPKI.String(), ConfigSHA256: hash.String(),
		Model: w.config.Model.Name, Models: w.furtherNames(), Payout: w.operator.Payout,
	}})
	return nil
}

// furtherNames are the models beside the first.
func (w *Worker) furtherNames() []string {
	var names []string
	for _, m := range w.config.Models {
		names = append(names, m.Name)
	}
	return names
}
