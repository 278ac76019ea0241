package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
)

// peer answers QMP commands on conn as answer says; it ends with the
// connection.
func peer(t *testing.T, answer func(command string) string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		fmt.Fprintln(theirs, `{"QMP":{"version":{},"capabilities":[]}}`)
		sc := bufio.NewScanner(theirs)
		for sc.Scan() {
			var c struct {
				Execute string `json:"execute"`
			}
			if json.Unmarshal(sc.Bytes(), &c) != nil {
				return
			}
			if c.Execute == "qmp_capabilities" {
				fmt.Fprintln(theirs, `{"return":{}}`)
				continue
			}
			a := answer(c.Execute)
			if a == "" {
				theirs.Close()
				return
			}
			fmt.Fprintln(theirs, a)
		}
	}()
	return ours
}

func TestQMPSeparatesRepliesFromEvents(t *testing.T) {
	events := make(chan Event, 1)
	q, err := Connect(t.Context(), peer(t, func(c string) string {
		return `{"event":"POWERDOWN","timestamp":{},"data":{"a":1}}` + "\n" + `{"return":{"status":"` + c + `"}}`
	}), func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		Status string `json:"status"`
	}
	if err := q.Do(t.Context(), "query-status", nil, &out); err != nil || out.Status != "query-status" {
		t.Errorf("Do() = %v, %+v", err, out)
	}
	if e := <-events; e.Name != "POWERDOWN" {
		t.Errorf("event %+v", e)
	}
}

func TestQMPReportsErrorsAndTheEndOfTheConnection(t *testing.T) {
	q, err := Connect(t.Context(), peer(t, func(c string) string {
		if c == "bad" {
			return `{"error":{"class":"CommandNotFound","desc":"no such thing"}}`
		}
		return ""
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Do(t.Context(), "bad", nil, nil); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("Do(bad) = %v", err)
	}
	if err := q.Do(t.Context(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Do on an ended connection = %v, want ErrClosed", err)
	}
	<-q.Done()
}

func TestConnectRefusesWhatIsNotQMPAndEndsWithItsContext(t *testing.T) {
	ours, theirs := net.Pipe()
	go func(c net.Conn) { fmt.Fprintln(c, "220 mail.example ESMTP"); c.Close() }(theirs)
	if _, err := Connect(t.Context(), ours, nil); err == nil {
		t.Error("a mail server was taken for QMP")
	}
	ours, theirs = net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Connect(ctx, ours, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Connect with an ended context = %v", err)
	}
}
