package wire

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	verifierv1 "cocoon/api/verifier/v1"
)

// AppendAnswer appends an answer's protobuf encoding. Package proto looks through
// the maps in it by reflection, which takes longer than all the rest of the
// encoding. False means that there is something in it that is left to package
// proto: the submodules of refused evidence, or texts that are not UTF-8.
func AppendAnswer(b []byte, m *verifierv1.AppraiseResponse) ([]byte, bool) {
	if m.Result == nil || len(m.Result.Submods) > 0 || len(m.ProtoReflect().GetUnknown())+len(m.Result.ProtoReflect().GetUnknown()) > 0 {
		return nil, false
	}
	w := &encoder{b: b}
	w.flag(1, m.Accepted)
	w.text(2, m.Ear)
	w.text(3, m.Cell)
	at := w.open(4)
	w.result(m.Result)
	w.close(at)
	w.text(5, m.Promise)
	if len(m.Checks) > 0 {
		w.b = protowire.AppendBytes(protowire.AppendTag(w.b, 6, protowire.BytesType), m.Checks)
	}
	return w.b, !w.unknown
}

// encoder appends fields of messages. What is zero is left out.
type encoder struct {
	b       []byte
	unknown bool // something that is left to package proto
}

// open begins a message, whose length close puts in front of it.
func (w *encoder) open(field protowire.Number) int {
	w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
	return len(w.b)
}

func (w *encoder) close(at int) {
	n := len(w.b) - at
	size := protowire.SizeVarint(uint64(n))
	w.b = append(w.b, make([]byte, size)...)
	copy(w.b[at+size:], w.b[at:at+n])
	protowire.AppendVarint(w.b[:at], uint64(n))
}

func (w *encoder) text(field protowire.Number, s string) {
	if s != "" {
		w.item(field, s)
	}
}

// item is text for an element of a list, which may be empty.
func (w *encoder) item(field protowire.Number, s string) {
	w.unknown = w.unknown || !utf8.ValidString(s)
	w.b = protowire.AppendString(protowire.AppendTag(w.b, field, protowire.BytesType), s)
}

func (w *encoder) flag(field protowire.Number, v bool) {
	if v {
		w.number(field, 1)
	}
}

func (w *encoder) number(field protowire.Number, n uint64) {
	if n != 0 {
		w.b = protowire.AppendVarint(protowire.AppendTag(w.b, field, protowire.VarintType), n)
	}
}

func (w *encoder) result(r *verifierv1.Result) {
	w.flag(1, r.Accepted)
	w.text(2, r.TrustClass)
	w.flag(3, r.Development)
	w.time(4, r.Time)
	w.time(5, r.NotAfter)
	w.text(6, r.EvidenceSha256)
	w.text(7, r.PolicySha256)
	if m := r.Manifest; m != nil {
		at := w.open(8)
		w.text(1, m.Sha256)
		w.text(2, m.Name)
		w.number(3, m.Version)
		w.close(at)
	}
	if c := r.Claims; c != nil {
		at := w.open(9)
		for i, s := range []string{c.TlsSpkiSha256, c.ReceiptKey, c.Payout, c.ConfigSha256, c.ModelName, c.ModelVerityRoot, c.GpuEvidenceSha256, c.Nonce, c.StagesSha256} {
			w.text(protowire.Number(i+1), s)
		}
		w.close(at)
	}
	for name, value := range r.Measurements {
		at := w.open(10)
		w.item(1, name)
		w.item(2, value)
		w.close(at)
	}
	w.flag(12, r.Foreign)
	for _, root := range r.TestRoots {
		w.item(13, root)
	}
	for _, s := range r.Stages {
		at := w.open(14)
		w.text(1, s.GetName())
		w.text(2, s.GetStatus())
		w.number(3, uint64(s.GetMs()))
		w.text(4, s.GetCode())
		w.close(at)
	}
}

func (w *encoder) time(field protowire.Number, t *timestamppb.Timestamp) {
	if t == nil {
		return
	}
	at := w.open(field)
	w.number(1, uint64(t.Seconds))
	w.number(2, uint64(int64(t.Nanos))) // negative ones take ten bytes, as all of int32
	w.close(at)
}
