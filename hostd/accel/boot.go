package accel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"cocoon/hostd/proc"
)

// Marks on the serial console. The kernel has no root to mount, so that it
// ends in a panic: it has run from its first instruction to its last.
const (
	markFirmware = "BdsDxe"
	markKernel   = "Kernel panic - not syncing: VFS"
	markKVMError = "KVM internal error"
)

// ErrTimeout is returned when the probe's boot gave no sign in time.
var ErrTimeout = errors.New("no sign of life in time")

// BootKVM boots the firmware, and the kernel where there is one, with KVM,
// and returns nil once it has seen it run.
func BootKVM(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35,usb=off,dump-guest-core=off",
		"-accel", "kvm", "-cpu", "host", "-m", "256M", "-smp", "1", "-bios", o.Firmware, "-serial", "stdio"}
	mark := markFirmware
	if o.Kernel != "" {
		mark = markKernel
		args = append(args, "-kernel", o.Kernel, "-append", "console=ttyS0 panic=-1")
	}
	w := &watcher{good: []byte(mark), bad: []byte(markKVMError), found: make(chan bool, 1)}
	cmd := o.Tools.Command(context.WithoutCancel(ctx), "qemu-system-x86_64", args...)
	cmd.Stdout, cmd.Stderr = w, w
	child, err := proc.Start(cmd)
	if err != nil {
		return err
	}
	var verdict error
	select {
	case good := <-w.found:
		verdict = w.judge(good)
	case <-child.Done():
		select {
		case good := <-w.found:
			verdict = w.judge(good)
		default:
			verdict = fmt.Errorf("qemu ended: %w: %s", child.Wait(), w.last())
		}
	case <-ctx.Done():
		verdict = fmt.Errorf("%w: %s", ErrTimeout, Timeout)
	}
	return errors.Join(verdict, child.Kill())
}

// watcher looks for two marks in what is written to it.
type watcher struct {
	good, bad []byte
	found     chan bool

	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (w *watcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, b...)
	if good := bytes.Contains(w.buf, w.good); good || bytes.Contains(w.buf, w.bad) {
		select {
		case w.found <- good:
		default:
		}
	}
	if n := len(w.buf) - 64<<10; n > 0 {
		w.buf = append(w.buf[:0], w.buf[n:]...)
	}
	return len(b), nil
}

func (w *watcher) judge(good bool) error {
	if good {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	text := string(w.buf)
	if i := strings.Index(text, markKVMError); i >= 0 {
		text = text[i:]
	}
	// The first line and, where it has come already, the next, which has details.
	line, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if next, _, whole := strings.Cut(rest, "\n"); whole {
		line = strings.TrimSpace(line) + ", " + strings.TrimSpace(next)
	}
	return errors.New(strings.TrimSpace(line))
}

func (w *watcher) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(w.buf), "?")), "\n")
	s := lines[len(lines)-1]
	return s[:min(len(s), 256)]
}
