package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/internal/fault"
)

// Limits of the connections.
const (
	maxConnections = 4096
	dialTimeout    = 10 * time.Second
	answerTimeout  = 30 * time.Second
	maxAnswer      = 4 << 20
)

// target is where requests go.
type target struct {
	host string // host:port
	path string
}

func parseTarget(verifier string) (*target, error) {
	u, err := url.Parse(verifier)
	if err == nil && (u.Scheme != "http" || u.Host == "" || u.Path != "" && u.Path != "/") {
		err = errors.New("want http://host:port")
	}
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "usage", "give the address that the verifier logs; the hammer speaks no TLS", "reading -verifier: %w", err)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	return &target{host: host, path: verifierv1connect.VerifierServiceAppraiseProcedure}, nil
}

func unreachable(err error) error {
	return fault.New(fault.ExitNetwork, "verifier.unreachable", "check that the verifier runs and that its address is right", "calling verifier: %w", err)
}

// conn is one connection with one request at a time. It writes requests as
// bytes rather than through package http's client: on a small machine what the
// hammer spends is missing to the verifier.
type conn struct {
	t    *target
	c    net.Conn
	r    *bufio.Reader
	buf  []byte
	body []byte
}

func (c *conn) dial(ctx context.Context) error {
	d := net.Dialer{Timeout: dialTimeout}
	nc, err := d.DialContext(ctx, "tcp", c.t.host)
	if err != nil {
		return unreachable(err)
	}
	c.c, c.r = nc, bufio.NewReaderSize(nc, 32<<10)
	return nil
}

func (c *conn) close() {
	if c.c != nil {
		_ = c.c.Close() // nothing is lost
		c.c = nil
	}
}

// answer is what the verifier made of a request.
type answer struct {
	status   int
	accepted bool
	body     []byte // until the next request
}

// appraise sends evidence, which appendEvidence appends, and reads the answer:
// the Connect protocol's unary form with protobuf.
func (c *conn) appraise(ctx context.Context, size int, appendEvidence func([]byte) []byte) (*answer, error) {
	for try := 0; ; try++ {
		fresh := c.c == nil
		if fresh {
			if err := c.dial(ctx); err != nil {
				return nil, err
			}
		}
		// Field 1 of AppraiseRequest, length-delimited.
		var head [1 + binary.MaxVarintLen64]byte
		head[0] = 1<<3 | 2
		n := 1 + binary.PutUvarint(head[1:], uint64(size))
		b := append(c.buf[:0], "POST "...)
		b = append(b, c.t.path...)
		b = append(b, " HTTP/1.1\r\nHost: "...)
		b = append(b, c.t.host...)
		b = append(b, "\r\nContent-Type: application/proto\r\nConnect-Protocol-Version: 1\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(n+size), 10)
		b = append(b, "\r\n\r\n"...)
		b = append(b, head[:n]...)
		b = appendEvidence(b)
		c.buf = b
		if err := c.c.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
			return nil, unreachable(err)
		}
		_, err := c.c.Write(b)
		var a *answer
		if err == nil {
			a, err = c.read()
		}
		if err == nil {
			return a, nil
		}
		c.close()
		if fresh || try > 0 || !errors.Is(err, io.EOF) { // an idle connection may have been closed
			return nil, unreachable(err)
		}
	}
}

func (c *conn) read() (*answer, error) {
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, fmt.Errorf("reading answer: %w", err)
	}
	c.body = c.body[:0]
	if n := res.ContentLength; n >= 0 && n <= maxAnswer {
		if int64(cap(c.body)) < n {
			c.body = make([]byte, 0, n)
		}
		c.body = c.body[:n]
		_, err = io.ReadFull(res.Body, c.body)
	} else {
		c.body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	}
	if err != nil {
		return nil, fmt.Errorf("reading answer: %w", err)
	}
	if err := res.Body.Close(); err != nil {
		return nil, fmt.Errorf("reading answer: %w", err)
	}
	if res.Close {
		c.close()
	}
	a := &answer{status: res.StatusCode, body: c.body}
	// Field 1 of AppraiseResponse, true.
	a.accepted = a.status == http.StatusOK && len(a.body) > 2 && a.body[0] == 1<<3 && a.body[1] == 1
	return a, nil
}
