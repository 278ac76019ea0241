package relay

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"cocoon/hostd/swtpm"
)

// pair returns two ends of a stream as QEMU makes it for a relay.
func pair(t *testing.T) (guest, far *net.UnixConn) {
	t.Helper()
	a, b, err := swtpm.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	conn := func() *net.UnixConn {
		defer func() { a, b = b, a }()
		c, err := net.FileConn(a)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(), conn()
}

// echo listens and gives every connection its bytes back, then its end.
func echo(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err != nil {
					t.Errorf("echo: %v", err)
				}
			}()
		}
	}()
	return l
}

func TestServeCarriesManyLargeStreamsAndTheirEnds(t *testing.T) {
	tcp := echo(t, "tcp", "127.0.0.1:0")
	unix := echo(t, "unix", filepath.Join(t.TempDir(), "s"))
	var wg sync.WaitGroup
	for i := range 16 {
		target := tcp.Addr().String()
		if i%2 == 1 {
			target = "unix:" + unix.Addr().String()
		}
		guest, far := pair(t)
		wg.Add(2)
		go func() {
			defer wg.Done()
			if err := Serve(t.Context(), guest, target); err != nil {
				t.Errorf("Serve() = %v", err)
			}
		}()
		go func() {
			defer wg.Done()
			sent := make([]byte, 1<<20)
			if _, err := rand.Read(sent); err != nil {
				t.Error(err)
			}
			go func() {
				if _, err := far.Write(sent); err != nil {
					t.Errorf("writing: %v", err)
				}
				if err := far.CloseWrite(); err != nil {
					t.Errorf("ending: %v", err)
				}
			}()
			got, err := io.ReadAll(far)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes back, %v", len(got), err)
			}
		}()
	}
	wg.Wait()
}

func TestServeEndsWhenTheGuestIsGoneAndTheTargetSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	guest, far := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What it returns depends on what was under way; that it returns counts.
		_ = Serve(t.Context(), guest, l.Addr().String())
	}()
	silent, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	far.Close() // as when QEMU is killed
	<-done
}

func TestServeRefusesABadTargetAndOneThatDoesNotAnswer(t *testing.T) {
	for _, target := range []string{"nonsense", "unix:relative", "unix:" + filepath.Join(t.TempDir(), "absent")} {
		guest, _ := pair(t)
		if err := Serve(t.Context(), guest, target); err == nil {
			t.Errorf("Serve to %q succeeded", target)
		}
	}
}

func TestSlotsBoundTheNumberOfRelays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "slots")
	a, err := Slot(dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Slot(dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := Slot(dir, 2); !errors.Is(err, ErrBusy) {
		t.Errorf("a third of two slots: %v, want ErrBusy", err)
	}
	a.Close()
	c, err := Slot(dir, 2)
	if err != nil {
		t.Errorf("a slot that was given back cannot be taken: %v", err)
	}
	c.Close()
}
