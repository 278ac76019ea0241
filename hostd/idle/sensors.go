package idle

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Sensors look at the machine.
type Sensors struct {
	// FS is the machine's files, without a leading slash.
	FS fs.FS
	// Run returns the output of a program; nil: the machine's.
	Run   func(ctx context.Context, name string, args ...string) ([]byte, error)
	Clock func() time.Time
	CPUs  int // processors; 0: as the runtime counts

	there presence
}

const (
	maxPriceFile = 64
	// priceFresh is how old a price may be.
	priceFresh = time.Hour
)

// Look observes. What cannot be seen stays nil. ours is how many processors
// the VM may be using.
func (s *Sensors) Look(ctx context.Context, p *Policy, ours int) *Observation {
	o := &Observation{Time: s.Clock().UTC(), Load: s.load(ours), Mains: s.mains()}
	if p.Presence {
		o.Touched = s.touched(ctx)
	}
	if p.PriceFile != "" {
		o.Price = s.price(strings.TrimPrefix(p.PriceFile, "/"))
	}
	if p.MaxGPU > 0 || p.OwnGPU {
		o.GPU, o.GPUPrograms = s.gpu(ctx)
	}
	return o
}

func (s *Sensors) load(ours int) *float64 {
	b, err := fs.ReadFile(s.FS, "proc/loadavg")
	f := strings.Fields(string(b))
	if err != nil || len(f) == 0 {
		return nil
	}
	v, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		return nil
	}
	n := s.CPUs
	if n == 0 {
		n = runtime.NumCPU()
	}
	v = max(v-float64(ours), 0) / float64(n)
	return &v
}

// mains reads the power supplies (Linux, ABI/testing/sysfs-class-power). A
// machine without a battery is on mains.
func (s *Sensors) mains() *bool {
	const dir = "sys/class/power_supply"
	entries, err := fs.ReadDir(s.FS, dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	battery, on := false, false
	for _, e := range entries {
		kind, err := fs.ReadFile(s.FS, dir+"/"+e.Name()+"/type")
		if err != nil {
			continue
		}
		switch strings.TrimSpace(string(kind)) {
		case "Battery":
			battery = true
		case "Mains", "USB":
			if b, err := fs.ReadFile(s.FS, dir+"/"+e.Name()+"/online"); err == nil && strings.TrimSpace(string(b)) == "1" {
				on = true
			}
		}
	}
	v := on || !battery
	return &v
}

// touched is the time since somebody was there: input at any terminal, as w(1)
// has it (the kernel changes a terminal's access time when it is read from), at
// a desktop session, or at a built-in input device.
func (s *Sensors) touched(ctx context.Context) *int {
	now := s.Clock()
	newest := s.interrupts(now)
	if at := s.sessions(ctx, now); at.After(newest) {
		newest = at
	}
	for _, pattern := range []string{"dev/tty[0-9]*", "dev/pts/[0-9]*"} {
		names, err := fs.Glob(s.FS, pattern)
		if err != nil {
			return nil
		}
		for _, n := range names {
			fi, err := fs.Stat(s.FS, n)
			if err != nil {
				continue
			}
			at, ok := accessTime(fi)
			if !ok {
				at = fi.ModTime()
			}
			if at.After(newest) {
				newest = at
			}
		}
	}
	v := int(min(max(now.Sub(newest), 0), 365*24*time.Hour) / time.Second)
	return &v
}

// price reads a file of one number, nanoton per million tokens.
func (s *Sensors) price(name string) *uint64 {
	fi, err := fs.Stat(s.FS, name)
	if err != nil || fi.Size() > maxPriceFile || s.Clock().Sub(fi.ModTime()) > priceFresh {
		return nil
	}
	b, err := fs.ReadFile(s.FS, name)
	if err != nil {
		return nil
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return nil
	}
	return &v
}

// accessTime takes the access time out of what package os returns.
func accessTime(fi fs.FileInfo) (time.Time, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Time{}, false
	}
	return time.Unix(st.Atim.Unix()), true
}
