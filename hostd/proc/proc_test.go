package proc

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be a parent that dies.
func TestMain(m *testing.M) {
	if os.Getenv("PROC_TEST_PARENT") != "" {
		c, err := Start(exec.Command("sleep", "600"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.ID.PID, c.ID.Start)
		select {}
	}
	os.Exit(m.Run())
}

func TestAChildDiesWithItsParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "PROC_TEST_PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(line)
	pid, err1 := strconv.Atoi(f[0])
	start, err2 := strconv.ParseUint(f[1], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	id := ID{PID: pid, Start: start}
	if !id.Alive() {
		t.Fatal("the child does not run")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := parent.Wait(); err == nil {
		t.Error("a killed parent ended well")
	}
	if !id.WaitGone(30 * time.Second) {
		t.Error("the child outlived its killed parent")
	}
}

func TestSignalReachesExactlyTheProcessThatIsMeant(t *testing.T) {
	c, err := Start(exec.Command("sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	other := ID{PID: c.ID.PID, Start: c.ID.Start + 1} // the pid, reused
	if err := other.Signal(syscall.SIGKILL); err != nil || other.Alive() {
		t.Errorf("another process with that pid: %v, alive %v", err, other.Alive())
	}
	if !c.ID.Alive() {
		t.Fatal("a signal for another process was delivered")
	}
	if err := c.ID.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("a terminated process ended well")
	}
	if c.ID.Alive() {
		t.Error("a reaped process is alive")
	}
	if err := errors.Join(c.ID.Signal(syscall.SIGTERM), c.Kill()); err != nil {
		t.Errorf("signals after the end: %v", err)
	}
}

func TestStartReportsAProgramThatIsNotThere(t *testing.T) {
	if _, err := Start(exec.Command("/nonexistent/program")); err == nil {
		t.Error("Start succeeded")
	}
}
