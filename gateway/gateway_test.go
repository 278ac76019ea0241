package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"cocoon/gateway/tunnel"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
)

func start(t *testing.T, opt Options) (*Gateway, string) {
	t.Helper()
	cert, err := SelfSigned(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	opt.Certificate = cert
	g := New(opt)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return g, ln.Addr().String()
}

func newWorkerKey(t *testing.T) (ed25519.PrivateKey, digest.SHA256) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, digest.SHA256(pub)
}

func waitWorkers(t *testing.T, g *Gateway, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); len(g.Workers()) != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d workers, want %d", len(g.Workers()), n)
		}
	}
}

func dialTLS(t *testing.T, addr string, alpn ...string) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func connectTo(t *testing.T, addr, target string) (*tls.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	c := dialTLS(t, addr, "http/1.1")
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"})
	if err != nil {
		t.Fatal(err)
	}
	return c, br, resp
}

func TestRelayCarriesLargeStreamsBothWays(t *testing.T) {
	g, addr := start(t, Options{})
	key, id := newWorkerKey(t)
	tun, err := tunnel.Dial(context.Background(), addr, key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	go echo(tun)
	waitWorkers(t, g, 1)
	c, br, resp := connectTo(t, addr, id.String()+":443")
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	blob := make([]byte, 8<<20)
	rand.Read(blob)
	go func() { c.Write(blob); c.CloseWrite() }()
	got, err := io.ReadAll(br)
	if err != nil || !bytes.Equal(got, blob) {
		t.Errorf("got %d bytes back, %v; want %d", len(got), err, len(blob))
	}
}

func TestGatewayRefusesWithACode(t *testing.T) {
	g, addr := start(t, Options{MaxWorkers: 1, MaxStreamsPerWorker: 1})
	key, id := newWorkerKey(t)
	tun, err := tunnel.Dial(context.Background(), addr, key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	waitWorkers(t, g, 1)
	wantConnect := func(target, code string) {
		t.Helper()
		_, _, resp := connectTo(t, addr, target)
		var p struct{ Code string }
		json.NewDecoder(resp.Body).Decode(&p)
		if resp.StatusCode < 400 || p.Code != code {
			t.Errorf("CONNECT %s: %s %s, want %s", target, resp.Status, p.Code, code)
		}
	}
	wantConnect("example.org:443", "gateway.target")
	wantConnect(digest.Sum256([]byte("x")).String()+":443", "gateway.worker_absent")
	if _, _, resp := connectTo(t, addr, id.String()+":443"); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	wantConnect(id.String()+":443", "gateway.worker_busy")

	other, _ := newWorkerKey(t)
	if _, err := tunnel.Dial(context.Background(), addr, other, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}}); !fault.Has(err, "gateway.full") {
		t.Errorf("second worker: %v, want gateway.full", err)
	}
}

func TestWorkerMustProveItsReceiptKey(t *testing.T) {
	g, addr := start(t, Options{})
	_, id := newWorkerKey(t)
	thief, _ := newWorkerKey(t)
	c := dialTLS(t, addr, tunnel.ALPN1)
	cs := c.ConnectionState()
	exp, err := cs.ExportKeyingMaterial("EXPORTER-cocoon-tunnel", nil, 32)
	if err != nil {
		t.Fatal(err)
	}
	sig := ed25519.Sign(thief, append([]byte("cocoon-tunnel-v1"), exp...))
	hello, _ := json.Marshal(map[string]any{"model": "m", "receipt_key": id, "signature": sig})
	c.Write(append([]byte{byte(len(hello) >> 8), byte(len(hello))}, hello...))
	answer, _ := io.ReadAll(c)
	if !bytes.Contains(answer, []byte("tunnel.proof")) || len(g.Workers()) != 0 {
		t.Errorf("answer %q, %d workers", answer, len(g.Workers()))
	}
}

func TestWorkerThatComesBackReplacesItsOldTunnel(t *testing.T) {
	g, addr := start(t, Options{})
	key, _ := newWorkerKey(t)
	first, err := tunnel.Dial(context.Background(), addr, key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	waitWorkers(t, g, 1)
	second, err := tunnel.Dial(context.Background(), addr, key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Accept(); err == nil {
		t.Error("the old tunnel still accepts")
	}
	waitWorkers(t, g, 1)
	second.Close()
	waitWorkers(t, g, 0)
}

// TestTheListHasEachModelWithItsPrice, of workers of this release and of older
// ones, which say their one model alone.
func TestTheListHasEachModelWithItsPrice(t *testing.T) {
	g, addr := start(t, Options{})
	key, _ := newWorkerKey(t)
	offers := []tunnel.Offer{{Name: "a", Price: 40}, {Name: "b", Price: 7}}
	tun, err := tunnel.Dial(context.Background(), addr, key, tunnel.State{Models: offers})
	if err != nil {
		t.Fatal(err)
	}
	waitWorkers(t, g, 1)
	if w := g.Workers()[0]; w.Model != "a" || !slices.Equal(w.Models, offers) {
		t.Errorf("listed as %+v", w)
	}
	tun.Close()
	waitWorkers(t, g, 0)

	c := dialTLS(t, addr, tunnel.ALPN1)
	cs := c.ConnectionState()
	exp, err := cs.ExportKeyingMaterial("EXPORTER-cocoon-tunnel", nil, 32)
	if err != nil {
		t.Fatal(err)
	}
	hello, _ := json.Marshal(map[string]any{"model": "m", "receipt_key": hex.EncodeToString(key.Public().(ed25519.PublicKey)), "signature": ed25519.Sign(key, append([]byte("cocoon-tunnel-v1"), exp...))})
	c.Write(append([]byte{byte(len(hello) >> 8), byte(len(hello))}, hello...))
	waitWorkers(t, g, 1)
	if w := g.Workers()[0]; w.Model != "m" || !slices.Equal(w.Models, []tunnel.Offer{{Name: "m"}}) {
		t.Errorf("an older worker is listed as %+v", w)
	}
}

// echo sends back on each of a worker's streams what comes.
func echo(tun net.Listener) {
	for {
		c, err := tun.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); io.Copy(c, c) }()
	}
}
