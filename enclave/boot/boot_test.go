package boot

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
)

type log []string

func (l *log) Stage(name, status string, took time.Duration, err error) {
	*l = append(*l, fmt.Sprintf("%s %s %d %v", name, status, took.Milliseconds(), err != nil))
}

// clock advances by a second at each call.
func clock() func() time.Time {
	now := time.Unix(0, 0)
	return func() time.Time { now = now.Add(time.Second); return now }
}

func ok1(context.Context) error { return nil }

func TestStagesRunInOrder(t *testing.T) {
	var l log
	if err := Run(context.Background(), clock(), &l, []Stage{{Name: "a", Run: ok1}, {Name: "b", Run: ok1}}); err != nil {
		t.Fatal(err)
	}
	want := log{"a running 0 false", "a ok 1000 false", "b running 0 false", "b ok 1000 false"}
	if diff := cmp.Diff(want, l); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

func TestTheFirstFailureStopsTheBoot(t *testing.T) {
	var l log
	cause := errors.New("no disk")
	err := Run(context.Background(), clock(), &l, []Stage{
		{Name: "a", Run: func(context.Context) error { return cause }},
		{Name: "b", Run: func(context.Context) error { t.Error("stage b ran"); return nil }},
	})
	var se *StageError
	if !errors.As(err, &se) || se.Stage != "a" || !errors.Is(err, cause) {
		t.Errorf("got %v, want a StageError of stage a with its cause", err)
	}
	if diff := cmp.Diff(log{"a running 0 false", "a failed 1000 true"}, l); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

func TestAPanicIsAFailureOfItsStage(t *testing.T) {
	var l log
	err := Run(context.Background(), clock(), &l, []Stage{{Name: "a", Run: func(context.Context) error { panic("oh") }}})
	if !fault.Has(err, CodePanic) {
		t.Errorf("got %v, want %s", err, CodePanic)
	}
}

func TestAStageThatTakesTooLongIsAFailure(t *testing.T) {
	for name, run := range map[string]func(context.Context) error{
		"heeds its context":   func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("waiting: %w", ctx.Err()) },
		"ignores its context": func(context.Context) error { select {} },
	} {
		t.Run(name, func(t *testing.T) {
			var l log
			err := Run(context.Background(), clock(), &l, []Stage{{Name: "a", Timeout: time.Millisecond, Run: run}})
			if !fault.Has(err, CodeTimeout) {
				t.Errorf("got %v, want %s", err, CodeTimeout)
			}
		})
	}
}

func TestALateFaultKeepsItsOwnCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		err := Run(t.Context(), clock(), &l, []Stage{{Name: "a", Timeout: time.Millisecond, Run: func(ctx context.Context) error {
			<-ctx.Done()
			return fault.New(fault.ExitNetwork, "verifier.unreachable", "", "calling: %w", ctx.Err())
		}}})
		if !fault.Has(err, "verifier.unreachable") || fault.Has(err, CodeTimeout) {
			t.Errorf("got %v, want the stage's own fault", err)
		}
	})
}

func TestAStopIsNotATimeout(t *testing.T) {
	var l log
	ctx, cancel := context.WithCancel(context.Background())
	err := Run(ctx, clock(), &l, []Stage{{Name: "a", Run: func(ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() }}})
	if !errors.Is(err, context.Canceled) || fault.Has(err, CodeTimeout) {
		t.Errorf("got %v, want the cancellation", err)
	}
}

func TestAStageMayStandForOthers(t *testing.T) {
	var l log
	known := false
	err := Run(context.Background(), clock(), &l, []Stage{
		{Name: "a", Run: func(context.Context) error { known = true; return nil }},
		{Name: "group", Expand: func() []Stage {
			if !known {
				t.Error("the group was asked before its turn")
			}
			return []Stage{{Name: "b", Run: ok1}, {Name: "c", Run: func(context.Context) error { return errors.New("no GPU") }}}
		}},
		{Name: "none", Expand: func() []Stage { t.Error("a stage after a failure was asked"); return nil }},
	})
	var se *StageError
	if !errors.As(err, &se) || se.Stage != "c" {
		t.Errorf("got %v, want a StageError of stage c", err)
	}
	want := log{"a running 0 false", "a ok 1000 false", "b running 0 false", "b ok 1000 false", "c running 0 false", "c failed 1000 true"}
	if diff := cmp.Diff(want, l); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

func TestAStageCanEndTheBootWell(t *testing.T) {
	var l log
	done := func(context.Context) error { return fmt.Errorf("it is: %w", ErrDone) }
	err := Run(context.Background(), clock(), &l, []Stage{
		{Expand: func() []Stage { return []Stage{{Name: "a", Run: done}, {Name: "b", Run: ok1}} }}, {Name: "c", Run: ok1}})
	if !errors.Is(err, ErrDone) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(log{"a running 0 false", "a ok 1000 false"}, l); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}
