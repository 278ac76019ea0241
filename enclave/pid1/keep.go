package pid1

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// Pauses before a service is started again.
const (
	MinBackoff  = time.Second
	MaxBackoff  = time.Minute
	StableAfter = time.Minute // a service up this long starts from the first pause again
)

// Kept is a service that is started again whenever it ends, each time after a
// longer pause.
type Kept struct {
	Name string
	// Start starts it and returns once it is of use.
	Start func(ctx context.Context) (*Child, error)
	// Clear ends what a service that ended has left: children, control groups.
	Clear func() error
	Log   *slog.Logger

	mu    sync.Mutex
	child *Child
}

// Child returns the running service, or nil between its end and its next
// start.
func (k *Kept) Child() *Child {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.child
}

func (k *Kept) set(c *Child) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.child = c
}

// Begin starts the service for the first time. Its failure is the caller's.
func (k *Kept) Begin(ctx context.Context) error {
	c, err := k.Start(ctx)
	if err != nil {
		return err
	}
	k.set(c)
	return nil
}

// Run keeps a service that has begun until ctx ends, and leaves it then.
func (k *Kept) Run(ctx context.Context) {
	pause := MinBackoff
	for {
		if c := k.Child(); c != nil {
			begin := time.Now()
			select {
			case <-ctx.Done():
				return
			case <-c.Done:
			}
			k.set(nil)
			k.Log.Error("service ended", "service", k.Name, "err", c.Err())
			if time.Since(begin) > StableAfter {
				pause = MinBackoff
			}
		}
		if err := k.Clear(); err != nil {
			k.Log.Error("service left something", "service", k.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, MaxBackoff)
		if err := k.Begin(ctx); err != nil && ctx.Err() == nil {
			k.Log.Error("service did not come up", "service", k.Name, "err", err)
		}
	}
}

// KillGroup kills every process in a control group and in those below it
// (cgroup v2, cgroup.kill). A group that is not there has none.
func KillGroup(k Kernel, name string) error {
	err := k.WriteFile(filepath.Join(CgroupRoot, name, "cgroup.kill"), []byte("1"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("killing what is in control group %s: %w", name, err)
	}
	return nil
}
