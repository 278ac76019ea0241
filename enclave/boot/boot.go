// Package boot runs the ordered, named stages of a boot. Each stage is
// reported with its status and duration; the first that fails stops the boot,
// and so does one that takes too long or panics.
package boot

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"cocoon/internal/fault"
)

// Stage is one step of the boot.
type Stage struct {
	Name    string
	Timeout time.Duration // DefaultTimeout where zero
	Run     func(ctx context.Context) error

	// Expand, where it is set, gives the stages that stand here instead; it is
	// called when it is this stage's turn, and knows what those before it found.
	Expand func() []Stage
}

// DefaultTimeout bounds a stage that names no timeout. Software emulation on
// a busy machine is an order of magnitude slower than hardware.
const DefaultTimeout = 60 * time.Second

// Reporter takes what happens to the stages.
type Reporter interface {
	Stage(name, status string, took time.Duration, err error)
}

// Statuses handed to the Reporter; they equal those of package status.
const (
	running = "running"
	ok      = "ok"
	failed  = "failed"
)

// ErrDone is returned by a stage after which nothing is left to do: it has
// passed, the boot ends with it, and Run returns ErrDone.
var ErrDone = errors.New("the machine has done what it was started for")

// Codes of failures that belong to no stage in particular.
const (
	CodeTimeout = "boot.stage_timeout"
	CodePanic   = "boot.stage_panic"
)

// StageError is returned by Run for the stage that failed.
type StageError struct {
	Stage string
	Err   error
}

// Error names the stage.
func (e *StageError) Error() string { return fmt.Sprintf("running boot stage %s: %v", e.Stage, e.Err) }

// Unwrap returns the cause.
func (e *StageError) Unwrap() error { return e.Err }

// Run runs the stages in order and returns a *StageError for the first that
// fails.
func Run(ctx context.Context, clock func() time.Time, r Reporter, stages []Stage) error {
	for _, s := range stages {
		if s.Expand != nil {
			if err := Run(ctx, clock, r, s.Expand()); err != nil {
				return err
			}
			continue
		}
		begin := clock()
		r.Stage(s.Name, running, 0, nil)
		err := runOne(ctx, s)
		took := clock().Sub(begin)
		if err != nil && !errors.Is(err, ErrDone) {
			r.Stage(s.Name, failed, took, err)
			return &StageError{Stage: s.Name, Err: err}
		}
		r.Stage(s.Name, ok, took, nil)
		if err != nil {
			return ErrDone
		}
	}
	return nil
}

func runOne(ctx context.Context, s Stage) error {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	stageCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fault.New(fault.ExitInternal, CodePanic, "report this with the console log",
					"stage %s: %v\n%s", s.Name, p, debug.Stack())
			}
		}()
		done <- s.Run(stageCtx)
	}()
	// A stage that ignores its context must not hold up the power-off.
	grace := time.NewTimer(timeout + time.Second)
	defer grace.Stop()
	late := func(cause error) error {
		return fault.New(fault.ExitNotReady, CodeTimeout, "give the machine more cores or look at the console for what it waits for",
			"stage %s did not finish in %s: %w", s.Name, timeout, cause)
	}
	select {
	case err := <-done:
		if err != nil && errors.Is(stageCtx.Err(), context.DeadlineExceeded) && len(fault.All(err)) == 0 {
			return late(err)
		}
		return err
	case <-grace.C:
		return late(context.DeadlineExceeded)
	}
}
