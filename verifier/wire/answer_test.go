package wire_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/verifier/wire"
)

// fill sets every field of a message, whatever is added to it, but for those
// named.
func fill(m protoreflect.Message, not ...protoreflect.Name) {
	n := int64(0)
	scalar := func(f protoreflect.FieldDescriptor) protoreflect.Value {
		n++
		switch f.Kind() {
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.StringKind:
			return protoreflect.ValueOfString("the text of " + string(f.FullName()))
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte{0, 0xff})
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(-int32(n))
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(-n << 40)
		}
		return protoreflect.ValueOfUint64(uint64(n) << 60)
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		skip := false
		for _, name := range not {
			skip = skip || f.Name() == name
		}
		switch {
		case skip:
		case f.IsMap():
			for _, key := range []string{"", "key", "another"} {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(key).MapKey(), scalar(f.MapValue()))
			}
		case f.IsList() && f.Message() != nil:
			fill(m.Mutable(f).List().AppendMutable().Message())
			m.Mutable(f).List().AppendMutable() // an empty one
		case f.IsList():
			m.Mutable(f).List().Append(scalar(f))
			m.Mutable(f).List().Append(protoreflect.ValueOfString(""))
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), not...)
		default:
			m.Set(f, scalar(f))
		}
	}
}

func TestAnswersAreEncodedAsPackageProtoDoes(t *testing.T) {
	full := &verifierv1.AppraiseResponse{}
	fill(full.ProtoReflect(), "submods")
	_, accepted := answer(t)
	long := proto.Clone(full).(*verifierv1.AppraiseResponse)
	long.Result.TestRoots = append(long.Result.TestRoots, string(make([]byte, 1<<15)))
	for name, want := range map[string]*verifierv1.AppraiseResponse{
		"every field":   full,
		"long ones":     long,
		"a verdict":     accepted,
		"nothing in it": {Result: &verifierv1.Result{}},
		"empty parts": {Result: &verifierv1.Result{Manifest: &verifierv1.ManifestRef{}, Claims: &verifierv1.Claims{}, Measurements: map[string]string{"": ""},
			Stages: []*verifierv1.BootStage{{}}}},
	} {
		b, ok := wire.AppendAnswer([]byte("before"), want)
		if !ok || string(b[:6]) != "before" {
			t.Errorf("%s: is left to package proto", name)
			continue
		}
		var got verifierv1.AppraiseResponse
		if err := proto.Unmarshal(b[6:], &got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if n := proto.Size(want); len(b)-6 != n {
			t.Errorf("%s: %d bytes, package proto's has %d", name, len(b)-6, n)
		}
	}
}

func TestAnswersOfAnotherKindAreLeftToPackageProto(t *testing.T) {
	for name, m := range map[string]*verifierv1.AppraiseResponse{
		"no result":             {},
		"submodules":            {Result: message(t)},
		"a text that is not":    {Result: &verifierv1.Result{TrustClass: "\xff"}},
		"a register that is no": {Result: &verifierv1.Result{Measurements: map[string]string{"a": "\xff"}}},
	} {
		if _, ok := wire.AppendAnswer(nil, m); ok {
			t.Errorf("%s: is encoded", name)
		}
	}
	unknown := &verifierv1.AppraiseResponse{Result: &verifierv1.Result{}}
	unknown.ProtoReflect().SetUnknown(protoreflect.RawFields{0xf8, 1, 1})
	if _, ok := wire.AppendAnswer(nil, unknown); ok {
		t.Error("a field that is not known is left out")
	}
}
