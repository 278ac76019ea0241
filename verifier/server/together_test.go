package server_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// counting counts the writes of its connections, and fails them when it is told to.
type counting struct {
	net.Listener
	writes atomic.Int64
	fail   atomic.Bool
}

type countingConn struct {
	net.Conn
	l *counting
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countingConn{c, l}, err
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.l.writes.Add(1)
	if c.l.fail.Load() {
		n, _ := c.Conn.Write(p[:len(p)/2])
		return n, net.ErrWriteToConnected
	}
	return c.Conn.Write(p)
}

// TestAVerdictLeavesInOneWrite serves verdicts over connections that count: as
// text, where every answer is one write, and over TLS and HTTP/2, where it is the
// same answer. What leaves in part is the connection's last.
func TestAVerdictLeavesInOneWrite(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.PerSecond, o.Burst = 1e6, 1e6 })
	for name, c := range map[string]struct {
		tls, http2 bool
	}{
		"HTTP/1.1":          {},
		"HTTP/1.1 with TLS": {tls: true},
		"HTTP/2":            {tls: true, http2: true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(s.http.Config.Handler)
			l := &counting{Listener: srv.Listener}
			srv.Listener, srv.Config.ConnContext, srv.EnableHTTP2 = server.Listen(l), server.ConnContext, c.http2
			if c.tls {
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			client := srv.Client()
			client.Timeout = time.Minute
			ask := func() (*http.Response, []byte, error) {
				ev, err := s.w.Evidence(t, s.challenge(t)).Marshal()
				if err != nil {
					t.Fatal(err)
				}
				msg, err := proto.Marshal(&verifierv1.AppraiseRequest{Evidence: ev})
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Post(srv.URL+verifierv1connect.VerifierServiceAppraiseProcedure, "application/proto", bytes.NewReader(msg))
				if err != nil {
					return nil, nil, err
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				return resp, b, err
			}
			const verdicts = 3
			for i := range verdicts {
				before := l.writes.Load()
				resp, b, err := ask()
				if err != nil {
					t.Fatal(err)
				}
				var out verifierv1.AppraiseResponse
				if err := proto.Unmarshal(b, &out); err != nil || !out.Accepted || out.Ear == "" || (resp.ProtoMajor == 2) != c.http2 || resp.ContentLength != int64(len(b)) {
					t.Fatalf("%s, length %d of %d, %v: %v", resp.Proto, resp.ContentLength, len(b), err, &out)
				}
				if len(b) < 4<<10 {
					t.Fatalf("%d bytes: one write whatever is done", len(b))
				}
				// The first over TLS has the handshake's.
				if n := l.writes.Load() - before; n != 1 && !c.http2 && (!c.tls || i > 0) {
					t.Errorf("verdict %d: %d writes", i, n)
				}
			}
			if l.fail.Store(true); c.tls {
				return
			}
			if resp, b, err := ask(); err == nil {
				t.Errorf("half an answer was read as %s, %d bytes", resp.Status, len(b))
			}
			l.fail.Store(false)
			if _, _, err := ask(); err != nil {
				t.Errorf("on the next connection: %v", err)
			}
		})
	}
}
