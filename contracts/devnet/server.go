package devnet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/adnl"
	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

// Error codes that the node's lite-server uses and clients know.
const (
	codeUnsupported = 500
	codeNotReady    = 651 // block or state not available
	codeTimeout     = 652
	codeProtocol    = 621
)

// waitQuery is liteServer.waitMasterchainSeqno together with the query that
// follows it. The library's own type of this name ends after the two numbers
// and drops the rest.
type waitQuery struct {
	Seqno   int32
	Timeout int32
	Query   any
}

const waitSchema = "liteServer.waitMasterchainSeqno seqno:int timeout_ms:int = Object"

// The registration has to happen before any goroutine parses TL: the library's
// type table has no lock. It replaces the parser behind this id for answers
// and queries received in this process; nothing a client receives has it. The
// server library logs each connection to a global; that is turned off here for
// the same reason.
func init() {
	liteclient.Logger = func(...any) {}
	tl.Register(waitQuery{}, fmt.Sprintf("cocoon.devnetWait#%08x", tl.CRC(waitSchema)))
}

// Parse implements tl.ParseableTL.
func (w *waitQuery) Parse(data []byte) ([]byte, error) {
	if len(data) < 8 {
		return nil, errors.New("parsing a wait query: too short")
	}
	w.Seqno = int32(binary.LittleEndian.Uint32(data))
	w.Timeout = int32(binary.LittleEndian.Uint32(data[4:]))
	if len(data) == 8 {
		return nil, nil
	}
	return tl.Parse(&w.Query, data[8:], true)
}

// Serialize implements tl.SerializableTL.
func (w *waitQuery) Serialize(buf *bytes.Buffer) error {
	buf.Write(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(w.Seqno)), uint32(w.Timeout)))
	if w.Query == nil {
		return nil
	}
	_, err := tl.Serialize(w.Query, true, buf)
	return err
}

// server answers lite-server queries from a chain.
type server struct {
	chain *chain
	lite  *liteclient.Server
	log   *slog.Logger
	quiet time.Duration

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	clients  map[*liteclient.ServerClient]struct{}
	accepted chan struct{} // closed at the first connection
	first    sync.Once

	// alter, where set, changes answers on their way out; tests use it to be
	// a lite-server that lies.
	alter func(query, answer any) any
}

func newServer(c *chain, key ed25519.PrivateKey, quiet time.Duration, log *slog.Logger) *server {
	s := &server{chain: c, lite: liteclient.NewServer([]ed25519.PrivateKey{key}), log: log, quiet: quiet,
		clients: map[*liteclient.ServerClient]struct{}{}, accepted: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.lite.SetMessageHandler(s.handle)
	s.lite.SetConnectionHook(func(client *liteclient.ServerClient) error {
		s.first.Do(func() { close(s.accepted) })
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		s.clients[client] = struct{}{}
		return nil
	})
	s.lite.SetDisconnectHook(func(client *liteclient.ServerClient) {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.clients, client)
	})
	return s
}

// listen starts serving; it returns once the port is bound.
func (s *server) listen(addr string) error {
	failed := make(chan error, 1)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		failed <- s.lite.Listen(addr)
	}()
	// The library binds inside Listen and tells nobody; a connection that it
	// accepted shows it. Who else would answer made Listen fail.
	limit := time.NewTimer(listenWithin)
	defer limit.Stop()
	dialer := net.Dialer{Timeout: listenWithin}
	for {
		conn, err := dialer.DialContext(s.ctx, "tcp", addr)
		if err != nil {
			select {
			case err := <-failed:
				return listenFault(addr, err)
			case <-limit.C:
				return listenFault(addr, errors.New("no answer on the port"))
			case <-time.After(5 * time.Millisecond):
				continue
			}
		}
		select {
		case err := <-failed:
			return listenFault(addr, errors.Join(err, conn.Close()))
		case <-limit.C:
			return listenFault(addr, errors.Join(errors.New("the port's connections are not taken"), conn.Close()))
		case <-s.accepted:
			return conn.Close()
		}
	}
}

// listenWithin is how long a server may take to take its first connection. It
// takes no time; the limit is a busy machine's.
const listenWithin = 30 * time.Second

func listenFault(addr string, err error) error {
	return fault.New(fault.ExitNetwork, "ton.devnet.listen", "free the port, or name another with --listen",
		"listening on %s: %w", addr, err)
}

// close ends the listener and every connection: the library's Close leaves
// connections open.
func (s *server) close() error {
	s.cancel()
	err := s.lite.Close()
	s.mu.Lock()
	for client := range s.clients {
		client.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// handle answers in a goroutine: a query may wait for a block, and the library
// reads the next one of a connection only after this returns.
func (s *server) handle(ctx context.Context, client *liteclient.ServerClient, msg tl.Serializable) error {
	switch m := msg.(type) {
	case adnl.MessageQuery:
		q, ok := m.Data.(liteclient.LiteServerQuery)
		if !ok {
			return fmt.Errorf("reading a query: %T is not a lite-server query", m.Data)
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			if err := client.Send(adnl.MessageAnswer{ID: m.ID, Data: s.answer(ctx, q.Data)}); err != nil {
				s.log.Debug("sending an answer", "error", err)
			}
		}()
		return nil
	case liteclient.TCPPing:
		return client.Send(liteclient.TCPPong(m))
	case liteclient.TCPAuthenticate:
		return client.Send(liteclient.TCPAuthenticationNonce{Nonce: bytes.Repeat([]byte{1}, 32)})
	case liteclient.TCPAuthenticationComplete:
		return nil // anyone may read a devnet
	}
	return fmt.Errorf("reading a message: unexpected %T", msg)
}

func (s *server) answer(ctx context.Context, q any) (a any) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("answering a query", "query", fmt.Sprintf("%T", q), "panic", r)
			a = ton.LSError{Code: codeProtocol, Text: "malformed query"}
		}
	}()
	if w, ok := q.(waitQuery); ok {
		timeout := min(time.Duration(w.Timeout)*time.Millisecond, 30*time.Second)
		wctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err := s.chain.wait(wctx, uint32(w.Seqno), s.quiet); err != nil {
			return ton.LSError{Code: codeTimeout, Text: "timeout"}
		}
		if w.Query == nil {
			return ton.LSError{Code: codeProtocol, Text: "nothing to wait for"}
		}
		q = w.Query
	}
	a, err := s.query(ctx, q)
	if err != nil {
		a = lsError(err)
	}
	if s.alter != nil {
		a = s.alter(q, a)
	}
	return a
}

// lsError keeps an LSError, and says why a message was not accepted in the
// node's words, which clients search for.
func lsError(err error) ton.LSError {
	var ls ton.LSError
	var refused *tvm.NotAcceptedError
	switch {
	case errors.As(err, &ls):
		return ls
	case errors.As(err, &refused):
		return ton.LSError{Text: fmt.Sprintf("cannot apply external message to current state : External message was not accepted\n"+
			"%s, exitcode=%d", refused.Reason, refused.ExitCode)}
	case errors.Is(err, errStatePruned):
		return ton.LSError{Code: codeNotReady, Text: err.Error()}
	}
	return ton.LSError{Code: codeProtocol, Text: err.Error()}
}
