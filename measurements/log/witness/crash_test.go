package witness_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/measurements/log/witness"
)

// crashDir names, to this program started by itself, the state to serve.
const crashDir = "COCOON_WITNESS_CRASH_DIR"

// TestKilledAtAnyMoment kills a witness again and again while two histories of
// one log compete for its cosignatures: they are all of one, and after each kill
// it knows the last that it gave away.
func TestKilledAtAnyMoment(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		serveForever(t, dir)
	}
	dir := t.TempDir()
	vkey := witnessKey(t)
	histories := []*history{newHistory("good", 0), newHistory("fork", 0)}
	var mu sync.Mutex
	cosigned := map[int]uint64{} // by history: the largest
	for range 12 {
		url, kill := startWitness(t, dir)
		mu.Lock()
		var largest uint64
		for _, n := range cosigned {
			largest = max(largest, n)
		}
		mu.Unlock()
		if last, err := lastSize(t, url, histories[0]); err != nil || last < largest {
			t.Fatalf("the witness goes back to %d entries after it cosigned %d: %v", last, largest, err)
		}
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for i, h := range histories {
			wg.Go(func() {
				old := uint64(0)
				for {
					select {
					case <-stop:
						return
					default:
					}
					next := min(old+1+uint64(rand.IntN(2)), 40)
					status, body, err := post(url, h.request(t, old, next))
					if err != nil {
						return // it was killed
					}
					switch status {
					case http.StatusOK:
						if _, err := witness.Check(append(h.checkpoint(t, next), body...), vkey); err != nil {
							t.Error(err)
						}
						mu.Lock()
						cosigned[i] = max(cosigned[i], next)
						mu.Unlock()
						old = next
					case http.StatusConflict:
						if old, err = strconv.ParseUint(strings.TrimSpace(string(body)), 10, 63); err != nil {
							t.Error(err)
							return
						}
					case http.StatusUnprocessableEntity: // the other one is cosigned
						old = 0
					}
				}
			})
		}
		// Random moments are the point here; nothing waits for this long.
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		kill()
		close(stop)
		wg.Wait()
	}
	if len(cosigned) > 1 {
		t.Errorf("two histories are cosigned: %v", cosigned)
	}
}

// witnessKey is the verifier key of the witness under test.
func witnessKey(t *testing.T) string {
	t.Helper()
	w := open(t, t.TempDir())
	defer w.Close()
	return w.Key()
}

func post(url string, body []byte) (int, []byte, error) {
	rsp, err := http.Post(url+witness.Path, "text/plain", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	b, err := io.ReadAll(rsp.Body)
	return rsp.StatusCode, b, errors.Join(err, rsp.Body.Close())
}

// lastSize asks what was cosigned last: a request from the largest size of all
// is in conflict with any other.
func lastSize(t *testing.T, url string, h *history) (uint64, error) {
	t.Helper()
	status, body, err := post(url, h.request(t, 40, 40))
	if err != nil || status != http.StatusConflict {
		return 40, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(body)), 10, 63)
}

func startWitness(t *testing.T, dir string) (url string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledAtAnyMoment$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line), func() {
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // by the signal
	}
}

func serveForever(t *testing.T, dir string) {
	w := open(t, dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("http://%s\n", ln.Addr())
	t.Fatal(http.Serve(ln, w.Handler(slog.New(slog.DiscardHandler))))
}
