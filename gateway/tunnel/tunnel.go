// Package tunnel is the connection between a worker and a gateway: the worker
// dials out, proves that it holds its receipt key, and then accepts the
// clients' connections as streams of one multiplexed session (yamux). A
// worker needs no inbound port (DESIGN section 2). Neither side trusts the
// other with plaintext: the streams carry TLS that ends in the enclave.
package tunnel

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/internal/lazyre"
	"cocoon/measurements/digest"
)

// Versions of the protocol, which select the tunnel on a gateway's TLS port. In
// version 2 a worker also says whether it drains, in its hello and in notices
// (notice.go), and which models it has beside the first and at which prices; each
// side speaks version 1 with a peer that knows no other.
const (
	ALPN1 = "cocoon-tunnel/1"
	ALPN2 = "cocoon-tunnel/2"
)

// ALPN returns the versions that this package speaks, the best first.
func ALPN() []string { return []string{ALPN2, ALPN1} }

// exporterLabel ties the worker's proof to one TLS connection, so that a
// gateway cannot pass it on to another gateway.
const exporterLabel = "EXPORTER-cocoon-tunnel"

const (
	maxFrame         = 4 << 10
	maxModels        = 16
	handshakeTimeout = 15 * time.Second
)

// Hello is the worker's first frame.
type Hello struct {
	ReceiptKey digest.SHA256 `json:"receipt_key"`        // raw Ed25519 public key
	Model      string        `json:"model"`              // what it says it serves, the first where there are several; decides nothing
	Signature  []byte        `json:"signature"`          // Ed25519 over "cocoon-tunnel-v1" ‖ exporter
	Draining   bool          `json:"draining,omitempty"` // takes no new requests; version 2
	Models     []Offer       `json:"models,omitempty"`   // all that it says it serves, Model first; version 2
}

// Offer is a model that a worker says it serves, and for how much.
type Offer struct {
	Name  string `json:"name"`
	Price uint64 `json:"price"` // nanoton per million tokens; 0: each job's own cap, or no payment at all
}

// nameRE is a model's name as a config has it: without a bound on what it takes in
// the list of workers, few workers would make it longer than clients read.
var nameRE = lazyre.New(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// check completes a hello of version 1 and refuses what a gateway would not
// list; it returns why.
func (h *Hello) check() string {
	if h.Models == nil {
		h.Models = []Offer{{Name: h.Model}}
	}
	if len(h.Models) == 0 || len(h.Models) > maxModels {
		return fmt.Sprintf("%d models, want 1 to %d", len(h.Models), maxModels)
	}
	for _, m := range h.Models {
		if !nameRE().MatchString(m.Name) {
			return fmt.Sprintf("a model's name is not of the form a-z0-9._-, at most 64: %.32q", m.Name)
		}
	}
	if h.Models[0].Name != h.Model {
		return "the model is not the first of the models"
	}
	return ""
}

// Reply is the gateway's answer: Code is empty where the worker is accepted.
type Reply struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

func proof(cs *tls.ConnectionState) ([]byte, error) {
	exp, err := cs.ExportKeyingMaterial(exporterLabel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("exporting keying material: %w", err)
	}
	return append([]byte("cocoon-tunnel-v1"), exp...), nil
}

// Config returns the yamux settings that both sides use.
func Config() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	c.AcceptBacklog = 128
	c.KeepAliveInterval = 20 * time.Second
	// Emulated guests stall for seconds under load; a short limit would cut
	// live sessions.
	c.ConnectionWriteTimeout = 30 * time.Second
	return c
}

// State is what a worker says of itself when it dials.
type State struct {
	Models   []Offer // what it serves, one at least
	Draining bool    // it takes no new requests
}

// Dial connects a worker to the gateway at addr (host:port), proves key, and
// returns a tunnel whose connections are the clients'. Closing the tunnel
// ends the session; Accept returns an error when the gateway goes away, and
// the caller dials again.
func Dial(ctx context.Context, addr string, key ed25519.PrivateKey, state State) (*Tunnel, error) {
	d := &tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: ALPN(),
		// The gateway is not trusted with anything (DESIGN section 2): TLS
		// here hides from the network who talks to whom, no more.
		InsecureSkipVerify: true,
	}}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "tunnel.dial", "check the gateway's address and that it runs", "dialing gateway %s: %w", addr, err)
	}
	sess, err := hello(raw.(*tls.Conn), key, state)
	if err != nil {
		raw.Close()
		return nil, err
	}
	return sess, nil
}

func hello(conn *tls.Conn, key ed25519.PrivateKey, state State) (*Tunnel, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, fmt.Errorf("setting deadline: %w", err)
	}
	cs := conn.ConnectionState()
	version := cs.NegotiatedProtocol
	if !slices.Contains(ALPN(), version) {
		return nil, fault.New(fault.ExitNetwork, "tunnel.protocol", "the address is no gateway of this version", "greeting gateway: it does not speak %s", ALPN1)
	}
	msg, err := proof(&cs)
	if err != nil {
		return nil, err
	}
	// A gateway of version 1 refuses a field that it does not know.
	h := Hello{Model: state.Models[0].Name, Signature: ed25519.Sign(key, msg)}
	if version == ALPN2 {
		h.Draining, h.Models = state.Draining, state.Models
	}
	copy(h.ReceiptKey[:], key.Public().(ed25519.PublicKey))
	if err := writeFrame(conn, h); err != nil {
		return nil, fault.New(fault.ExitNetwork, "tunnel.network", "try again", "greeting gateway: %w", err)
	}
	var r Reply
	if err := readFrame(conn, &r); err != nil {
		return nil, fault.New(fault.ExitNetwork, "tunnel.network", "try again", "greeting gateway: %w", err)
	}
	if r.Code != "" {
		return nil, fault.New(fault.ExitNetwork, r.Code, "use another gateway", "greeting gateway: refused: %.200s", r.Reason)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("clearing deadline: %w", err)
	}
	sess, err := yamux.Server(conn, Config())
	if err != nil {
		return nil, fmt.Errorf("starting tunnel: %w", err)
	}
	return &Tunnel{sess: sess, notices: version == ALPN2, told: h.Draining}, nil
}

// Tunnel is the worker's end: a net.Listener that hands out streams that
// crypto/tls can live with. It is safe for concurrent use.
type Tunnel struct {
	sess    *yamux.Session
	notices bool // the gateway reads them

	mu     sync.Mutex
	stream *yamux.Stream // of the notices, once there was one
	seq    uint64        // of the last notice
	told   bool          // what the gateway has heard last: that the worker drains
}

// Close ends the session, and with it every client's connection.
func (t *Tunnel) Close() error { return t.sess.Close() }

// Addr is net.Listener's.
func (t *Tunnel) Addr() net.Addr { return t.sess.Addr() }

// Accept returns the next client's connection.
func (t *Tunnel) Accept() (net.Conn, error) {
	s, err := t.sess.AcceptStream()
	if err != nil {
		return nil, err
	}
	return stream{s}, nil
}

// stream reports read timeouts as the net package does. net/http interrupts
// its reads with a deadline between two requests, and crypto/tls takes a
// timeout that is not "temporary", as yamux's is not, for the end of the
// connection.
type stream struct{ *yamux.Stream }

// Read is net.Conn's.
func (s stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if errors.Is(err, yamux.ErrTimeout) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// Accept is the gateway's side of Dial: it reads and verifies the hello on a
// connection whose ALPN was negotiated, and returns the worker's key and the
// session on which streams are opened. admit may refuse the worker with a
// code and a reason.
func Accept(conn *tls.Conn, admit func(Hello) (code, reason string)) (Hello, *yamux.Session, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return Hello{}, nil, fmt.Errorf("setting deadline: %w", err)
	}
	var h Hello
	if err := readFrame(conn, &h); err != nil {
		return Hello{}, nil, fmt.Errorf("reading hello: %w", err)
	}
	cs := conn.ConnectionState()
	msg, err := proof(&cs)
	if err != nil {
		return Hello{}, nil, err
	}
	var r Reply
	if !ed25519.Verify(h.ReceiptKey[:], msg, h.Signature) {
		r = Reply{"tunnel.proof", "the receipt key did not sign for this connection"}
	} else if why := h.check(); why != "" {
		r = Reply{"tunnel.hello", why}
	} else {
		r.Code, r.Reason = admit(h)
	}
	if err := writeFrame(conn, r); err != nil {
		return Hello{}, nil, fmt.Errorf("answering hello: %w", err)
	}
	if r.Code != "" {
		return Hello{}, nil, fmt.Errorf("refusing worker: %s [%s]", r.Reason, r.Code)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return Hello{}, nil, fmt.Errorf("clearing deadline: %w", err)
	}
	sess, err := yamux.Client(conn, Config())
	if err != nil {
		return Hello{}, nil, fmt.Errorf("starting tunnel: %w", err)
	}
	return h, sess, nil
}

// writeFrame writes a length (big-endian uint16) and a JSON document.
func writeFrame(w io.Writer, v any) error {
	b, err := jcs.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint16(n[:]))
	if size > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", size, maxFrame)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return jcs.DecodeCanonical(b, maxFrame, v)
}
