// Package hosttest simulates hosts for tests: a description in txtar comes in,
// and out goes a host whose files, PCI devices, registers, programs and network
// are as described, and that binds, unbinds and resets devices as Linux does.
//
// The descriptions in testdata are synthesised from documentation, not
// recorded: no TDX, SNP or GPU machine was at hand. testdata/README.md says
// from which.
package hosttest

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

//go:embed testdata/*.txtar
var descriptions embed.FS

const pciDevices = "sys/bus/pci/devices/"

// Machine is a simulated host.
type Machine struct {
	fstest.MapFS

	mu       sync.Mutex
	regs     map[string]map[int64]uint32
	commands map[string]string
	net      map[string]bool
	set      map[string]string

	// Hang names files a write to which never ends by itself; Fail those
	// where it fails.
	Hang map[string]bool
	Fail map[string]error
	// OnReset is called with the address of a device that was reset.
	OnReset func(bdf string)
	// Writes are the names written to, in order.
	Writes []string
}

// Names returns the names of the machines there are.
func Names() []string {
	entries, err := descriptions.ReadDir("testdata")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".txtar"))
	}
	return out
}

// New returns the machine of testdata/NAME.txtar.
func New(t testing.TB, name string) *Machine {
	t.Helper()
	m := &Machine{MapFS: fstest.MapFS{}, regs: map[string]map[int64]uint32{}, commands: map[string]string{},
		net: map[string]bool{}, set: map[string]string{}, Hang: map[string]bool{}, Fail: map[string]error{}}
	if err := m.load(name, 0); err != nil {
		t.Fatalf("machine %s: %v", name, err)
	}
	return m
}

func (m *Machine) load(name string, depth int) error {
	b, err := descriptions.ReadFile("testdata/" + name + ".txtar")
	if err != nil || depth > 3 {
		return fmt.Errorf("reading its description: %w", errors.Join(err))
	}
	for _, f := range txtar.Parse(b).Files {
		text := string(f.Data)
		switch {
		case f.Name == "base":
			err = m.load(strings.TrimSpace(text), depth+1)
		case f.Name == "remove":
			for _, prefix := range strings.Fields(text) {
				m.remove(prefix)
			}
		case f.Name == "pci":
			err = eachLine(text, m.addDevice)
		case f.Name == "links":
			err = eachLine(text, func(line string) error {
				from, to, ok := strings.Cut(line, " -> ")
				if !ok {
					return fmt.Errorf("%q is no link", line)
				}
				m.Link(from, to)
				return nil
			})
		case f.Name == "dirs":
			for _, d := range strings.Fields(text) {
				m.MapFS[d] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			}
		case f.Name == "net":
			for _, addr := range strings.Fields(text) {
				m.net[addr] = true
			}
		case f.Name == "host":
			err = eachLine(text, func(line string) error {
				k, v, _ := strings.Cut(line, "=")
				m.set[k] = v
				return nil
			})
		case strings.HasPrefix(f.Name, "cmd/"):
			m.commands[strings.TrimPrefix(f.Name, "cmd/")] = text
		default:
			m.MapFS[f.Name] = &fstest.MapFile{Data: f.Data, Mode: 0o644}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func eachLine(text string, f func(string) error) error {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := f(line); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) remove(prefix string) {
	for name := range m.MapFS {
		if strings.HasPrefix(name, prefix) {
			delete(m.MapFS, name)
		}
	}
	delete(m.commands, prefix)
	delete(m.net, prefix)
	if bdf, ok := strings.CutPrefix(prefix, pciDevices); ok {
		delete(m.regs, bdf)
	}
}

// Link makes a symbolic link.
func (m *Machine) Link(from, to string) {
	m.MapFS[from] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
}

func (m *Machine) file(name, text string) {
	m.MapFS[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
}

// addDevice makes the files of a device: "BDF VENDOR:DEVICE CLASS key=value…"
// with driver, group, numa, bar (size in GiB), power, reset=no, and registers
// as 0xOFFSET=VALUE.
func (m *Machine) addDevice(line string) error {
	f := strings.Fields(line)
	vendor, id, ok := strings.Cut(f[min(1, len(f)-1)], ":")
	if len(f) < 3 || !ok {
		return fmt.Errorf("%q is no device", line)
	}
	bdf, dir := f[0], pciDevices+f[0]
	m.file(dir+"/vendor", "0x"+vendor+"\n")
	m.file(dir+"/device", "0x"+id+"\n")
	m.file(dir+"/class", "0x"+f[2]+"\n")
	m.file(dir+"/numa_node", "0\n")
	m.file(dir+"/power/control", "on\n")
	m.file(dir+"/driver_override", "(null)\n")
	m.file(dir+"/reset", "")
	m.file(dir+"/resource", resource(0))
	m.regs[bdf] = map[int64]uint32{}
	for _, kv := range f[3:] {
		k, v, _ := strings.Cut(kv, "=")
		switch {
		case k == "driver":
			m.MapFS["sys/bus/pci/drivers/"+v] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			m.Link(dir+"/driver", "../../drivers/"+v)
			m.set["owner "+bdf] = v
		case k == "owner":
			m.MapFS["sys/bus/pci/drivers/"+v] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			m.set["owner "+bdf] = v
		case k == "group":
			m.Link(dir+"/iommu_group", "../../../../kernel/iommu_groups/"+v)
			m.Link("sys/kernel/iommu_groups/"+v+"/devices/"+bdf, "../../../../bus/pci/devices/"+bdf)
		case k == "numa":
			m.file(dir+"/numa_node", v+"\n")
		case k == "power":
			m.file(dir+"/power/control", v+"\n")
		case k == "reset":
			delete(m.MapFS, dir+"/reset")
		case k == "bar":
			gib, err := strconv.ParseUint(v, 10, 16)
			if err != nil {
				return err
			}
			m.file(dir+"/resource", resource(gib))
		case strings.HasPrefix(k, "0x"):
			at, err1 := strconv.ParseInt(k, 0, 64)
			val, err2 := strconv.ParseUint(v, 0, 32)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			m.regs[bdf][at] = uint32(val)
		default:
			return fmt.Errorf("%q: %q is unknown", line, k)
		}
	}
	return nil
}

// resource is a device with BAR0 of 16 MiB and a BAR1 of some GiB.
func resource(gib uint64) string {
	s := "0x00000000c0000000 0x00000000c0ffffff 0x0000000000140204\n"
	if gib > 0 {
		s += fmt.Sprintf("%#018x %#018x 0x000000000014220c\n", uint64(1)<<44, uint64(1)<<44+gib<<30-1)
	}
	return s
}

// SetRegister changes a register; a device without any does not answer.
func (m *Machine) SetRegister(bdf string, at int64, v uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.regs[bdf][at] = v
}

// Register reads a register of BAR0.
func (m *Machine) Register(name string, at int64) (uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.Root() {
		return 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	regs, ok := m.regs[path.Base(path.Dir(name))]
	if !ok {
		return 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	v, ok := regs[at]
	if !ok {
		return 0xffffffff, nil
	}
	return v, nil
}

// Write changes a file of sysfs with what the kernel does then.
func (m *Machine) Write(ctx context.Context, name, data string) error {
	m.mu.Lock()
	m.Writes = append(m.Writes, name)
	hang, fail := m.Hang[name], m.Fail[name]
	m.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if fail != nil {
		return fail
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.Root() {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	bdf := strings.TrimSpace(data)
	switch {
	case name == "sys/bus/pci/drivers_probe":
		m.probe(bdf)
	case strings.HasSuffix(name, "/driver/unbind"):
		if path.Dir(path.Dir(name)) != strings.TrimSuffix(pciDevices+bdf, "/") {
			return fs.ErrInvalid
		}
		delete(m.MapFS, path.Dir(name))
	case strings.HasSuffix(name, "/reset"):
		if _, ok := m.MapFS[name]; !ok {
			return fs.ErrNotExist
		}
		if m.OnReset != nil {
			m.mu.Unlock()
			m.OnReset(path.Base(path.Dir(name)))
			m.mu.Lock()
		}
	case strings.HasSuffix(name, "/driver_override") && bdf == "":
		m.file(name, "(null)\n")
	default:
		if _, ok := m.MapFS[name]; !ok {
			return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		m.file(name, bdf+"\n")
	}
	return nil
}

// probe binds a device to its override, or to the driver that owns it.
func (m *Machine) probe(bdf string) {
	dir := pciDevices + bdf
	if _, bound := m.MapFS[dir+"/driver"]; bound {
		return
	}
	driver := m.set["owner "+bdf]
	if f := m.MapFS[dir+"/driver_override"]; f != nil && !strings.HasPrefix(string(f.Data), "(null)") {
		driver = strings.TrimSpace(string(f.Data))
	}
	if _, ok := m.MapFS["sys/bus/pci/drivers/"+driver]; ok && driver != "" {
		m.Link(dir+"/driver", "../../drivers/"+driver)
	}
}

// Run answers with the described output of a program.
func (m *Machine) Run(_ context.Context, name string, args ...string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	line := strings.Join(append([]string{name}, args...), " ")
	if name == "modprobe" {
		if !m.Root() {
			return nil, fs.ErrPermission
		}
		module := args[len(args)-1]
		m.Writes = append(m.Writes, line)
		if err := m.Fail[line]; err != nil {
			return nil, err
		}
		for dir, marker := range map[string]string{"vfio-pci": "sys/bus/pci/drivers/vfio-pci", "vhost_vsock": "dev/vhost-vsock", "iommufd": "dev/iommu"} {
			if dir != module {
				continue
			}
			if args[0] == "-r" {
				delete(m.MapFS, marker)
			} else {
				m.MapFS[marker] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			}
		}
		return nil, nil
	}
	out, ok := m.commands[line]
	if !ok {
		return nil, fmt.Errorf("running %s: %w", name, fs.ErrNotExist)
	}
	return []byte(out), nil
}

// Dial reaches the described addresses only.
func (m *Machine) Dial(_ context.Context, addr string) error {
	if !m.net[addr] {
		return fmt.Errorf("dialing %s: no route to host", addr)
	}
	return nil
}

// FreeBytes is the described free space ("free_gib") everywhere.
func (m *Machine) FreeBytes(string) (uint64, error) {
	n, err := strconv.ParseUint(m.set["free_gib"], 10, 32)
	return n << 30, err
}

// ClockSynchronised is described by "clock".
func (m *Machine) ClockSynchronised() (bool, error) { return m.set["clock"] == "synchronised", nil }

// Now is described by "now".
func (m *Machine) Now() time.Time {
	now, err := time.Parse(time.RFC3339, m.set["now"])
	if err != nil {
		return time.Time{}
	}
	return now
}

// Root is described by "root".
func (m *Machine) Root() bool { return m.set["root"] == "yes" }

// Command gives a program another output.
func (m *Machine) Command(line, output string) { m.commands[line] = output }

// Unreachable takes an address out of the network.
func (m *Machine) Unreachable(addr string) { delete(m.net, addr) }

// Unplug takes a device out.
func (m *Machine) Unplug(bdf string) { m.remove(pciDevices + bdf) }

// Set changes a word of the description's "host".
func (m *Machine) Set(k, v string) { m.set[k] = v }
