package childpipe

import (
	"bytes"
	"errors"
	"io/fs"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// held is a writer that takes nothing until it may.
type held struct {
	may chan struct{}
	mu  sync.Mutex
	buf bytes.Buffer
}

func (h *held) Write(b []byte) (int, error) {
	<-h.may
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.Write(b)
}

func begin(t *testing.T, h *held, script string) (*exec.Cmd, *Pipe) {
	t.Helper()
	p, err := New(h)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
	cmd.Stdout = p.Child
	if err := cmd.Start(); err != nil {
		p.Close()
		t.Fatal(err)
	}
	p.Started()
	return cmd, p
}

// A pipe holds 64 KiB; the child has ended before any was taken.
func TestWhatAChildWroteIsReadHoweverLateItsReaderIs(t *testing.T) {
	h := &held{may: make(chan struct{})}
	cmd, p := begin(t, h, "printf '%060000d' 7")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() { p.Drain(); close(drained) }()
	select {
	case <-drained:
		t.Error("it did not wait for its writer")
	case <-time.After(10 * time.Millisecond):
	}
	close(h.may)
	<-drained
	if got := h.buf.String(); got != strings.Repeat("0", 59999)+"7" {
		t.Errorf("%d bytes", len(got))
	}
}

// The process that is left behind holds the pipe until the test is over.
func TestAProcessThatIsLeftBehindIsNotWaitedFor(t *testing.T) {
	h := &held{may: make(chan struct{})}
	close(h.may)
	cmd, p := begin(t, h, "sleep 600 & echo $!")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	p.Drain()
	pid := strings.TrimSpace(h.buf.String())
	if pid == "" {
		t.Fatal("the child's line is not there")
	}
	if out, err := exec.Command("kill", pid).CombinedOutput(); err != nil {
		t.Errorf("the process was gone: %v\n%s", err, out)
	}
}

func TestAPipeWithoutAChildIsGivenUp(t *testing.T) {
	p, err := New(&held{})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}

func TestAProcessThatWritesOnIsNotReadForEver(t *testing.T) {
	h := &held{may: make(chan struct{})}
	close(h.may)
	cmd, p := begin(t, h, "yes >&1 & echo $!")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	p.Drain() // it gets SIGPIPE
	if !strings.Contains(h.buf.String(), "\n") {
		t.Error("nothing was read")
	}
}

func TestRunTakesWhatACommandWroteAndHowItEnded(t *testing.T) {
	var out bytes.Buffer
	var exit *exec.ExitError
	if err := Run(exec.Command("/bin/sh", "-c", "sleep 600 & echo $!; exit 3"), &out); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("got %v", err)
	}
	if b, err := exec.Command("kill", strings.TrimSpace(out.String())).CombinedOutput(); err != nil {
		t.Errorf("%q: %v\n%s", out.String(), err, b)
	}
	if err := Run(exec.Command("/absent"), &out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
