// Package hostorder has the orders that a host gives its guest: one JSON
// object a line, on the channel that carries the guest's status lines the
// other way. Nothing vouches for them, and nothing needs to: they are about
// availability alone, which is the host's in any case, since it can take the
// power away. A guest answers each with a status line of type "drain".
package hostorder

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"cocoon/internal/jcs"
)

// MaxOrder bounds one order in bytes, the newline included.
const MaxOrder = 1024

// Types of orders.
const (
	// Drain: take no new request, finish what runs until the deadline, cut off
	// what still runs then. The machine stays up; its receipts and vouchers can
	// be fetched.
	Drain = "drain"
	// Resume: take requests again.
	Resume = "resume"
)

// MaxDeadline bounds the time that a guest drains.
const MaxDeadline = time.Hour

// maxID bounds an order's identifier, in bytes.
const maxID = 64

// Order is one order.
type Order struct {
	Type string `json:"type"`
	// ID names the order in the guest's answers. An order whose ID the guest
	// has seen is answered again and changes nothing, so that it may be
	// repeated, and so that one that was kept back means nothing later.
	ID string `json:"id"`
	// DeadlineMS is how long running requests have from the order's arrival,
	// in milliseconds. With 0 they are cut off at once.
	DeadlineMS int64 `json:"deadline_ms,omitempty"`
}

// Deadline returns how long running requests have.
func (o *Order) Deadline() time.Duration { return time.Duration(o.DeadlineMS) * time.Millisecond }

func (o *Order) check() error {
	if o.Type != Drain && o.Type != Resume {
		return fmt.Errorf("type %.32q is unknown", o.Type)
	}
	if o.ID == "" || len(o.ID) > maxID {
		return fmt.Errorf("id of %d bytes, want 1 to %d", len(o.ID), maxID)
	}
	for _, c := range []byte(o.ID) {
		if c <= ' ' || c > '~' {
			return errors.New("id is not printable")
		}
	}
	if o.DeadlineMS < 0 || o.DeadlineMS > MaxDeadline.Milliseconds() || o.Type != Drain && o.DeadlineMS != 0 {
		return fmt.Errorf("deadline of %d ms, want 0 to %d, and 0 for what is no drain", o.DeadlineMS, MaxDeadline.Milliseconds())
	}
	return nil
}

// Parse reads one order, strictly.
func Parse(b []byte) (*Order, error) {
	var o Order
	if err := jcs.Decode(bytes.TrimSpace(b), MaxOrder, &o); err != nil {
		return nil, fmt.Errorf("parsing order: %w", err)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("parsing order: %w", err)
	}
	return &o, nil
}

// Marshal returns the order as a line.
func (o *Order) Marshal() ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("encoding order: %w", err)
	}
	b, err := jcs.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encoding order: %w", err)
	}
	return append(b, '\n'), nil
}

// Read calls each for every order of r until r ends, and bad for every line
// that is none; what is too long is skipped to its end.
func Read(r io.Reader, each func(*Order), bad func(error)) error {
	br := bufio.NewReaderSize(r, MaxOrder)
	for {
		line, err := br.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = br.ReadSlice('\n')
		}
		switch {
		case long:
			bad(fmt.Errorf("reading orders: more than %d bytes: %w", MaxOrder, jcs.ErrTooLarge))
		case len(bytes.TrimSpace(line)) > 0:
			if o, perr := Parse(line); perr != nil {
				bad(perr)
			} else {
				each(o)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading orders: %w", err)
		}
	}
}
