package pid1

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// lives are services, each with how long it lives; a negative one does not
// come up at all.
type lives struct {
	list    []time.Duration
	starts  []time.Time
	cleared int
}

func (l *lives) start(context.Context) (*Child, error) {
	l.starts = append(l.starts, time.Now())
	life := l.list[min(len(l.starts)-1, len(l.list)-1)]
	if life < 0 {
		return nil, errors.New("no memory")
	}
	done := make(chan struct{})
	time.AfterFunc(life, func() { close(done) })
	return &Child{Name: "x", Done: done, err: errors.New("killed")}, nil
}

func TestAServiceThatEndsIsStartedAgainEverLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lives{list: []time.Duration{time.Hour, 0, -1, 0, 2 * time.Minute, 0, 0, 0, 0, 0, 0, 0, 1000 * time.Hour}}
		k := &Kept{Name: "x", Start: l.start, Clear: func() error { l.cleared++; return errors.New("it holds on") }, Log: slog.New(slog.DiscardHandler)}
		if err := k.Begin(t.Context()); err != nil || k.Child() == nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { k.Run(ctx); close(ended) }()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		want := []time.Duration{ // between starts, what was lived included
			time.Hour + time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 2*time.Minute + time.Second,
			2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute,
		}
		if len(l.starts) != len(want)+1 {
			t.Fatalf("%d starts, want %d", len(l.starts), len(want)+1)
		}
		for i, w := range want {
			if got := l.starts[i+1].Sub(l.starts[i]); got != w {
				t.Errorf("start %d came after %s, want %s", i+1, got, w)
			}
		}
		if l.cleared != len(want) || k.Child() == nil {
			t.Errorf("cleared %d times, want %d; child %v", l.cleared, len(want), k.Child())
		}
		cancel()
		<-ended
		if k.Child() == nil {
			t.Error("a running service was given up")
		}
	})
}

func TestAFirstStartThatFailsIsTheCallers(t *testing.T) {
	k := &Kept{Start: (&lives{list: []time.Duration{-1}}).start}
	if err := k.Begin(t.Context()); err == nil || k.Child() != nil {
		t.Errorf("got %v, child %v", err, k.Child())
	}
}

// killer is a kernel of control groups.
type killer struct {
	Linux
	wrote []string
	err   error
}

func (k *killer) WriteFile(path string, data []byte) error {
	k.wrote = append(k.wrote, path+"="+string(data))
	return k.err
}

func TestKillGroup(t *testing.T) {
	k := &killer{}
	if err := KillGroup(k, "cocoon"); err != nil || len(k.wrote) != 1 || k.wrote[0] != "/sys/fs/cgroup/cocoon/cgroup.kill=1" {
		t.Errorf("wrote %v, %v", k.wrote, err)
	}
	if err := KillGroup(&killer{err: fs.ErrNotExist}, "cocoon"); err != nil {
		t.Errorf("a group that is not there: %v", err)
	}
	if err := KillGroup(&killer{err: fs.ErrPermission}, "cocoon"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
}
