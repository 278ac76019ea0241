package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
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
	a    answer    // the latest
	sent time.Time // when the deadline was set

	again bool // the latest request was turned away
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

// appraise sends evidence, which appendEvidence appends, and reads the answer.
func (c *conn) appraise(ctx context.Context, size int, appendEvidence func([]byte) []byte) (*answer, error) {
	// The Connect protocol's unary form with protobuf: field 1 of AppraiseRequest,
	// length-delimited.
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
	c.buf = appendEvidence(b)
	return c.send(ctx)
}

// send sends the latest request and reads the answer.
func (c *conn) send(ctx context.Context) (*answer, error) {
	for try := 0; ; try++ {
		fresh := c.c == nil
		if fresh {
			if err := c.dial(ctx); err != nil {
				return nil, err
			}
		}
		if now := time.Now(); fresh || now.Sub(c.sent) > answerTimeout/10 { // a timer costs more than a look at the clock
			if err := c.c.SetDeadline(now.Add(answerTimeout)); err != nil {
				return nil, unreachable(err)
			}
			c.sent = now
		}
		_, err := c.c.Write(c.buf)
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

// read reads an answer as the verifier writes it: HTTP/1.1, with its length or in
// chunks. Package http's reader makes a map of headers that nobody looks at.
func (c *conn) read() (*answer, error) {
	bad := func(err error) (*answer, error) { return nil, fmt.Errorf("reading answer: %w", err) }
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return bad(err)
	}
	const version = "HTTP/1.1 "
	if len(line) < len(version)+3 || string(line[:len(version)]) != version {
		return bad(fmt.Errorf("%.40q is no answer", line))
	}
	a := &c.a
	if a.status, err = strconv.Atoi(string(line[len(version) : len(version)+3])); err != nil {
		return bad(fmt.Errorf("%.40q is no answer", line))
	}
	length, chunked, last := int64(-1), false, false
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return bad(err)
		}
		name, value, more := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
		if !more {
			break
		}
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length > maxAnswer {
				return bad(fmt.Errorf("length %.40q", value))
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("Connection")):
			last = bytes.EqualFold(value, []byte("close"))
		}
	}
	switch {
	case chunked:
		if c.body, err = io.ReadAll(io.LimitReader(httputil.NewChunkedReader(c.r), maxAnswer)); err == nil {
			_, err = c.r.ReadSlice('\n') // there are no trailers
		}
	case length < 0:
		err = errors.New("it has no length")
	default:
		c.body = slices.Grow(c.body[:0], int(length))[:length]
		_, err = io.ReadFull(c.r, c.body)
	}
	if err != nil {
		return bad(err)
	}
	if last {
		c.close()
	}
	a.body = c.body
	// Field 1 of AppraiseResponse, true.
	a.accepted = a.status == http.StatusOK && len(a.body) > 2 && a.body[0] == 1<<3 && a.body[1] == 1
	return a, nil
}
