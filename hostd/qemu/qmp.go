package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// maxQMP bounds one message from QEMU in bytes.
const maxQMP = 1 << 20

// ErrClosed is returned for commands on a connection that has ended.
var ErrClosed = errors.New("qmp connection has ended")

// Event is an asynchronous message from QEMU, such as SHUTDOWN or
// GUEST_PANICKED.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// QMP is a client of the QEMU Machine Protocol (QEMU documentation, "QMP
// protocol specification"). It is safe for concurrent use.
type QMP struct {
	conn net.Conn
	on   func(Event)

	cmd     sync.Mutex // one command at a time
	replies chan reply
	done    chan struct{}
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// Connect reads the greeting and leaves capability negotiation. on is called
// for each event, one at a time; it must not call Do. The connection is
// closed when ctx ends before the greeting, or by Close.
func Connect(ctx context.Context, conn net.Conn, on func(Event)) (*QMP, error) {
	q := &QMP{conn: conn, on: on, replies: make(chan reply, 1), done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sc := bufio.NewScanner(conn)
	sc.Buffer(make([]byte, 0, 64<<10), maxQMP)
	if !sc.Scan() {
		err := sc.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("reading QMP greeting: %w", err)
	}
	var hello struct {
		QMP json.RawMessage `json:"QMP"`
	}
	if err := json.Unmarshal(sc.Bytes(), &hello); err != nil || hello.QMP == nil {
		return nil, fmt.Errorf("reading QMP greeting: not a greeting: %.100q", sc.Bytes())
	}
	go q.read(sc)
	if err := q.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *QMP) read(sc *bufio.Scanner) {
	defer close(q.done)
	for sc.Scan() {
		var m struct {
			Event
			reply
		}
		if err := json.Unmarshal(sc.Bytes(), &m); err != nil {
			q.conn.Close()
			return
		}
		if m.Name != "" {
			if q.on != nil {
				q.on(m.Event)
			}
			continue
		}
		select {
		case q.replies <- m.reply:
		default: // a reply that nobody waits for any more
		}
	}
}

// Do runs one command; out, where not nil, receives its return value.
func (q *QMP) Do(ctx context.Context, command string, arguments map[string]any, out any) error {
	q.cmd.Lock()
	defer q.cmd.Unlock()
	b, err := json.Marshal(struct {
		Execute   string         `json:"execute"`
		Arguments map[string]any `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("encoding QMP command: %w", err)
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("sending QMP %s: %w", command, err)
	}
	select {
	case r := <-q.replies:
		if r.Error != nil {
			return fmt.Errorf("running QMP %s: %s: %s", command, r.Error.Class, r.Error.Desc)
		}
		if out != nil {
			if err := json.Unmarshal(r.Return, out); err != nil {
				return fmt.Errorf("decoding QMP %s: %w", command, err)
			}
		}
		return nil
	case <-q.done:
		return fmt.Errorf("running QMP %s: %w", command, ErrClosed)
	case <-ctx.Done():
		// The late reply would be taken for the next command's: end it here.
		q.conn.Close()
		return fmt.Errorf("running QMP %s: %w", command, ctx.Err())
	}
}

// Done is closed when QEMU has ended the connection.
func (q *QMP) Done() <-chan struct{} { return q.done }

// Close ends the connection.
func (q *QMP) Close() error { return q.conn.Close() }
