package pid1

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// output runs a shell command through a hardening row.
func output(ctx context.Context, row Hardening, limit int, stdin, script string) (string, error) {
	b, err := Output(ctx, NewReaper(), "/proc/self/exe", Service{
		Name: "probe", Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Harden: row,
	}, []byte(stdin), limit, slog.New(slog.DiscardHandler))
	return string(b), err
}

func TestOutputIsWhatTheProgramWroteAndNoMore(t *testing.T) {
	ctx := context.Background()
	if got, err := output(ctx, Hardening{}, 16, "hello", "cat; echo noise >&2"); err != nil || got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := output(ctx, Hardening{}, 4, "hello", "cat"); !errors.Is(err, ErrOutput) {
		t.Errorf("one byte too many: got %q, %v", got, err)
	}
	if _, err := output(ctx, Hardening{}, 16, "", "exit 3"); err == nil {
		t.Error("a program that fails passed")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := output(ended, Hardening{}, 16, "", "sleep 600"); !errors.Is(err, context.Canceled) {
		t.Errorf("a program out of time: got %v", err)
	}
}

// The program with NVIDIA's libraries is nobody: the kernel says so.
func TestTheNVMLRowIsAnotherUserWithoutRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	row := Table()[RowNVML]
	got, err := output(context.Background(), row, 1<<16, "", "cat /proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65533\t65533\t65533\t65533", "Gid:\t65533\t65533\t65533\t65533", "Groups:\t \n",
		"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	ready, err := output(context.Background(), Table()[RowNVMLReady], 1<<16, "", "cat /proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(ready, "CapEff:\t0000000000200000") { // bit 21, SYS_ADMIN
		t.Errorf("not SYS_ADMIN alone:\n%s", ready)
	}
}
