package gpu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/enclave/gpu/wire"
	"cocoon/enclave/pid1"
)

// Programs of the image.
const (
	programNVML    = "/usr/bin/cocoon-nvml"
	programPersist = "/usr/bin/nvidia-persistenced"
	programFabric  = "/usr/bin/nv-fabricmanager"
	programCTK     = "/usr/bin/nvidia-ctk"
)

// Linux is the running machine.
type Linux struct {
	Root   string // of /sys, /proc, /dev and /usr; empty: the machine's
	Reaper *pid1.Reaper
	Self   string // path of this program, for pid1.Output
	Log    *slog.Logger
}

func (l *Linux) path(p string) string { return filepath.Join(l.Root, p) }

// NVIDIA's PCI vendor, and what its functions are by class and device (PCI
// Code and ID Assignment Specification; LS10's device ID).
const (
	vendorNVIDIA = "0x10de"
	classVGA     = "0x0300"
	class3D      = "0x0302"
	classBridge  = "0x0680"
	deviceLS10   = "0x22a3"
)

// Functions implements System.
func (l *Linux) Functions() ([]Function, error) {
	base := l.path("/sys/bus/pci/devices")
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, err
	}
	var out []Function
	for _, e := range entries {
		read := func(name string) string {
			b, err := os.ReadFile(filepath.Join(base, e.Name(), name))
			if err != nil {
				return ""
			}
			return strings.TrimSpace(string(b))
		}
		if read("vendor") != vendorNVIDIA {
			continue
		}
		f := Function{Address: e.Name()}
		switch class := read("class"); {
		case strings.HasPrefix(class, classVGA), strings.HasPrefix(class, class3D):
			f.Kind = wire.KindGPU
		case strings.HasPrefix(class, classBridge) && read("device") == deviceLS10:
			f.Kind = wire.KindSwitch
		}
		out = append(out, f)
	}
	return out, nil
}

// Reset implements System. A write that does not come back is left behind: the
// machine ends.
func (l *Linux) Reset(ctx context.Context, address string) (bool, error) {
	file := l.path("/sys/bus/pci/devices/" + address + "/reset")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(file, []byte("1"), 0) }()
	select {
	case err := <-done:
		return err == nil, err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Alive implements System: a device that is gone reads as all ones.
func (l *Linux) Alive(address string) bool {
	f, err := os.Open(l.path("/sys/bus/pci/devices/" + address + "/config"))
	if err != nil {
		return false
	}
	defer f.Close()
	var id [4]byte
	_, err = f.Read(id[:])
	return err == nil && id != [4]byte{0xff, 0xff, 0xff, 0xff}
}

// compressedFile is MODULE_INIT_COMPRESSED_FILE of linux/module.h.
const compressedFile = 4

// LoadModule implements System. The module comes from the measured root, and
// the kernel checks its signature.
func (l *Linux) LoadModule(name, parameters string) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	release := unix.ByteSliceToString(uts.Release[:])
	found, err := filepath.Glob(l.path("/usr/lib/modules/" + release + "/*/" + name + ".ko*"))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("the image has %d modules %s for kernel %s", len(found), name, release)
	}
	f, err := os.Open(found[0])
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(found[0], ".ko") {
		flags = compressedFile
	}
	if err := unix.FinitModule(int(f.Fd()), parameters, flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return os.NewSyscallError("finit_module", err)
	}
	return nil
}

// majorNVIDIA is the driver's fixed device number (Linux
// Documentation/admin-guide/devices.txt: 195, nvidia), with the control device
// at minor 255.
const (
	majorNVIDIA  = 195
	minorControl = 255
)

// MakeNodes implements System. The driver makes no nodes itself; its numbers
// are in /proc.
func (l *Linux) MakeNodes() error {
	majors, err := l.majors()
	if err != nil {
		return err
	}
	nodes := map[string]uint64{"nvidiactl": unix.Mkdev(majorNVIDIA, minorControl)}
	infos, err := filepath.Glob(l.path("/proc/driver/nvidia/gpus/*/information"))
	if err != nil {
		return err
	}
	for _, name := range infos {
		minor, err := deviceMinor(name)
		if err != nil {
			return err
		}
		nodes["nvidia"+strconv.Itoa(minor)] = unix.Mkdev(majorNVIDIA, uint32(minor))
	}
	if len(infos) == 0 {
		return errors.New("the driver found no GPU")
	}
	uvm, ok := majors["nvidia-uvm"]
	if !ok {
		return errors.New("nvidia-uvm has no device number")
	}
	nodes["nvidia-uvm"], nodes["nvidia-uvm-tools"] = unix.Mkdev(uvm, 0), unix.Mkdev(uvm, 1)
	if sw, ok := majors["nvidia-nvswitch"]; ok {
		nodes["nvidia-nvswitchctl"] = unix.Mkdev(sw, minorControl)
		fs, err := l.Functions()
		if err != nil {
			return err
		}
		n := 0
		for _, f := range fs {
			if f.Kind == wire.KindSwitch {
				nodes["nvidia-nvswitch"+strconv.Itoa(n)] = unix.Mkdev(sw, uint32(n))
				n++
			}
		}
	}
	for name, dev := range nodes {
		if err := l.mknod(name, dev); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
	}
	return nil
}

// mknod makes a device that everybody may open: the driver decides what for.
func (l *Linux) mknod(name string, dev uint64) error {
	path := l.path("/dev/" + name)
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(dev)); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return os.Chmod(path, 0o666)
}

// majors reads the device numbers of character devices.
func (l *Linux) majors() (map[string]uint32, error) {
	b, err := os.ReadFile(l.path("/proc/devices"))
	if err != nil {
		return nil, err
	}
	out := map[string]uint32{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) == 2 && fields[0] == "Block" {
			break
		}
		if len(fields) != 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 12); err == nil {
			out[fields[1]] = uint32(n)
		}
	}
	return out, nil
}

// deviceMinor reads a GPU's minor number from the driver's information file.
func deviceMinor(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "Device Minor" {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil || n < 0 || n >= minorControl {
				return 0, fmt.Errorf("reading %s: minor %.16q", file, value)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("reading %s: it names no minor", file)
}

// environment of NVIDIA's programs.
func environment() []string { return []string{"PATH=/usr/bin", "HOME=/", "LANG=C"} }

// Persist implements System. The daemon's first process ends well once the
// daemon holds the GPUs.
func (l *Linux) Persist(ctx context.Context) error {
	c, err := pid1.StartService(ctx, l.Reaper, l.Self, pid1.Service{
		Name: pid1.RowPersist, Path: programPersist, Args: []string{"--uvm-persistence-mode", "--verbose"},
		Env: environment(), Harden: pid1.Table()[pid1.RowPersist],
	}, l.Log)
	if err != nil {
		return err
	}
	select {
	case <-c.Done:
	case <-ctx.Done():
		c.Stop(0)
		return ctx.Err()
	}
	return c.Err()
}

const (
	fabricDir  = "/run/cocoon/fabric"
	fabricData = "/usr/share/nvidia/nvswitch"
)

// fabricConfig runs the fabric manager in the foreground, on the loopback
// device alone, for one machine that has all GPUs and switches (NVIDIA "Fabric
// Manager User Guide", configuration options). A failed link stops it.
const fabricConfig = `DAEMONIZE=0
LOG_LEVEL=4
LOG_USE_SYSLOG=0
LOG_FILE_NAME=` + fabricDir + `/log
LOG_FILE_MAX_SIZE=1
LOG_MAX_ROTATE_COUNT=1
STATE_FILE_NAME=` + fabricDir + `/state
TOPOLOGY_FILE_PATH=` + fabricData + `
DATABASE_PATH=` + fabricData + `
BIND_INTERFACE_IP=127.0.0.1
FM_CMD_BIND_INTERFACE=127.0.0.1
FABRIC_MODE=0
FABRIC_MODE_RESTART=0
FM_STAY_RESIDENT_ON_FAILURES=0
ACCESS_LINK_FAILURE_MODE=1
TRUNK_LINK_FAILURE_MODE=1
NVSWITCH_FAILURE_MODE=1
`

// Fabric implements System.
func (l *Linux) Fabric(ctx context.Context) error {
	if err := os.MkdirAll(fabricDir, 0o700); err != nil {
		return err
	}
	config := filepath.Join(fabricDir, "fabricmanager.cfg")
	if err := os.WriteFile(config, []byte(fabricConfig), 0o600); err != nil {
		return err
	}
	c, err := pid1.StartService(ctx, l.Reaper, l.Self, pid1.Service{
		Name: pid1.RowFabric, Path: programFabric, Args: []string{"-c", config},
		Env: environment(), Harden: pid1.Table()[pid1.RowFabric],
	}, l.Log)
	if err != nil {
		return err
	}
	// What is wrong with its configuration ends it at once; the GPUs' state
	// says the rest.
	select {
	case <-c.Done:
		return errors.Join(errors.New("the fabric manager ended"), c.Err())
	case <-time.After(time.Second):
		return nil
	case <-ctx.Done():
		c.Stop(0)
		return ctx.Err()
	}
}

// Where containerd looks for descriptions of devices (Container Device
// Interface), and how long one may be.
const (
	cdiDir = "/run/cdi"
	maxCDI = 1 << 20
)

// Describe implements System: NVIDIA's toolkit writes the description to its
// standard output, as a program without rights.
func (l *Linux) Describe(ctx context.Context) error {
	out, err := pid1.Output(ctx, l.Reaper, l.Self, pid1.Service{
		Name: pid1.RowNVML, Path: programCTK, Args: []string{"cdi", "generate", "--format=json"},
		Env: environment(), Harden: pid1.Table()[pid1.RowNVML],
	}, nil, maxCDI, l.Log)
	if err != nil {
		return err
	}
	return l.describe(out)
}

// describe keeps a description of NVIDIA's GPUs, and nothing else.
func (l *Linux) describe(doc []byte) error {
	var spec struct {
		Kind    string            `json:"kind"`
		Devices []json.RawMessage `json:"devices"`
	}
	if err := json.Unmarshal(doc, &spec); err != nil {
		return fmt.Errorf("reading the description: %w", err)
	}
	if spec.Kind != "nvidia.com/gpu" || len(spec.Devices) == 0 {
		return fmt.Errorf("reading the description: %d devices of kind %.64q", len(spec.Devices), spec.Kind)
	}
	if err := os.MkdirAll(l.path(cdiDir), 0o755); err != nil {
		return err
	}
	return os.WriteFile(l.path(cdiDir+"/nvidia.json"), doc, 0o600)
}

// Ask implements System: one process for one request, as a user without
// rights but for the request that takes an administrator.
func (l *Linux) Ask(ctx context.Context, r *wire.Request) (*wire.Reply, error) {
	doc, err := wire.Marshal(r)
	if err != nil {
		return nil, err
	}
	row := pid1.RowNVML
	if r.Op == wire.OpReady {
		row = pid1.RowNVMLReady
	}
	out, err := pid1.Output(ctx, l.Reaper, l.Self, pid1.Service{
		Name: row, Path: programNVML, Env: environment(), Harden: pid1.Table()[row],
	}, doc, wire.MaxReply, l.Log)
	if err != nil {
		return nil, err
	}
	return wire.ParseReply(out, r.Op)
}
