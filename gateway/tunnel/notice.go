package tunnel

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/yamux"
)

// Notice is a frame on the one stream that a worker opens itself, in version 2:
// it drains, or takes requests again. It names no worker: the tunnel does, whose
// key was proven.
type Notice struct {
	Draining bool   `json:"draining"`
	Seq      uint64 `json:"seq"` // from 1, greater in each notice of a tunnel
}

// Notify tells the gateway whether the worker drains. What the gateway has heard
// already is not said again, and one of version 1 is told nothing. An error
// means that the tunnel is of no more use.
func (t *Tunnel) Notify(draining bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.notices || draining == t.told {
		return nil
	}
	if t.stream == nil {
		s, err := t.sess.OpenStream()
		if err != nil {
			return fmt.Errorf("opening a stream for notices: %w", err)
		}
		t.stream = s
	}
	t.seq++
	if err := writeFrame(t.stream, Notice{Draining: draining, Seq: t.seq}); err != nil {
		return fmt.Errorf("sending notice: %w", err)
	}
	t.told = draining
	return nil
}

// Notices is the gateway's side of Notify: it hands each news to heard, until the
// session ends. A notice that is not newer than the last one is none. It returns
// an error for a worker that keeps to no protocol: one that opens more than this
// stream could have the gateway keep a window of bytes for each. In version 1,
// with a nil heard, a worker opens none.
func Notices(sess *yamux.Session, heard func(draining bool)) error {
	s, err := sess.AcceptStream()
	if err != nil {
		return nil // the session has ended without one
	}
	defer s.Close()
	if heard == nil {
		return fmt.Errorf("a worker of %s opened a stream", ALPN1)
	}
	news := make(chan error, 1)
	go func() { news <- hear(s, heard) }()
	more := make(chan error, 1)
	go func() {
		_, err := sess.AcceptStream()
		more <- err
	}()
	for {
		select {
		case err := <-news:
			if err != nil && !sess.IsClosed() {
				return fmt.Errorf("reading notice: %w", err)
			}
			news = nil // the tunnel has ended, or has no more to say
		case err := <-more:
			if err != nil { // the session has ended
				if news != nil {
					<-news
				}
				return nil
			}
			return errors.New("a worker opened a second stream")
		}
	}
}

func hear(r io.Reader, heard func(draining bool)) error {
	var last uint64
	for {
		var n Notice
		switch err := readFrame(r, &n); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n.Seq > last:
			last = n.Seq
			heard(n.Draining)
		}
	}
}
