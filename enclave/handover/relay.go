package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"cocoon/internal/fault"
)

// helloFor is how long a connection has to say whose it is.
const helloFor = 10 * time.Second

// Carry is the host's part: it waits until a giver and a taker have connected,
// carries one exchange between them, and returns what the taker gives the host
// to keep. What an enclave refuses is returned with that enclave's faults. met
// is told whom it has; ctx ends the waiting and the exchange.
func Carry(ctx context.Context, l net.Listener, m Material, met func(role string)) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	type arrival struct {
		conn net.Conn
		role string
		err  error
	}
	arrivals := make(chan arrival)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				select {
				case arrivals <- arrival{err: err}:
				case <-ctx.Done():
				}
				return
			}
			go func() {
				_ = c.SetReadDeadline(time.Now().Add(helloFor))
				role, err := greeted(c)
				_ = c.SetReadDeadline(time.Time{})
				if err != nil {
					c.Close() // nobody of ours
					return
				}
				select {
				case arrivals <- arrival{conn: c, role: role}:
				case <-ctx.Done():
					c.Close()
				}
			}()
		}
	}()
	have := map[string]net.Conn{}
	defer func() {
		for _, c := range have {
			c.Close()
		}
	}()
	for len(have) < 2 {
		select {
		case a := <-arrivals:
			if a.err != nil {
				return nil, fmt.Errorf("waiting for the machines: %w", errors.Join(ctx.Err(), a.err))
			}
			if old := have[a.role]; old != nil {
				old.Close() // it came back
			}
			have[a.role] = a.conn
			met(a.role)
		case <-ctx.Done():
			return nil, fault.New(fault.ExitNetwork, "handover.away", "start both machines with this address in operator.json, the new one with takeover",
				"waiting for the machines: %d of 2 came: %w", len(have), ctx.Err())
		}
	}
	defer context.AfterFunc(ctx, func() {
		for _, c := range have {
			c.Close()
		}
	})()
	return relay(have[RoleGiver], have[RoleTaker], m)
}

// greeted reads whose connection it is.
func greeted(c io.Reader) (string, error) {
	var got presence
	if err := readFrame(c, &got); err != nil {
		return "", err
	}
	if got.Format != Format || got.Role != RoleGiver && got.Role != RoleTaker {
		return "", fault.New(fault.ExitParse, CodeMessage, "use releases that know the same hand-over on both sides", "meeting a machine: format %.32q, role %.32q", got.Format, got.Role)
	}
	return got.Role, nil
}

// relay carries one exchange.
func relay(giver, taker io.ReadWriter, m Material) ([]byte, error) {
	// What is the giver's own is the taker's peer.
	forGiver := &material{Own: m.Own, Peer: m.Peer, OwnCollateral: m.OwnCollateral, PeerCollateral: m.PeerCollateral}
	forTaker := &material{Own: m.Peer, Peer: m.Own, OwnCollateral: m.PeerCollateral, PeerCollateral: m.OwnCollateral}
	var msg []byte
	for _, step := range []struct {
		role     string
		conn     io.ReadWriter
		call     string
		material *material
	}{
		{RoleTaker, taker, callHello, nil},
		{RoleGiver, giver, callOffer, nil},
		{RoleTaker, taker, callAsk, nil},
		{RoleGiver, giver, callGrant, forGiver},
		{RoleTaker, taker, callTake, forTaker},
	} {
		var out reply
		err := writeFrame(step.conn, call{Call: step.call, Message: msg, Material: step.material})
		if err == nil {
			err = readFrame(step.conn, &out)
		}
		if err != nil {
			return nil, fmt.Errorf("asking the %s: %w", step.role, err)
		}
		var errs []error
		for _, f := range out.Faults {
			errs = append(errs, &fault.Fault{Exit: f.Exit, Code: f.Code, Msg: step.role + ": " + f.Message, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy})
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		msg = out.Message
	}
	return msg, nil
}
