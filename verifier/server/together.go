package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// Package http gives a connection four kilobytes to gather what it writes, so that
// a verdict of ten would leave in two writes: its caller would be woken for the
// first, and wait again. Listen and ConnContext, with which a Server is to be
// served, let it leave in one.

// Listen returns ln with connections for ConnContext.
func Listen(ln net.Listener) net.Listener { return listener{ln} }

type listener struct{ net.Listener }

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

type connKey struct{}

// ConnContext is for http.Server.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if c, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// conn can hold what is written.
type conn struct {
	net.Conn
	mu   sync.Mutex
	held *[]byte // nil: nothing is held
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	held := c.held
	if held != nil {
		*held = append(*held, p...)
	}
	c.mu.Unlock()
	if held != nil {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *conn) hold(in *[]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = in
}

// together writes an answer's body, whose length its header has, in one write with
// the header: of HTTP/1, where a connection has one answer at a time.
func together(w http.ResponseWriter, r *http.Request, body []byte) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok || r.ProtoMajor != 1 {
		_, _ = w.Write(body) // an error here is the peer's hang-up
		return
	}
	held := buffers.Get().(*[]byte)
	defer release(held)
	*held = (*held)[:0]
	c.hold(held)
	_, err := w.Write(body)
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	c.hold(nil)
	if err == nil {
		_, err = c.Conn.Write(*held)
	}
	if err != nil {
		// Package http does not know what has left: nothing may follow it.
		_ = c.Close() // likewise
	}
}
