package doctor

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"cocoon/hostd/vfio"
)

// Vendors as /proc/cpuinfo has them.
const (
	intel = "GenuineIntel"
	amd   = "AuthenticAMD"
)

// host is what several checks need to know.
type host struct {
	sys System

	vendor, cpu   string
	family, model int
	microcode     string
	flags         map[string]bool

	release       string // of the kernel
	kernel        [2]int
	cmdline       string
	memory        map[string]uint64 // of /proc/meminfo, bytes or counts
	log           string            // of the kernel; empty where it may not be read
	gpus          []vfio.Device
	gpuErr        error
	vbios, driver map[string]string // by PCI address, of GPUs that NVIDIA's driver has
}

// look reads what is cheap to read, once.
func look(ctx context.Context, sys System) *host {
	h := &host{sys: sys, flags: map[string]bool{}, memory: map[string]uint64{}, vbios: map[string]string{}, driver: map[string]string{}}
	h.readCPU()
	h.release = h.text("proc/sys/kernel/osrelease")
	h.kernel = version(h.release)
	h.cmdline = h.text("proc/cmdline")
	h.readMemory()
	if b, err := sys.Run(ctx, "dmesg"); err == nil {
		h.log = string(b)
	}
	h.gpus, h.gpuErr = vfio.List(sys)
	if errors.Is(h.gpuErr, fs.ErrNotExist) {
		h.gpus, h.gpuErr = nil, nil // a machine without PCI
	}
	for _, g := range h.gpus {
		if g.Driver == "nvidia" {
			h.readVBIOS(ctx)
			break
		}
	}
	return h
}

func (h *host) text(name string) string {
	s, err := vfio.ReadTrimmed(h.sys, name)
	if err != nil {
		return ""
	}
	return s
}

func (h *host) exists(name string) bool {
	_, err := fs.Stat(h.sys, name)
	return err == nil
}

// logLine returns the first line of the kernel's log with a text in it.
func (h *host) logLine(part string) string {
	for line := range strings.Lines(h.log) {
		if strings.Contains(line, part) {
			if _, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(line, "[") {
				line = rest
			}
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// readCPU reads the first processor; a machine has only equal ones.
func (h *host) readCPU() {
	b, err := fs.ReadFile(h.sys, "proc/cpuinfo")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(line, ":")
		if !ok {
			return
		}
		v = strings.TrimSpace(v)
		switch strings.TrimSpace(k) {
		case "vendor_id":
			h.vendor = v
		case "model name":
			h.cpu = v
		case "cpu family":
			h.family, _ = strconv.Atoi(v)
		case "model":
			h.model, _ = strconv.Atoi(v)
		case "microcode":
			h.microcode = v
		case "flags":
			for _, f := range strings.Fields(v) {
				h.flags[f] = true
			}
		}
	}
}

func (h *host) readMemory() {
	for line := range strings.Lines(h.text("proc/meminfo")) {
		k, v, _ := strings.Cut(line, ":")
		f := strings.Fields(v)
		if len(f) == 0 {
			continue
		}
		n, err := strconv.ParseUint(f[0], 10, 54)
		if err != nil {
			continue
		}
		if len(f) > 1 && f[1] == "kB" {
			n <<= 10
		}
		h.memory[k] = n
	}
}

// readVBIOS asks the owner's driver; under vfio-pci nobody can be asked.
func (h *host) readVBIOS(ctx context.Context) {
	b, err := h.sys.Run(ctx, "nvidia-smi", "--query-gpu=pci.bus_id,vbios_version,driver_version", "--format=csv,noheader")
	if err != nil || len(b) > 64<<10 {
		return
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ", ")
		if len(f) != 3 || len(f[0]) < 12 {
			continue
		}
		// nvidia-smi writes the domain with eight digits, sysfs with four.
		bdf := strings.ToLower(f[0][len(f[0])-12:])
		h.vbios[bdf], h.driver[bdf] = f[1], f[2]
	}
}

// version returns the first two numbers of a version.
func version(s string) (v [2]int) {
	for i := range v {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		v[i], _ = strconv.Atoi(s[:n])
		if n >= len(s) || s[n] != '.' {
			break
		}
		s = s[n+1:]
	}
	return v
}

func atLeast(v [2]int, major, minor int) bool {
	return v[0] > major || v[0] == major && v[1] >= minor
}
