package handover

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// Roles of an enclave.
const (
	RoleGiver = "giver"
	RoleTaker = "taker"
)

// An enclave connects to the host and answers its calls; the host carries the
// messages from one to the other (Carry). Frames have their length before them,
// 4 bytes, big-endian.
const (
	callOffer = "offer" // giver: Message is the hello
	callGrant = "grant" // giver: Message is the ask
	callHello = "hello" // taker
	callAsk   = "ask"   // taker: Message is the offer
	callTake  = "take"  // taker: Message is the grant
)

// maxFrame has room for a message and the material, both in base64.
const maxFrame = 2 * MaxMessage

// presence is an enclave's first frame.
type presence struct {
	Format string `json:"format"`
	Role   string `json:"role"`
}

// call is the host's.
type call struct {
	Call     string    `json:"call"`
	Message  []byte    `json:"message,omitempty"`
	Material *material `json:"material,omitempty"`
}

// material is Material on its way.
type material struct {
	Own            []byte `json:"own"`
	Peer           []byte `json:"peer"`
	OwnCollateral  []byte `json:"own_collateral,omitempty"`
	PeerCollateral []byte `json:"peer_collateral,omitempty"`
}

// reply is the enclave's.
type reply struct {
	Message []byte `json:"message,omitempty"`
	Faults  []told `json:"faults,omitempty"`
}

// told is a fault on its way.
type told struct {
	Exit     int    `json:"exit"`
	Code     string `json:"code"`
	Message  string `json:"message"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

func writeFrame(w io.Writer, v any) error {
	doc, err := jcs.Marshal(v)
	if err == nil && len(doc) > maxFrame {
		err = fmt.Errorf("%d bytes, at most %d", len(doc), maxFrame)
	}
	if err == nil {
		_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(doc))), doc...))
	}
	if err != nil {
		return fmt.Errorf("writing frame: %w", err)
	}
	return nil
}

func readFrame(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return fmt.Errorf("reading frame: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > maxFrame {
		return fault.New(fault.ExitParse, CodeMessage, "use the same release on both sides", "reading frame: %d bytes, at most %d", n, maxFrame)
	}
	var buf bytes.Buffer // grows with what really comes
	if _, err := io.CopyN(&buf, r, int64(n)); err != nil {
		return fmt.Errorf("reading frame: %w", err)
	}
	if err := jcs.Decode(buf.Bytes(), maxFrame, v); err != nil {
		return fault.New(fault.ExitParse, CodeMessage, "use the same release on both sides", "reading frame: %w", err)
	}
	return nil
}

// Serve answers the host's calls as a giver, until the connection ends.
func (g *Giver) Serve(ctx context.Context, conn io.ReadWriter) error {
	return serve(ctx, conn, RoleGiver, func(c *call) ([]byte, error) {
		switch {
		case c.Call == callOffer:
			return g.Offer(c.Message)
		case c.Call == callGrant && c.Material != nil:
			return g.Grant(ctx, c.Message, c.Material.open())
		}
		return nil, unknownCall(c)
	})
}

// Serve answers the host's calls as a taker, until a key was taken or the
// connection ends. seal makes the answer to the last call of the key: what the
// host may keep. It returns nil once that was sent.
func (t *Taker) Serve(ctx context.Context, conn io.ReadWriter, seal func(key []byte) ([]byte, error)) error {
	done := errors.New("taken")
	err := serve(ctx, conn, RoleTaker, func(c *call) ([]byte, error) {
		switch {
		case c.Call == callHello:
			return t.Hello()
		case c.Call == callAsk:
			return t.Ask(ctx, c.Message)
		case c.Call == callTake && c.Material != nil:
			key, err := t.Take(ctx, c.Message, c.Material.open())
			if err != nil {
				return nil, err
			}
			defer clear(key)
			out, err := seal(key)
			if err != nil {
				return nil, err
			}
			return out, done
		}
		return nil, unknownCall(c)
	}, done)
	if errors.Is(err, done) {
		return nil
	}
	return err
}

func unknownCall(c *call) error {
	return fault.New(fault.ExitParse, CodeMessage, "use the same release on both sides", "answering the host: call %.32q is unknown, or lacks its material", c.Call)
}

// serve answers calls with what answer returns. An error is told to the host,
// and the next call answered; last, beside an answer, ends it.
func serve(ctx context.Context, conn io.ReadWriter, role string, answer func(*call) ([]byte, error), last ...error) error {
	if err := writeFrame(conn, presence{Format: Format, Role: role}); err != nil {
		return err
	}
	for ctx.Err() == nil {
		var c call
		if err := readFrame(conn, &c); err != nil {
			return err
		}
		msg, err := answer(&c)
		if len(last) > 0 && errors.Is(err, last[0]) {
			if err := writeFrame(conn, reply{Message: msg}); err != nil {
				return err
			}
			return last[0]
		}
		out := reply{Message: msg}
		if err != nil {
			out = reply{Faults: tell(err)}
		}
		if err := writeFrame(conn, out); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func tell(err error) []told {
	all := fault.All(err)
	if len(all) == 0 {
		return []told{{Exit: fault.ExitInternal, Code: "handover.internal", Message: err.Error()}}
	}
	var out []told
	for _, f := range all {
		out = append(out, told{Exit: f.Exit, Code: f.Code, Message: f.Msg, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy})
	}
	return out
}

func (m *material) open() Material {
	return Material{Own: m.Own, Peer: m.Peer, OwnCollateral: json.RawMessage(m.OwnCollateral), PeerCollateral: json.RawMessage(m.PeerCollateral)}
}
