// Package qemu turns a VM spec into QEMU's arguments and speaks QMP. QEMU and
// its firmware come from the pinned tools tree, never from the host, so that
// every machine boots and measures the same (DESIGN section 7).
package qemu

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"cocoon/hostd/spec"
	"cocoon/hostd/vsock"
)

// Accelerators.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)

// TCGModel is the emulated processor: everything that QEMU has, but for what
// makes emulation slow and what no part of the guest needs. With monitor, a
// processor that the firmware has put to sleep spins; with erms and its kin,
// the kernel clears and copies memory byte by byte; la57 adds a level to each
// page walk, mpx and pku to what a switch of tasks saves.
const TCGModel = "max,monitor=off,erms=off,fsrm=off,fzrm=off,fsrs=off,fsrc=off,la57=off,mpx=off,pku=off"

// The serial numbers by which the guest finds its disks, and the name of its
// status port.
const (
	SerialRoot   = "cocoon-root"
	SerialEngine = "cocoon-engine"
	SerialModel  = "cocoon-model" // further ones: cocoon-model-2, -3 and so on
	SerialData   = "cocoon-data"
	StatusPort   = "cocoon.status"
)

// File descriptors that the process inherits: each one end of a socket pair,
// but for the kernel's vsock device.
const (
	FDQMP     = 3
	FDConsole = 4
	FDTPM     = 5 // /dev/null for a guest with a TEE
	FDStatus  = 6 // without vsock
	FDVsock   = 6 // with it
)

// Options are what the arguments depend on besides the spec.
type Options struct {
	Accel    string   // AccelKVM or AccelTCG
	Firmware string   // OVMF.fd, opened read-only
	Cmdline  string   // the kernel command line, exactly as measured
	Relay    []string // argument vector that carries one connection when a target is appended; without vsock
	// Transport is one of package vsock's; empty means virtio-serial.
	Transport string
	CID       uint32 // of the guest, with vsock
	// ConfigSHA256 is the hash of the guest's config, which a TEE binds to
	// the guest; nil where there is no config.
	ConfigSHA256 []byte
	// IDBlock and IDAuth are the content of the spec's files.
	IDBlock, IDAuth []byte
	// DeviceNode says on which host node a device is; one that is not there
	// is anywhere.
	DeviceNode map[string]int
}

// Args returns the arguments of qemu-system-x86_64 for the VM.
//
// There is no way into the guest: no monitor on a path, no inbound port, no
// shared folder, no display. With vsock the guest has no network device at
// all; without it, the user-mode network is restricted to the spec's forwards.
// No device brings firmware into the measurement: the NIC has no option ROM.
func Args(s *spec.Spec, o Options) ([]string, error) {
	if err := checkTEE(s, o); err != nil {
		return nil, err
	}
	a := &args{}
	a.add("-name", "guest="+s.Name+",debug-threads=on")
	a.add("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot")
	a.add("-sandbox", sandbox(s, o))
	machine := "q35,usb=off,vmport=off,hpet=off,dump-guest-core=off" + a.tee(s, o) + a.memory(s, o)
	a.add("-machine", machine)
	switch o.Accel {
	case AccelKVM:
		a.add("-accel", "kvm", "-cpu", cpuModel(s))
	case AccelTCG:
		a.add("-accel", "tcg,thread=multi", "-cpu", TCGModel)
	default:
		return nil, fmt.Errorf("building arguments: unknown accelerator %q", o.Accel)
	}
	a.add("-m", strconv.Itoa(s.MemoryMiB)+"M", "-smp", strconv.Itoa(s.CPUs))
	a.numa(s)
	// As a ROM and not as flash: the variable store lives in memory only, so
	// that nothing persists between boots and PCR 7 is always the same.
	a.add("-bios", o.Firmware)
	a.add("-kernel", filepath.Join(s.Image, spec.KernelFile), "-initrd", filepath.Join(s.Image, spec.InitrdFile), "-append", o.Cmdline)

	a.socket("qmp", FDQMP)
	a.add("-mon", "chardev=qmp,mode=control")
	a.socket("console", FDConsole)
	a.add("-serial", "chardev:console")
	if !s.Confidential() {
		a.socket("tpm", FDTPM)
		a.add("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}

	a.disk("root", filepath.Join(s.Image, spec.RootFile), SerialRoot)
	if s.Packs.Engine != "" {
		a.disk("engine", s.Packs.Engine, SerialEngine)
	}
	for i, path := range s.Packs.ModelPacks() {
		name, serial := "model", SerialModel
		if i > 0 {
			name, serial = fmt.Sprintf("model%d", i+1), fmt.Sprintf("%s-%d", SerialModel, i+1)
		}
		a.disk(name, path, serial)
	}
	if s.DataDisk != nil {
		a.dataDisk(s.DataDisk.Path)
	}
	a.json("-device", map[string]any{"driver": "virtio-rng-pci", "id": "rng"})
	if err := a.channel(s, o); err != nil {
		return nil, err
	}
	a.devices(s, o)
	if s.Config != "" {
		a.fwCfg(spec.ConfigName, s.Config)
	}
	if s.Operator != "" {
		a.fwCfg(spec.OperatorName, s.Operator)
	}
	for _, name := range s.FwCfgNames() {
		a.fwCfg(name, s.FwCfg[name])
	}
	return a.v, a.err
}

// sandbox returns QEMU's own seccomp filter: a compromised QEMU may neither
// use obsolete system calls nor raise its privileges nor start programs.
// Forwards need relays: then starting programs is allowed, and with it
// setsid, which libslirp calls for each and which QEMU counts as raising
// privileges. With vsock hostd itself carries them. The filter sets
// no_new_privs in any case.
func sandbox(s *spec.Spec, o Options) string {
	if len(s.Forwards) > 0 && !o.vsock() {
		return "on,obsolete=deny,resourcecontrol=deny"
	}
	return "on,obsolete=deny,resourcecontrol=deny,elevateprivileges=deny,spawn=deny"
}

type args struct {
	v   []string
	err error
}

func (a *args) add(v ...string) { a.v = append(a.v, v...) }

// json adds an option in JSON form, which needs no escaping of commas.
func (a *args) json(opt string, v map[string]any) {
	b, err := json.Marshal(v)
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("building arguments: %w", err)
	}
	a.add(opt, string(b))
}

func (a *args) socket(id string, fd int) {
	a.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, fd))
}

func (a *args) disk(name, path, serial string) {
	a.json("-blockdev", map[string]any{"driver": "file", "node-name": name + "-file", "filename": path,
		"read-only": true, "auto-read-only": false})
	a.json("-blockdev", map[string]any{"driver": "raw", "node-name": name, "file": name + "-file", "read-only": true})
	a.json("-device", map[string]any{"driver": "virtio-blk-pci", "id": "disk-" + name, "drive": name, "serial": serial})
}

func (o Options) vsock() bool { return o.Transport == vsock.Kernel || o.Transport == vsock.User }

// dataDisk is the only disk that the guest writes. A flush of the guest's
// reaches the host's disk; QEMU locks the file against a second VM.
func (a *args) dataDisk(path string) {
	a.json("-blockdev", map[string]any{"driver": "file", "node-name": "data-file", "filename": path, "locking": "on"})
	a.json("-blockdev", map[string]any{"driver": "raw", "node-name": "data", "file": "data-file"})
	a.json("-device", map[string]any{"driver": "virtio-blk-pci", "id": "disk-data", "drive": "data", "serial": SerialData})
}

// channel is how guest and host talk.
func (a *args) channel(s *spec.Spec, o Options) error {
	switch o.Transport {
	case vsock.Kernel:
		a.json("-device", map[string]any{"driver": "vhost-vsock-pci", "id": "vsock", "guest-cid": o.CID, "vhostfd": strconv.Itoa(FDVsock)})
		return nil
	case vsock.User:
		a.socket("vsock", FDVsock)
		a.json("-device", map[string]any{"driver": "vhost-user-vsock-pci", "id": "vsock", "chardev": "vsock"})
		return nil
	case vsock.Serial, "":
		a.socket("status", FDStatus)
		a.json("-device", map[string]any{"driver": "virtio-serial-pci", "id": "ports", "max_ports": 4})
		a.json("-device", map[string]any{"driver": "virtserialport", "bus": "ports.0", "chardev": "status", "name": StatusPort})
		return a.network(s, o)
	default:
		return fmt.Errorf("building arguments: unknown transport %q", o.Transport)
	}
}

func (a *args) network(s *spec.Spec, o Options) error {
	net := map[string]any{"type": "user", "id": "net", "restrict": true, "ipv6": false}
	var fwd []any
	for _, f := range s.Forwards {
		if len(o.Relay) == 0 {
			return fmt.Errorf("building arguments: forwards without a relay")
		}
		// libslirp splits the command as a shell would (g_shell_parse_argv) and
		// starts one process a connection.
		words := make([]string, 0, len(o.Relay)+1)
		for _, w := range append(append([]string(nil), o.Relay...), f.Target) {
			words = append(words, shellQuote(w))
		}
		fwd = append(fwd, map[string]any{"str": "tcp:" + f.Guest + "-cmd:" + strings.Join(words, " ")})
	}
	if fwd != nil {
		net["guestfwd"] = fwd
	}
	a.json("-netdev", net)
	a.json("-device", map[string]any{"driver": "virtio-net-pci", "id": "nic", "netdev": "net", "romfile": ""})
	return nil
}

func (a *args) fwCfg(name, path string) {
	a.add("-fw_cfg", "name="+spec.FwCfgPrefix+name+",file="+commaEscape(path))
}

// commaEscape doubles commas, which end a value in QEMU's option syntax.
func commaEscape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// shellQuote quotes one word for a POSIX shell's splitting rules.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
