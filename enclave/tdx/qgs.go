package tdx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// QGSPort is the vsock port of Intel's quote generation service.
const QGSPort = 4050

// Bounds and times of a request.
const (
	maxQGS     = 64 << 10
	qgsTimeout = 30 * time.Second
)

// Messages (Intel SGX DCAP, quote generation service, qgs_msg_lib): a header
// {major u16, minor u16, type u32, size u32, error u32}, little-endian, size
// counting the header. Over vsock each message has its length before it, 4
// bytes, big-endian.
const (
	qgsMajor    = 1
	qgsGetQuote = 0
	qgsAnswer   = 1
	qgsHeader   = 16
)

// Dial reaches the host's service.
type Dial func(ctx context.Context) (net.Conn, error)

// askQGS turns a TDREPORT into a quote. The service is the host's: what it
// answers is a quote over this report, or refused by every verifier.
func askQGS(ctx context.Context, dial Dial, report []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, qgsTimeout)
	defer cancel()
	c, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the quote generation service: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write(qgsRequest(report)); err != nil {
		return nil, fmt.Errorf("asking the quote generation service: %w", err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, fmt.Errorf("asking the quote generation service: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < qgsHeader || n > maxQGS {
		return nil, fmt.Errorf("asking the quote generation service: answer of %d bytes, want %d to %d", n, qgsHeader, maxQGS)
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(c, msg); err != nil {
		return nil, fmt.Errorf("asking the quote generation service: %w", err)
	}
	return parseQGS(msg)
}

func qgsRequest(report []byte) []byte {
	n := uint32(qgsHeader + 8 + len(report))
	b := binary.BigEndian.AppendUint32(nil, n)
	le := binary.LittleEndian
	b = le.AppendUint16(b, qgsMajor)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, qgsGetQuote)
	b = le.AppendUint32(b, n)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(len(report)))
	b = le.AppendUint32(b, 0) // no list of attestation keys: the service's own
	return append(b, report...)
}

// parseQGS reads the answer: the header, the sizes of the chosen key's
// identifier and of the quote, then both.
func parseQGS(b []byte) ([]byte, error) {
	if len(b) < qgsHeader {
		return nil, errors.New("reading the quote generation service's answer: it is cut short")
	}
	le := binary.LittleEndian
	major, kind, size, code := le.Uint16(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	if major != qgsMajor || kind != qgsAnswer || uint64(size) != uint64(len(b)) {
		return nil, fmt.Errorf("reading the quote generation service's answer: version %d, type %d, size %d of %d bytes", major, kind, size, len(b))
	}
	if code != 0 {
		return nil, fmt.Errorf("reading the quote generation service's answer: error %#x", code)
	}
	b = b[qgsHeader:]
	if len(b) < 8 {
		return nil, errors.New("reading the quote generation service's answer: it is cut short")
	}
	id, quote := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
	b = b[8:]
	if quote == 0 || id+quote != uint64(len(b)) {
		return nil, fmt.Errorf("reading the quote generation service's answer: %d and %d bytes announced, %d there", id, quote, len(b))
	}
	return b[id:], nil
}
