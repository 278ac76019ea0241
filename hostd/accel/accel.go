// Package accel decides how QEMU runs a guest: with KVM only where a probe
// has booted with it, by emulation (TCG) everywhere else. That /dev/kvm exists
// proves nothing: nested or paravirtual KVM may be unable to run firmware or
// an ordinary kernel (DESIGN section 7).
package accel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cocoon/hostd/qemu"
	"cocoon/internal/jcs"
)

// Timeout bounds the probe's boot. With working KVM firmware and kernel take
// two seconds.
const Timeout = 10 * time.Second

// CacheFile is the name of the remembered decision.
const CacheFile = "accel.json"

// Tools finds and prepares programs of the pinned tools tree.
type Tools interface {
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
	Path(name string) (string, error)
}

// Options of a decision.
type Options struct {
	Tools    Tools
	Firmware string           // OVMF.fd
	Kernel   string           // booted behind the firmware; empty: firmware alone
	Dir      string           // where the decision is remembered; empty: not
	Force    string           // qemu.AccelKVM or qemu.AccelTCG: no probe
	KVM      string           // device; default /dev/kvm
	BootID   string           // file; default /proc/sys/kernel/random/boot_id
	Clock    func() time.Time // now
	// Boot runs the probe; default: BootKVM.
	Boot func(ctx context.Context, o Options) error
}

// Decision is which accelerator to use, and why.
type Decision struct {
	Accel  string    `json:"accelerator"` // qemu.AccelKVM or qemu.AccelTCG
	Reason string    `json:"reason"`
	Kernel bool      `json:"kernel"` // whether a kernel was part of the probe
	Key    string    `json:"key"`    // what it holds for: this boot, this QEMU, this firmware
	At     time.Time `json:"at"`
}

// Decide returns the accelerator. It probes at most once a boot of the host,
// QEMU and firmware; an error means that not even that could be found out.
func Decide(ctx context.Context, o Options) (Decision, error) {
	if o.KVM == "" {
		o.KVM = "/dev/kvm"
	}
	if o.BootID == "" {
		o.BootID = "/proc/sys/kernel/random/boot_id"
	}
	if o.Boot == nil {
		o.Boot = BootKVM
	}
	switch o.Force {
	case "", "auto":
	case qemu.AccelKVM, qemu.AccelTCG:
		return Decision{Accel: o.Force, Reason: "set by the operator", At: o.Clock().UTC()}, nil
	default:
		return Decision{}, fmt.Errorf("choosing accelerator: %q is not auto, kvm or tcg", o.Force)
	}
	// Asked each time: rights can change while the host runs.
	f, err := os.OpenFile(o.KVM, os.O_RDWR, 0)
	if err != nil {
		return Decision{Accel: qemu.AccelTCG, Reason: fmt.Sprintf("kvm is not usable: %v", err), At: o.Clock().UTC()}, nil
	}
	f.Close()
	key, err := cacheKey(o)
	if err != nil {
		return Decision{}, err
	}
	if d, ok := cached(o, key); ok {
		return d, nil
	}
	d := Decision{Accel: qemu.AccelKVM, Kernel: o.Kernel != "", Key: key, At: o.Clock().UTC()}
	what := "firmware"
	if d.Kernel {
		what = "firmware and kernel"
	}
	if err := o.Boot(ctx, o); err != nil {
		if ctx.Err() != nil {
			return Decision{}, fmt.Errorf("probing kvm: %w", ctx.Err())
		}
		d.Accel, d.Reason = qemu.AccelTCG, fmt.Sprintf("%s exists but cannot boot %s: %v", o.KVM, what, err)
	} else {
		d.Reason = "a probe booted " + what + " with kvm"
	}
	return d, remember(o, d)
}

func cacheKey(o Options) (string, error) {
	id, err := os.ReadFile(o.BootID)
	if err != nil {
		return "", fmt.Errorf("reading boot id: %w", err)
	}
	program, err := o.Tools.Path("qemu-system-x86_64")
	if err != nil {
		return "", fmt.Errorf("probing kvm: %w", err)
	}
	parts := []string{strings.TrimSpace(string(id))}
	for _, p := range []string{program, o.Firmware} {
		sum, err := hashFile(p)
		if err != nil {
			return "", fmt.Errorf("probing kvm: %w", err)
		}
		parts = append(parts, sum)
	}
	return strings.Join(parts, " "), nil
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// cached returns the remembered decision if it holds for key. One for KVM
// that saw firmware alone does not speak for kernels.
func cached(o Options, key string) (Decision, bool) {
	if o.Dir == "" {
		return Decision{}, false
	}
	b, err := os.ReadFile(filepath.Join(o.Dir, CacheFile))
	if err != nil {
		return Decision{}, false
	}
	var d Decision
	if err := jcs.Decode(b, 64<<10, &d); err != nil || d.Key != key {
		return Decision{}, false
	}
	switch {
	case d.Accel == qemu.AccelTCG, d.Accel == qemu.AccelKVM && (d.Kernel || o.Kernel == ""):
		return d, true
	}
	return Decision{}, false
}

func remember(o Options, d Decision) error {
	if o.Dir == "" {
		return nil
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return fmt.Errorf("remembering accelerator: %w", err)
	}
	f, err := os.CreateTemp(o.Dir, ".accel-*")
	if err != nil {
		return fmt.Errorf("remembering accelerator: %w", err)
	}
	defer os.Remove(f.Name())
	_, werr := f.Write(append(b, '\n'))
	if err := errors.Join(werr, f.Close()); err != nil {
		return fmt.Errorf("remembering accelerator: %w", err)
	}
	if err := os.Rename(f.Name(), filepath.Join(o.Dir, CacheFile)); err != nil {
		return fmt.Errorf("remembering accelerator: %w", err)
	}
	return nil
}
