package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"cocoon/enclave/handover"
	"cocoon/internal/fault"
)

// lines hands each line that is written to a function.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
	see func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	l.see(string(p))
	return len(p), nil
}

// TestAHandoverThatAMachineRefuses connects two machines to the command, of
// which the one with the disk gives nothing: whoever runs it learns why.
func TestAHandoverThatAMachineRefuses(t *testing.T) {
	dir := t.TempDir()
	ticket := filepath.Join(dir, "ticket.json")
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	no := fault.New(fault.ExitRefused, "seal.key_not_released", "boot the image that sealed it", "unsealing: no")
	var wg sync.WaitGroup
	at := regexp.MustCompile(`at (127\.0\.0\.1:\d+)`)
	cmd := newVMHandoverCmd()
	cmd.SetArgs([]string{"--listen", "127.0.0.1:0", "--from", filepath.Join(dir, "a"), "--to", filepath.Join(dir, "b"), "--ticket", ticket})
	cmd.SetErr(&lines{see: func(line string) {
		m := at.FindStringSubmatch(line)
		if m == nil {
			return
		}
		for _, serve := range []func(net.Conn){
			func(c net.Conn) {
				_ = (&handover.Giver{Key: func() ([]byte, error) { return nil, no }}).Serve(context.Background(), c)
			},
			func(c net.Conn) { _ = (&handover.Taker{}).Serve(context.Background(), c, nil) },
		} {
			wg.Go(func() {
				c, err := net.Dial("tcp4", m[1])
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				serve(c)
			})
		}
	}})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	wg.Wait()
	if !fault.Has(err, "seal.key_not_released") || fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(ticket); !os.IsNotExist(err) {
		t.Errorf("a ticket was written: %v", err)
	}
}

func TestAHandoverOfFilesThatAreNotThere(t *testing.T) {
	cmd := newVMHandoverCmd()
	cmd.SetArgs([]string{"--from", "/nowhere/a", "--to", "/nowhere/b", "--ticket", "/nowhere/t"})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetErr(&bytes.Buffer{})
	if err := cmd.ExecuteContext(t.Context()); err == nil {
		t.Error("it waits for machines")
	}
}
