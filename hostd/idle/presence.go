package idle

import (
	"context"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// presence is what shows whether somebody is there, beside terminals: desktop
// sessions, as logind has them, and the interrupts of built-in keyboards and
// touchpads. What is typed is read by nobody.
type presence struct {
	irqs    uint64
	counted bool // irqs is of an earlier look
	irqAt   time.Time
}

// Limits of what programs and the kernel say.
const (
	maxSessions   = 64
	maxInterrupts = 1 << 20
)

// inputs are parts of the names under which /proc/interrupts has devices that
// people touch: PS/2 keyboards and mice, touchpads, touchscreens and pens. A
// USB keyboard shares its line with disks and shows by its session.
var inputs = []string{"i8042", "ELAN", "SYNA", "WCOM", "ALPS", "i2c_hid", "rmi4"}

// interrupts returns when an input device last interrupted, as far as looks
// have seen: the zero time before the second.
func (s *Sensors) interrupts(now time.Time) time.Time {
	b, err := fs.ReadFile(s.FS, "proc/interrupts")
	if err != nil || len(b) > maxInterrupts {
		return time.Time{}
	}
	sum := uint64(0)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 || !isInput(line) {
			continue
		}
		for _, n := range f[1:] {
			v, err := strconv.ParseUint(n, 10, 64)
			if err != nil {
				break // the counts of the processors are over
			}
			sum += v
		}
	}
	p := &s.there
	if p.counted && sum != p.irqs {
		p.irqAt = now
	}
	p.irqs, p.counted = sum, true
	return p.irqAt
}

func isInput(name string) bool {
	for _, n := range inputs {
		if strings.Contains(name, n) {
			return true
		}
	}
	return false
}

// sessions returns when somebody was last at a desktop session, as logind says
// (org.freedesktop.login1, Session: IdleHint, IdleSinceHint, LockedHint): now,
// where one is neither idle nor locked; the zero time without one. A desktop
// that never says that it is idle keeps the machine its owner's until it is
// locked or left.
func (s *Sensors) sessions(ctx context.Context, now time.Time) time.Time {
	run := s.Run
	if run == nil {
		run = runProgram
	}
	ctx, cancel := context.WithTimeout(ctx, smiTimeout)
	defer cancel()
	b, err := run(ctx, "loginctl", "list-sessions", "--no-legend")
	if err != nil {
		return time.Time{}
	}
	args := []string{"show-session", "--property=Type,Class,State,IdleHint,IdleSinceHint,LockedHint"}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 && len(args) < maxSessions && strings.Trim(f[0], "0123456789c") == "" {
			args = append(args, f[0])
		}
	}
	if len(args) == 2 {
		return time.Time{}
	}
	if b, err = run(ctx, "loginctl", args...); err != nil {
		return time.Time{}
	}
	var newest time.Time
	for block := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
		v := map[string]string{}
		for line := range strings.Lines(block) {
			if k, text, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				v[k] = text
			}
		}
		at := time.Time{}
		switch {
		case v["Class"] != "user" || v["State"] == "closing":
		case v["Type"] != "x11" && v["Type"] != "wayland" && v["Type"] != "mir":
			// One at a terminal shows by the terminal.
		case v["IdleHint"] == "yes":
			if us, err := strconv.ParseInt(v["IdleSinceHint"], 10, 64); err == nil && us > 0 {
				at = time.UnixMicro(us)
			}
		case v["LockedHint"] == "yes":
		default:
			at = now
		}
		if at.After(newest) {
			newest = at
		}
	}
	return newest
}
