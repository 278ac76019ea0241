package server

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/verifier/wire"
)

// buffers are for requests and answers of unary; larger ones are left to the
// collector.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const (
	maxPooled = 256 << 10
	// A caller may say that much is to come and send nothing: connect's buffer
	// grows with what does come.
	maxUnary = 1 << 20
)

func release(b *[]byte) {
	if cap(*b) <= maxPooled {
		buffers.Put(b)
	}
}

// unary answers the requests that a verifier under load has nearly all of:
// Appraise in the Connect protocol's unary form with protobuf, not compressed and
// without a timeout, of one field, the evidence. They are what they are to
// package connect, which takes every other request: read into one buffer and out
// of it, where connect reads into one, copies to another and keeps neither.
func (s *Server) unary(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !plainAppraise(r) {
			next.ServeHTTP(w, r)
			return
		}
		in := buffers.Get().(*[]byte)
		defer release(in)
		if n := int(r.ContentLength); cap(*in) < n {
			*in = make([]byte, n)
		} else {
			*in = (*in)[:n]
		}
		if _, err := io.ReadFull(r.Body, *in); err != nil {
			// The connection is at its end, or too slow. Connect says it.
			r.Body = io.NopCloser(failing{err})
			next.ServeHTTP(w, r)
			return
		}
		doc, ok := onlyEvidence(*in)
		if !ok {
			r.Body = io.NopCloser(bytes.NewReader(bytes.Clone(*in)))
			next.ServeHTTP(w, r)
			return
		}
		// Nothing keeps doc: what is read of it is copied.
		msg, err := s.appraise(r.Context(), doc)
		if _, err := answer(r.Context(), s, r.URL.Path, msg, err); err != nil {
			_ = s.errors.Write(w, r, err) // an error here is the peer's hang-up
			return
		}
		out := buffers.Get().(*[]byte)
		defer release(out)
		b, ok := wire.AppendAnswer((*out)[:0], msg)
		if !ok {
			b, err = proto.MarshalOptions{}.MarshalAppend((*out)[:0], msg)
		}
		if err != nil {
			s.log.ErrorContext(r.Context(), "encoding answer failed", "error", err)
			_ = s.errors.Write(w, r, wire.Error(err)) // likewise
			return
		}
		*out = b
		h := w.Header()
		h["Content-Type"], h["Content-Length"] = protoType, []string{strconv.Itoa(len(b))}
		together(w, r, b)
	})
}

var protoType = []string{"application/proto"}

// failing is a body that ends in an error.
type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) { return 0, f.err }

// plainAppraise reports whether a request may be one for unary.
func plainAppraise(r *http.Request) bool {
	if r.Method != http.MethodPost || r.URL.Path != verifierv1connect.VerifierServiceAppraiseProcedure || r.ContentLength <= 0 || r.ContentLength > maxUnary {
		return false
	}
	typ := r.Header["Content-Type"]
	return len(typ) == 1 && typ[0] == protoType[0] && len(r.Header["Content-Encoding"]) == 0 && len(r.Header["Connect-Timeout-Ms"]) == 0
}

// onlyEvidence returns the first field of an AppraiseRequest that has no other,
// and has it once.
func onlyEvidence(msg []byte) ([]byte, bool) {
	num, typ, n := protowire.ConsumeTag(msg)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return nil, false
	}
	doc, m := protowire.ConsumeBytes(msg[n:])
	return doc, m >= 0 && n+m == len(msg)
}
