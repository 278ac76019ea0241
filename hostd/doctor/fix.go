package doctor

import (
	"context"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/undo"
)

// Fix is a change of the running system that can be taken back and that a
// reboot takes back anyway.
type Fix struct {
	What  string // the command that does the same
	apply func(ctx context.Context, sys System, u *undo.Stack) error
}

// Fixes are what can be done about the findings.
func (r *Report) Fixes() []Fix { return r.fixes }

func loadModule(name string) *Fix {
	return &Fix{What: "modprobe " + name, apply: func(ctx context.Context, sys System, u *undo.Stack) error {
		if _, err := sys.Run(ctx, "modprobe", name); err != nil {
			return err
		}
		u.Push("modprobe -r "+name, func() error {
			_, err := sys.Run(context.WithoutCancel(ctx), "modprobe", "-r", name)
			return err
		})
		return nil
	}}
}

func pinPower(bdfs []string) *Fix {
	what := ""
	for i, b := range bdfs {
		if i > 0 {
			what += "; "
		}
		what += "echo on > /sys/bus/pci/devices/" + b + "/power/control"
	}
	return &Fix{What: what, apply: func(ctx context.Context, sys System, u *undo.Stack) error {
		for _, b := range bdfs {
			name := "sys/bus/pci/devices/" + b + "/power/control"
			if err := sys.Write(ctx, name, "on"); err != nil {
				return err
			}
			u.Push("echo auto > /"+name, func() error {
				c, cancel := context.WithTimeout(context.WithoutCancel(ctx), fixTimeout)
				defer cancel()
				return sys.Write(c, name, "auto")
			})
		}
		return nil
	}}
}

const fixTimeout = 10 * time.Second

// Apply does the fixes in order. If one fails, those before it are taken back.
func Apply(ctx context.Context, sys System, fixes []Fix) (err error) {
	if len(fixes) > 0 && !sys.Root() {
		return fault.New(fault.ExitNotReady, "doctor.permission", "run as root", "changing the system: this user may not")
	}
	var u undo.Stack
	defer u.UndoInto(&err)
	for _, f := range fixes {
		c, cancel := context.WithTimeout(ctx, fixTimeout)
		ferr := f.apply(c, sys, &u)
		cancel()
		if ferr != nil {
			return fault.New(fault.ExitNotReady, "doctor.fix", "see dmesg; nothing was left changed", "doing %q: %w", f.What, ferr)
		}
	}
	u.Keep()
	return nil
}
