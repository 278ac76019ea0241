package worker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"cocoon/internal/hostorder"
)

// maxBadOrders bounds the unreadable orders that are told: the host decides how
// many there are.
const maxBadOrders = 8

// rereadPause is how long a channel that ended is left alone.
const rereadPause = time.Second

// listen takes the host's orders from the status channel until background
// ends. A virtio-serial port whose host is away reads as its end and comes
// back; a connection does not.
func (w *Worker) listen(background context.Context, channel io.Reader) {
	bad := 0
	_, again := channel.(*os.File)
	go func() {
		for background.Err() == nil {
			err := hostorder.Read(channel, w.drainer.Order, func(err error) {
				if bad++; bad <= maxBadOrders {
					w.log.Warn("unreadable order", "err", err)
				}
			})
			if !again || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-background.Done():
			case <-time.After(rereadPause):
			}
		}
	}()
}
