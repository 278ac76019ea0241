package serve_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/enclave/engine"
	"cocoon/enclave/serve"
	"cocoon/gateway"
	"cocoon/gateway/tunnel"
	"cocoon/measurements/digest"
)

// slowEngine sends one event and then computes until its client is gone, which
// it tells.
func slowEngine(t *testing.T) (socket string, stopped <-chan struct{}) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), engine.SocketName)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, `data: {"choices":[{"delta":{"content":"a"}}]}`+"\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(done)
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return socket, done
}

// TestAHangUpBehindTheGatewayStopsTheEngine goes the whole way: client, TLS,
// gateway, tunnel, worker, engine's socket. The client's connection ends, and
// the engine sees it.
func TestAHangUpBehindTheGatewayStopsTheEngine(t *testing.T) {
	cert, err := gateway.SelfSigned(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Certificate: cert})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, served := make(chan error, 1), make(chan struct{})
	go func() { ended <- g.Serve(ctx, ln) }()

	socket, stopped := slowEngine(t)
	server, books := newWorker(t, socket)
	key := keyOf("receipt")
	tun, err := tunnel.Dial(ctx, ln.Addr().String(), key, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	if err != nil {
		t.Fatal(err)
	}
	for len(g.Workers()) == 0 { // it lists the worker after it has welcomed it
		time.Sleep(time.Millisecond)
	}
	inner := httptest.NewUnstartedServer(nil) // for its certificate
	inner.StartTLS()
	defer inner.Close()
	go func() {
		// Its error is the gateway's end, if that comes first.
		_ = server.Serve(ctx, tls.NewListener(tun, inner.TLS), time.Second)
		close(served)
	}()

	id := digest.SHA256(key.Public().(ed25519.PublicKey)).String()
	c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", id, id)
	if rsp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "CONNECT"}); err != nil || rsp.StatusCode != 200 {
		t.Fatalf("got %v, %v", rsp, err)
	}
	end := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	body := `{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}`
	fmt.Fprintf(end, "POST %s HTTP/1.1\r\nHost: worker\r\n%s: %s\r\nContent-Length: %d\r\n\r\n%s", serve.PathChat, serve.HeaderJob, address("job"), len(body), body)
	if line, err := bufio.NewReader(end).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("got %q, %v", line, err)
	}
	if err := c.NetConn().Close(); err != nil { // no farewell of either TLS
		t.Fatal(err)
	}
	<-stopped
	if err := server.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if doc, err := books.Receipt(t.Context(), address("job").String(), digest.Sum256([]byte(body)).String(), ""); err != nil ||
		!strings.Contains(string(doc), `"cancelled":true`) {
		t.Errorf("the receipt is %s, %v", doc, err)
	}
	cancel()
	<-served
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
