// Package lite is a lite-server connection that survives its server: ADNL over
// TCP, one query and one answer at a time per id, answers as bytes.
//
// In: server addresses and TL-serialisable queries (tonutils-go's types); out:
// the answer's bytes, which answers.go reads. The client library has a
// connection of its own, but it decodes cells inside its receiving goroutine
// with a decoder that panics on malformed bags and allocates what they claim:
// there, a hostile server ends the process. Here nothing is decoded on arrival,
// packets are bounded, and bags of cells go through package proof.
//
// Protocol: ADNL TCP, docs.ton.org/develop/network/adnl-tcp; TL schema
// lite_api.tl and ton_api.tl of the TON node.
package lite

import (
	"context"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/adnl"
	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tl"

	"cocoon/contracts/chain/netconfig"
	"cocoon/internal/fault"
)

const (
	// MaxPacket bounds a received packet, in bytes, like the node does.
	MaxPacket = 8 << 20
	// DefaultTimeout bounds a query whose context has no earlier deadline.
	DefaultTimeout = 15 * time.Second
	dialTimeout    = 5 * time.Second

	idQuery  = 0xb48bf97a // adnl.message.query query_id:int256 query:bytes
	idAnswer = 0x0fac8416 // adnl.message.answer query_id:int256 answer:bytes
)

// Client asks one lite-server. It connects at the first query, and again when
// the connection ended. Safe for concurrent use.
type Client struct {
	server netconfig.Server

	mu   sync.Mutex
	conn *conn
	done bool
}

// New returns a client of a server.
func New(server netconfig.Server) *Client { return &Client{server: server} }

// Addr returns the server's host and port.
func (c *Client) Addr() string { return c.server.Addr }

// Close ends the connection; queries in flight fail.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	if c.conn == nil {
		return nil
	}
	return c.conn.close(errClosed)
}

var errClosed = errors.New("connection closed")

// Query sends a query and returns the answer's bytes, constructor included. A
// server that cannot be reached, breaks off, or is silent for too long is
// ton.network.unreachable.
func (c *Client) Query(ctx context.Context, q tl.Serializable) ([]byte, error) {
	body, err := tl.Serialize(liteclient.LiteServerQuery{Data: q}, true)
	if err != nil {
		return nil, fmt.Errorf("writing a query: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	cn, err := c.connection(ctx)
	if err == nil {
		var answer []byte
		if answer, err = cn.query(ctx, body); err == nil {
			return answer, nil
		}
		if ctx.Err() == nil {
			c.drop(cn)
		}
	}
	return nil, fault.New(fault.ExitNetwork, "ton.network.unreachable", "check the network, and that the lite-servers of the global.config.json run",
		"asking the lite-server %s: %w", c.server.Addr, err)
}

func (c *Client) connection(ctx context.Context) (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return nil, errClosed
	}
	if c.conn != nil && c.conn.alive() {
		return c.conn, nil
	}
	cn, err := dial(ctx, c.server)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	c.conn = cn
	return cn, nil
}

// drop leaves a connection that failed.
func (c *Client) drop(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == cn {
		c.conn = nil
	}
	_ = cn.close(errClosed) // it failed already
}

// conn is one ADNL connection.
type conn struct {
	tcp   net.Conn
	read  cipher.Stream
	write cipher.Stream
	send  sync.Mutex

	mu      sync.Mutex
	waiting map[[32]byte]chan []byte
	err     error
	ended   chan struct{}
}

// dial connects and shakes hands: the server proves its key by answering under
// the session keys that only it can decrypt.
func dial(ctx context.Context, s netconfig.Server) (*conn, error) {
	key, err := base64.StdEncoding.DecodeString(s.Key)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, errors.New("bad server key")
	}
	tcp, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return nil, err
	}
	c := &conn{tcp: tcp, waiting: map[[32]byte]chan []byte{}, ended: make(chan struct{})}
	deadline := time.Now().Add(dialTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	err = errors.Join(tcp.SetDeadline(deadline), c.handshake(key), tcp.SetDeadline(time.Time{}))
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	go c.receive()
	return c, nil
}

func (c *conn) handshake(server ed25519.PublicKey) error {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	params := make([]byte, 160)
	if _, err := rand.Read(params); err != nil {
		return err
	}
	if c.read, err = adnl.NewCipherCtr(params[:32], params[64:80]); err != nil {
		return err
	}
	if c.write, err = adnl.NewCipherCtr(params[32:64], params[80:96]); err != nil {
		return err
	}
	id, err := tl.Hash(adnl.PublicKeyED25519{Key: server})
	if err != nil {
		return err
	}
	shared, err := adnl.SharedKey(priv, server)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(params)
	k := append(append([]byte(nil), shared[:16]...), sum[16:32]...)
	iv := append(append([]byte(nil), sum[:4]...), shared[20:32]...)
	seal, err := adnl.NewCipherCtr(k, iv)
	if err != nil {
		return err
	}
	seal.XORKeyStream(params, params)
	packet := append(append(append(append([]byte(nil), id...), pub...), sum[:]...), params...)
	if _, err := c.tcp.Write(packet); err != nil {
		return err
	}
	hello, err := c.readPacket()
	if err != nil {
		return err
	}
	if len(hello) != 0 {
		return errors.New("unexpected first packet")
	}
	return nil
}

// readPacket reads size u32 LE, nonce 32, payload, SHA-256 of both.
func (c *conn) readPacket() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.tcp, head[:]); err != nil {
		return nil, err
	}
	c.read.XORKeyStream(head[:], head[:])
	size := binary.LittleEndian.Uint32(head[:])
	if size < 64 || size > MaxPacket {
		return nil, fmt.Errorf("packet of %d bytes", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(c.tcp, b); err != nil {
		return nil, err
	}
	c.read.XORKeyStream(b, b)
	body, sum := b[:size-32], b[size-32:]
	if want := sha256.Sum256(body); string(want[:]) != string(sum) {
		return nil, errors.New("packet checksum differs")
	}
	return body[32:], nil
}

func (c *conn) writePacket(payload []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, uint32(64+len(payload)))
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	b = append(append(b, nonce...), payload...)
	sum := sha256.Sum256(b[4:])
	b = append(b, sum[:]...)
	c.send.Lock()
	defer c.send.Unlock()
	c.write.XORKeyStream(b, b)
	if err := c.tcp.SetWriteDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	_, err := c.tcp.Write(b)
	return err
}

func (c *conn) query(ctx context.Context, body []byte) ([]byte, error) {
	var id [32]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	answer := make(chan []byte, 1)
	c.mu.Lock()
	c.waiting[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	msg := binary.LittleEndian.AppendUint32(nil, idQuery)
	msg = append(append(msg, id[:]...), tl.ToBytes(body)...)
	if err := c.writePacket(msg); err != nil {
		return nil, errors.Join(err, c.close(err))
	}
	select {
	case b := <-answer:
		return b, nil
	case <-c.ended:
		return nil, c.cause()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// receive hands answers to their queries until the connection ends.
func (c *conn) receive() {
	for {
		b, err := c.readPacket()
		if err != nil {
			_ = c.close(err)
			return
		}
		r := &Reader{b: b}
		if r.uint32() != idAnswer {
			continue // pongs and what else a server may say
		}
		id := r.fixed(32)
		body := r.bytes()
		if r.err != nil {
			_ = c.close(r.err)
			return
		}
		c.mu.Lock()
		ch := c.waiting[[32]byte(id)]
		delete(c.waiting, [32]byte(id))
		c.mu.Unlock()
		if ch != nil {
			ch <- body
		}
	}
}

func (c *conn) alive() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

func (c *conn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *conn) close(why error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil
	}
	c.err = why
	close(c.ended)
	return c.tcp.Close()
}
