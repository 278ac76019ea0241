package server

import (
	"compress/gzip"
	"encoding/binary"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"cocoon/internal/fault"
	"cocoon/verifier/wire"
)

// Package connect calls a message that is too large an exhausted resource, which
// is HTTP's 429 and makes callers send it again. Here it is the request's own
// fault, and says so in every protocol: 413 where the protocol has HTTP's status,
// invalid_argument, and the fault with the limit.

const codeTooLarge = "request.too_large"

// errBodyTooLarge is the fault of a request of more bytes than these.
func errBodyTooLarge(limit int64) error {
	return fault.New(fault.ExitParse, codeTooLarge, "send no more than is documented: docs/verifier-api.md", "reading request: it has more than %d bytes", limit)
}

// headerTooLarge is set beside the error and tells sized which status it has: it
// does not leave this process where there is one.
const headerTooLarge = "Cocoon-Too-Large"

func tooLarge(limit int64) *connect.Error {
	err := wire.Error(errBodyTooLarge(limit))
	err.Meta().Set(headerTooLarge, "1")
	return err
}

// sized is a body that ends in tooLarge, and an answer of which the status is
// 413 then.
type sized struct {
	http.ResponseWriter
	body io.ReadCloser

	limit, left int64
	enveloped   bool // five bytes go before a message, the last four its length
	prefix      [5]byte
	seen        int // of prefix
}

// enveloped reports whether messages of a request have their length before them
// (gRPC over HTTP/2, length-prefixed messages; so has Connect's streaming form).
func enveloped(r *http.Request) bool {
	typ := r.Header.Get("Content-Type")
	return strings.HasPrefix(typ, "application/grpc") || strings.HasPrefix(typ, "application/connect+")
}

// bound holds a request to a limit.
func bound(w http.ResponseWriter, r *http.Request, limit int64) http.ResponseWriter {
	s := &sized{ResponseWriter: w, body: r.Body, limit: limit, left: limit, enveloped: enveloped(r)}
	r.Body = s
	return s
}

// Read implements io.Reader.
func (s *sized) Read(p []byte) (int, error) {
	if int64(len(p)) > s.left+1 {
		p = p[:s.left+1]
	}
	if s.enveloped && s.seen < len(s.prefix) && len(p) > len(s.prefix)-s.seen {
		p = p[:len(s.prefix)-s.seen]
	}
	n, err := s.body.Read(p)
	if s.left -= int64(n); s.left < 0 {
		return 0, tooLarge(s.limit)
	}
	if s.enveloped && s.seen < len(s.prefix) {
		s.seen += copy(s.prefix[s.seen:], p[:n])
		if s.seen == len(s.prefix) && int64(binary.BigEndian.Uint32(s.prefix[1:])) > s.limit-int64(len(s.prefix)) {
			return 0, tooLarge(s.limit) // before any of it comes
		}
	}
	return n, err
}

// Close leaves the body to package http, which closes it after the answer, and the
// connection where there is more to come. Of one that is closed before that, and
// that is not its own, it takes the rest for the next request.
func (*sized) Close() error { return nil }

// WriteHeader implements http.ResponseWriter.
func (s *sized) WriteHeader(status int) {
	if h := s.Header(); h.Get(headerTooLarge) != "" {
		h.Del(headerTooLarge)
		if !s.enveloped {
			status = http.StatusRequestEntityTooLarge
		}
	}
	s.ResponseWriter.WriteHeader(status)
}

// Flush implements http.Flusher, which gRPC needs.
func (s *sized) Flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() } // an error here is the peer's hang-up

// Unwrap is for http.ResponseController.
func (s *sized) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// gunzip is package connect's decompressor, but for what it says of a message
// that is small and unpacks to more than any may have.
type gunzip struct {
	gzip.Reader
	left int64
}

// Reset implements connect.Decompressor.
func (g *gunzip) Reset(r io.Reader) error {
	g.left = maxMessage
	return g.Reader.Reset(r)
}

// Read implements connect.Decompressor.
func (g *gunzip) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if g.left -= int64(n); g.left < 0 {
		return 0, tooLarge(maxMessage)
	}
	return n, err
}

// withGunzip has a handler unpack requests so.
func withGunzip() connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithCompression("gzip", nil, nil), // the one that is there by default
		connect.WithCompression("gzip", func() connect.Decompressor { return &gunzip{} },
			func() connect.Compressor { return gzip.NewWriter(io.Discard) }))
}
