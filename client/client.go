// Package client connects to workers that it has verified itself: through a
// blind gateway, over TLS 1.3 that ends in the enclave, with the evidence
// appraised on this machine before the first byte of a request is sent.
package client

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls"
	"cocoon/verifier/evidence"
)

// Appraise decides whether evidence is acceptable for a worker whose TLS key
// has the given SPKI hash. It returns an error that carries every failure.
type Appraise func(ev *evidence.Evidence, spki digest.SHA256) error

// Options configure a Client.
type Options struct {
	Gateway  string        // host:port
	Worker   digest.SHA256 // receipt key of the worker; zero picks one from the gateway's list that passes
	Model    string        // the one that is asked for, which the evidence must name; empty for the worker's first
	Appraise Appraise
	// Verdict holds what the worker shows beside its evidence, its verdict above
	// all, against the caller's rules on every connection (Verifiers.Check); nil:
	// the client's own appraisal decides alone.
	Verdict func(context.Context, *Peer) error
	Clock   func() time.Time // nil means time.Now
	Log     *slog.Logger     // nil discards
}

// Client dials one attested worker at a time. It is safe for concurrent use.
type Client struct {
	opt Options

	mu       sync.Mutex
	worker   digest.SHA256          // zero: to be picked
	pinned   bool                   // no other will do
	accepted map[digest.SHA256]bool // hashes of SPKI and evidence that passed, for this worker
	last     *Peer
}

// Peer is what is known of the worker at the other end of a connection.
type Peer struct {
	Evidence    *evidence.Evidence
	Document    []byte // the exact bytes of the evidence
	Verdict     string // the verifier's verdict that the worker showed, or empty
	VerdictCell string // the same for contracts, or empty
	SPKI        digest.SHA256
	VerifiedAt  time.Time
}

// Limits on the gateway's answers and on remembered evidence.
const (
	maxWorkerList  = 16 << 20 // of as many workers as a gateway takes, each with 16 models
	maxAccepted    = 64
	dialTimeout    = 60 * time.Second
	maxTryWorkers  = 8
	codeNoWorker   = "client.no_worker"
	codeGateway    = "client.gateway"
	codeWorkerKey  = "client.worker_key"
	codeTLSKey     = "client.tls_key"
	remedyGateway  = "check the gateway's address, or use another gateway"
	remedyReplaced = "the connection does not end in the worker you asked for; use another gateway"
)

// New returns a Client; it connects when it is first used.
func New(opt Options) (*Client, error) {
	if opt.Gateway == "" || opt.Appraise == nil {
		return nil, errors.New("making client: a gateway and a way to appraise evidence are needed")
	}
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{opt: opt, worker: opt.Worker, pinned: !opt.Worker.IsZero(), accepted: map[digest.SHA256]bool{}}, nil
}

// Peer returns the worker as it was when last verified, or nil.
func (c *Client) Peer() *Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Pin keeps the client to the worker that it has picked, as a job does that is
// released to one receipt key.
func (c *Client) Pin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned = !c.worker.IsZero()
}

// leave makes the next connection pick a worker again, unless only this one
// will do; it reports whether it does.
func (c *Client) leave(key digest.SHA256) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pinned {
		return false
	}
	if c.worker == key {
		c.worker = digest.SHA256{}
	}
	return true
}

func (c *Client) picked() digest.SHA256 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.worker
}

// Connect picks a worker if none is fixed and verifies it.
func (c *Client) Connect(ctx context.Context) (*Peer, error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	conn.Close()
	return c.Peer(), nil
}

// Dial returns a connection to the enclave over which the worker has just
// been attested: its certificate's evidence in the handshake, then the current
// evidence, GPUs included, with the receipt key's signature for this
// connection. If a worker that was picked is gone or passes no more, another is
// picked.
func (c *Client) Dial(ctx context.Context) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var errs []error
	had := c.picked()
	if !had.IsZero() {
		conn, err := c.dialWorker(ctx, had)
		if err == nil || ctx.Err() != nil || !c.leave(had) {
			return conn, err
		}
		c.opt.Log.Info("worker left, choosing another", "receipt_key", had.String(), "err", err)
		errs = append(errs, fmt.Errorf("worker %.16s: %w", had.String(), err))
	}
	keys, err := c.list(ctx)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	tried := 0
	for _, key := range keys {
		if key == had {
			continue // a moment ago it did not do
		}
		if tried++; tried > maxTryWorkers {
			break
		}
		conn, err := c.dialWorker(ctx, key)
		if err == nil {
			c.mu.Lock()
			c.worker = key
			c.mu.Unlock()
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("worker %.16s: %w", key.String(), err))
	}
	if tried == 0 {
		errs = append(errs, fault.New(fault.ExitNetwork, codeNoWorker, "wait for a worker to connect, or use another gateway",
			"choosing worker: the gateway has none for this model"))
	}
	return nil, errors.Join(errs...)
}

func (c *Client) list(ctx context.Context) ([]digest.SHA256, error) {
	hc := &http.Client{Transport: &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dialGateway(ctx) },
	}, Timeout: dialTimeout}
	defer hc.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.opt.Gateway+"/v1/workers", nil)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, codeGateway, remedyGateway, "asking gateway: %w", err)
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, codeGateway, remedyGateway, "asking gateway for workers: %w", err)
	}
	defer resp.Body.Close()
	var list struct {
		Workers []struct {
			ReceiptKey digest.SHA256 `json:"receipt_key"`
			Model      string        `json:"model"` // all that older gateways list
			Models     []struct {
				Name string `json:"name"`
			} `json:"models"`
		} `json:"workers"`
	}
	// A gateway may add fields; the list decides nothing, evidence does.
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxWorkerList)).Decode(&list); err != nil {
		return nil, fault.New(fault.ExitNetwork, codeGateway, remedyGateway, "reading the gateway's workers: %w", err)
	}
	var keys []digest.SHA256
	for _, w := range list.Workers {
		serves := c.opt.Model == "" || w.Model == c.opt.Model
		for _, m := range w.Models {
			serves = serves || m.Name == c.opt.Model
		}
		if serves {
			keys = append(keys, w.ReceiptKey)
		}
	}
	return keys, nil
}

func (c *Client) dialGateway(ctx context.Context) (net.Conn, error) {
	d := &tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"},
		// The gateway is not trusted (DESIGN section 2): this layer only
		// hides from the network which worker is asked for. What matters
		// runs inside, over TLS that ends in the enclave.
		InsecureSkipVerify: true,
	}}
	return d.DialContext(ctx, "tcp", c.opt.Gateway)
}

func (c *Client) dialWorker(ctx context.Context, key digest.SHA256) (*tls.Conn, error) {
	raw, err := c.dialGateway(ctx)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, codeGateway, remedyGateway, "dialing gateway: %w", err)
	}
	inner, err := connect(ctx, raw, key)
	if err != nil {
		raw.Close()
		return nil, err
	}
	conn := tls.Client(inner, ratls.ClientConfig(func(spki digest.SHA256, doc []byte) error {
		ev, err := c.read(key, spki, doc)
		if err == nil && (c.opt.Model == "" || ev.Claims.Model.Name == c.opt.Model) {
			err = c.accept(ev, key, spki, doc)
		}
		// The certificate of a worker of several models has the first one's
		// evidence, of which this client's policy may want to know nothing: attest
		// asks for that of its model, and nothing else is sent before.
		return err
	}, c.opt.Clock))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if len(fault.All(err)) == 0 {
			err = fault.New(fault.ExitNetwork, "client.handshake", "try again, or another worker", "handshaking with the enclave: %w", err)
		}
		return nil, err
	}
	if err := c.attest(ctx, conn, key); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *Client) attest(ctx context.Context, conn *tls.Conn, key digest.SHA256) error {
	spki := digest.Sum256(conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	var ev *evidence.Evidence
	resp, err := ratls.Attest(ctx, conn, c.opt.Model, func(resp *ratls.Response) (ed25519.PublicKey, error) {
		var err error
		if ev, err = c.read(key, spki, resp.Evidence); err != nil {
			return nil, err
		}
		// A worker of several models has evidence, and a verdict, for each.
		if got := ev.Claims.Model.Name; c.opt.Model != "" && got != c.opt.Model {
			return nil, fault.Mismatch(fault.ExitRefused, ratls.CodeModel, "the model of the worker's evidence", c.opt.Model, got, "use another worker")
		}
		return ed25519.PublicKey(key[:]), c.accept(ev, key, spki, resp.Evidence)
	})
	if err != nil {
		return err
	}
	peer := &Peer{Evidence: ev, Document: resp.Evidence, Verdict: resp.Verdict, VerdictCell: resp.VerdictCell, SPKI: spki, VerifiedAt: c.opt.Clock().UTC()}
	if c.opt.Verdict != nil {
		if err := c.opt.Verdict(ctx, peer); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = peer
	return nil
}

// read parses evidence, which must name the receipt key that was asked for and the
// TLS key of this connection.
func (c *Client) read(key, spki digest.SHA256, doc []byte) (*evidence.Evidence, error) {
	ev, err := evidence.Parse(doc)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "evidence.parse", "use another worker", "reading the worker's evidence: %w", err)
	}
	var errs []error
	if ev.Claims.ReceiptKey != key {
		errs = append(errs, fault.Mismatch(fault.ExitRefused, codeWorkerKey, "the worker's receipt key", key.String(), ev.Claims.ReceiptKey.String(), remedyReplaced))
	}
	if ev.Claims.TLSSPKISHA256 != spki {
		errs = append(errs, fault.Mismatch(fault.ExitRefused, codeTLSKey, "the enclave's TLS key", ev.Claims.TLSSPKISHA256.String(), spki.String(), remedyReplaced))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return ev, nil
}

// accept is where the client decides about a worker: its evidence must pass the
// caller's policy (DESIGN section 1, step 6). No request is sent before it did.
func (c *Client) accept(ev *evidence.Evidence, key, spki digest.SHA256, doc []byte) error {
	id := digest.Sum256(append(spki[:], doc...))
	c.mu.Lock()
	known := c.accepted[id]
	c.mu.Unlock()
	if known {
		return nil
	}
	if err := c.opt.Appraise(ev, spki); err != nil {
		return err
	}
	c.opt.Log.Info("worker accepted", "receipt_key", key.String(), "type", ev.CPU.Type)
	// The certificate and the endpoint usually show the same document, so
	// one appraisal serves a connection. Appraisals are not kept longer than
	// a connection's set-up needs: time passes, policies expire.
	c.remember(id)
	return nil
}

func (c *Client) remember(id digest.SHA256) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.accepted) >= maxAccepted {
		clear(c.accepted)
	}
	c.accepted[id] = true
	time.AfterFunc(dialTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.accepted, id)
	})
}

// connect asks the gateway for a stream to the worker.
func connect(ctx context.Context, conn net.Conn, key digest.SHA256) (net.Conn, error) {
	if dl, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(dl); err != nil {
			return nil, fmt.Errorf("setting deadline: %w", err)
		}
	}
	target := key.String() + ":443"
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target); err != nil {
		return nil, fault.New(fault.ExitNetwork, codeGateway, remedyGateway, "asking gateway for a tunnel: %w", err)
	}
	br := bufio.NewReader(io.LimitReader(conn, 16<<10))
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, codeGateway, remedyGateway, "asking gateway for a tunnel: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var p struct{ Code, Detail string }
		// The body only makes the message better.
		_ = json.NewDecoder(resp.Body).Decode(&p)
		if !strings.HasPrefix(p.Code, "gateway.") {
			p.Code = codeGateway
		}
		return nil, fault.New(fault.ExitNetwork, p.Code, "choose another worker, or wait until it is back",
			"asking gateway for a tunnel: %s: %.200s", resp.Status, p.Detail)
	}
	if br.Buffered() > 0 {
		return nil, fault.New(fault.ExitNetwork, codeGateway, remedyGateway, "asking gateway for a tunnel: it spoke before the enclave was asked")
	}
	return conn, conn.SetDeadline(time.Time{})
}
