package corim_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/cbor"
	"cocoon/measurements/corim"
)

// The examples of the draft, as its diagnostic notation has them, encoded by
// another library (fxamacker/cbor, core deterministic mode).
const (
	goldenComid     = "a301a100503f06af63a93c11e4979700505690773f0281a3006941434d4520496e632e01d8207468747470733a2f2f61636d652e6578616d706c6502810004a1008182a100a400d8255067b28b6c34cc40a19117ab5b05911e37016941434d4520496e632e026f41434d4520526f616452756e6e6572030181a101a200a20065312e302e300119400002818201582044aa336af4cb14a879432e53dd6571c7fa9bccafb75f488259262d6ea3a4d91b"
	goldenRegisters = "a301a100503f06af63a93c11e4979700505690773f0281a3006941434d4520496e632e01d8207468747470733a2f2f61636d652e6578616d706c6502810004a1008182a100a400d8255067b28b6c34cc40a19117ab5b05911e37016941434d4520496e632e026f41434d4520526f616452756e6e6572030181a101a10ea200828201582044aa336af4cb14a879432e53dd6571c7fa9bccafb75f488259262d6ea3a4d91b82696d792d616c672d696444deadbeef656d792d6972828201582050aa341af9cb20a879440e58dd6581c14fa14bccafb75f488259262d6ea3a4d982696d792d616c672d696444fefefafa"
	goldenCorim     = "d901f5a20050284e6c3e5d9f4f6b851f5a4247f243a70181d901fa58afa301a100503f06af63a93c11e4979700505690773f0281a3006941434d4520496e632e01d8207468747470733a2f2f61636d652e6578616d706c6502810004a1008182a100a400d8255067b28b6c34cc40a19117ab5b05911e37016941434d4520496e632e026f41434d4520526f616452756e6e6572030181a101a200a20065312e302e300119400002818201582044aa336af4cb14a879432e53dd6571c7fa9bccafb75f488259262d6ea3a4d91b"
	goldenFirmware  = "d901f5a3005029b834181a5c4e4ea53e8f8786bc8c5b0181d901fa590156a301a10050af1cd895be784adbb7e9add44a65abf30281a300714669726d77617265204d464720496e632e01d820781868747470733a2f2f66776d6667696e632e6578616d706c6502810004a2008282a100a4017066776d6667696e632e6578616d706c6502676677595f6e35780300040081a101a201d902280102818207583015e77d6f133252f1db7044901313884f2977d2109b33c79f33e079bfc78865255c0fb733c240fdda544b8215d7b8f81582a100a4017066776d6667696e632e6578616d706c6502676677585f6e35780301040081a101a201d90228010281820758303d90b6bf003da2d94ea5463f97fb3c53ddc51cfba1e3e38eef7af071a67986595d22729131df9fe80f5451eef154f85e018182a100a200d86f4c6086480186f84d010f046301017066776d6667696e632e6578616d706c6581a101a204d902304800000000000000000548ffffffff0000000003d86f4a6086480186f84d010f06"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func number(n uint64) *uint64 { return &n }

var (
	sha256Example = corim.Digest{Algorithm: uint64(corim.SHA256), Value: unhex("44aa336af4cb14a879432e53dd6571c7fa9bccafb75f488259262d6ea3a4d91b")}
	acme          = corim.Class{ID: corim.UUID(unhex("67b28b6c34cc40a19117ab5b05911e37")), Vendor: "ACME Inc.", Model: "ACME RoadRunner", Layer: number(1)}
)

func comid(m corim.Measurement) corim.CoMID {
	return corim.CoMID{ID: corim.UUID(unhex("3f06af63a93c11e4979700505690773f")),
		Entities:  []corim.Entity{{Name: "ACME Inc.", RegID: "https://acme.example", Roles: []uint64{corim.RoleTagCreator}}},
		Reference: []corim.Triple{{Class: acme, Measurements: []corim.Measurement{m}}}}
}

func firmware(model string, layer uint64, hash string) corim.Triple {
	return corim.Triple{Class: corim.Class{Vendor: "fwmfginc.example", Model: model, Layer: number(layer), Index: number(0)},
		Measurements: []corim.Measurement{{SVN: number(1), Digests: []corim.Digest{{Algorithm: uint64(corim.SHA384), Value: unhex(hash)}}}}}
}

// examples are comid-1 and comid-integrity-registers, each in a corim-map of
// its own where the draft has none, corim-1 and corim-firmware-cd.
func examples() map[string]struct {
	doc    *corim.CoRIM
	golden string // of the CoRIM, or of its only tag
} {
	one := comid(corim.Measurement{Version: &corim.Version{Text: "1.0.0", Scheme: 16384}, Digests: []corim.Digest{sha256Example}})
	registers := comid(corim.Measurement{Registers: []corim.Register{
		{ID: uint64(0), Digests: []corim.Digest{sha256Example, {Algorithm: "my-alg-id", Value: unhex("deadbeef")}}},
		{ID: "my-ir", Digests: []corim.Digest{{Algorithm: uint64(corim.SHA256), Value: unhex("50aa341af9cb20a879440e58dd6581c14fa14bccafb75f488259262d6ea3a4d9")},
			{Algorithm: "my-alg-id", Value: unhex("fefefafa")}}}}})
	id := corim.UUID(unhex("284e6c3e5d9f4f6b851f5a4247f243a7"))
	fw := corim.CoMID{ID: corim.UUID(unhex("af1cd895be784adbb7e9add44a65abf3")),
		Entities: []corim.Entity{{Name: "Firmware MFG Inc.", RegID: "https://fwmfginc.example", Roles: []uint64{corim.RoleTagCreator}}},
		Reference: []corim.Triple{
			firmware("fwY_n5x", 0, "15e77d6f133252f1db7044901313884f2977d2109b33c79f33e079bfc78865255c0fb733c240fdda544b8215d7b8f815"),
			firmware("fwX_n5x", 1, "3d90b6bf003da2d94ea5463f97fb3c53ddc51cfba1e3e38eef7af071a67986595d22729131df9fe80f5451eef154f85e")},
		Endorsed: []corim.Triple{{Class: corim.Class{ID: corim.OID(unhex("6086480186f84d010f046301")), Vendor: "fwmfginc.example"},
			Measurements: []corim.Measurement{{Raw: unhex("0000000000000000"), RawMask: unhex("ffffffff00000000")}}}}}
	return map[string]struct {
		doc    *corim.CoRIM
		golden string
	}{
		"comid-1":                   {&corim.CoRIM{ID: id, Tags: []corim.CoMID{one}}, goldenComid},
		"comid-integrity-registers": {&corim.CoRIM{ID: id, Tags: []corim.CoMID{registers}}, goldenRegisters},
		"corim-1":                   {&corim.CoRIM{ID: id, Tags: []corim.CoMID{one}}, goldenCorim},
		"corim-firmware-cd": {&corim.CoRIM{ID: corim.UUID(unhex("29b834181a5c4e4ea53e8f8786bc8c5b")), Tags: []corim.CoMID{fw},
			Profile: corim.OID(unhex("6086480186f84d010f06"))}, goldenFirmware},
	}
}

func TestExamplesOfTheDraft(t *testing.T) {
	for name, e := range examples() {
		doc, err := e.doc.Encode()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tag, err := e.doc.Tags[0].Encode()
		if err != nil {
			t.Fatal(err)
		}
		if g := unhex(e.golden); !bytes.Equal(doc, g) && !bytes.Equal(tag, g) {
			t.Errorf("%s is\n%x, or its tag\n%x, want\n%s", name, doc, tag, e.golden)
		}
		back, err := corim.Decode(doc)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(e.doc, back); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestOtherDocumentsAreRefused flips every byte: what is read is written the
// same again, or not read.
func TestOtherDocumentsAreRefused(t *testing.T) {
	doc := unhex(goldenFirmware)
	refused := 0
	for i := range doc {
		bad := bytes.Clone(doc)
		bad[i] ^= 1
		c, err := corim.Decode(bad)
		if err != nil {
			if !errors.Is(err, cbor.ErrForm) {
				t.Errorf("byte %d: %v", i, err)
			}
			refused++
			continue
		}
		if again, err := c.Encode(); err != nil || !bytes.Equal(again, bad) {
			t.Errorf("byte %d: read and written otherwise: %v", i, err)
		}
	}
	if refused < 80 {
		t.Errorf("only %d of %d changes are refused", refused, len(doc))
	}
	for name, in := range map[string]string{"comid-1 without a CoRIM": goldenComid, "no tags": "d901f5a10001", "another tag": "d901f6a0", "an unknown key": "d901f5a200616101811863"} {
		if _, err := corim.Decode(unhex(in)); !errors.Is(err, cbor.ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{goldenCorim, goldenFirmware, "d901f5a10001"} {
		f.Add(unhex(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := corim.Decode(b)
		if err != nil {
			return
		}
		if again, err := c.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is %x again, %v", b, again, err)
		}
	})
}
