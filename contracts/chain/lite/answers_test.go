package lite

import (
	"testing"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"
)

func id(seqno uint32) *ton.BlockIDExt {
	return &ton.BlockIDExt{Workchain: -1, Shard: -1 << 63, SeqNo: seqno, RootHash: make([]byte, 32), FileHash: make([]byte, 32)}
}

// samples are answers as the client library serialises them.
func samples(t testing.TB) map[string][]byte {
	out := map[string][]byte{}
	for name, v := range map[string]any{
		"master":       ton.MasterchainInfo{Last: id(9), StateRootHash: make([]byte, 32), Init: &ton.ZeroStateIDExt{Workchain: -1, RootHash: make([]byte, 32), FileHash: make([]byte, 32)}},
		"header":       ton.BlockHeader{ID: id(9), HeaderProof: []byte{1, 2, 3}},
		"sent":         ton.SendMessageStatus{Status: 1},
		"error":        ton.LSError{Code: 651, Text: "block not found"},
		"transactions": ton.TransactionList{IDs: []*ton.BlockIDExt{id(1), id(2)}, Transactions: []byte{1, 2, 3}},
		"links": ton.PartialBlockProof{Complete: true, From: id(1), To: id(9), Steps: []any{ton.BlockLinkForward{ToKeyBlock: true,
			From: id(1), To: id(9), DestProof: make([]byte, 300), ConfigProof: []byte{2}, SignatureSet: &ton.SignatureSet{ValidatorSetHash: 3,
				CatchainSeqno: 4, Signatures: []ton.Signature{{NodeIDShort: make([]byte, 32), Signature: make([]byte, 64)}}}}}},
		"back": ton.PartialBlockProof{From: id(9), To: id(1), Steps: []any{ton.BlockLinkBackward{From: id(9), To: id(1)}}},
	} {
		b, err := tl.Serialize(v, true)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

func TestAnswersAreReadAsTheLibraryWritesThem(t *testing.T) {
	s := samples(t)
	if b, err := MasterchainInfo(s["master"]); err != nil || !b.Equals(id(9)) {
		t.Errorf("%+v, %v", b, err)
	}
	if v, err := SendStatus(s["sent"]); err != nil || v != 1 {
		t.Errorf("%d, %v", v, err)
	}
	if bag, n, err := TransactionList(s["transactions"]); err != nil || n != 2 || len(bag) != 3 {
		t.Errorf("%d, %x, %v", n, bag, err)
	}
	if bag, err := BlockHeader(s["header"]); err != nil || len(bag) != 3 {
		t.Errorf("%x, %v", bag, err)
	}
	links, to, err := BlockProof(s["links"])
	if err != nil || len(links) != 1 || !to.Equals(id(9)) {
		t.Fatalf("%+v, %v", links, err)
	}
	l := links[0]
	if !l.ToKey || !l.To.Equals(id(9)) || len(l.Dest) != 300 || len(l.Config) != 1 || l.Signatures.ValidatorSetHash != 3 ||
		l.Signatures.CatchainSeqno != 4 || len(l.Signatures.Signatures) != 1 || len(l.Signatures.Signatures[0].Signature) != 64 {
		t.Errorf("%+v", l)
	}
	if _, _, err := BlockProof(s["back"]); err == nil {
		t.Error("a backward link was accepted")
	}
	if _, err := MasterchainInfo(s["error"]); err == nil || err.(*Error).Code != 651 {
		t.Errorf("an error became %v", err)
	}
	if _, err := MasterchainInfo(s["sent"]); err == nil {
		t.Error("another answer was accepted")
	}
	for name, b := range s {
		for n := range len(b) {
			for _, read := range readers() {
				if err := read(b[:n]); err == nil {
					t.Errorf("%s cut to %d bytes was accepted", name, n)
				}
			}
		}
	}
}

func readers() []func([]byte) error {
	return []func([]byte) error{
		func(b []byte) error { _, err := MasterchainInfo(b); return err },
		func(b []byte) error { _, err := AccountState(b); return err },
		func(b []byte) error { _, err := SendStatus(b); return err },
		func(b []byte) error { _, _, err := ConfigInfo(b); return err },
		func(b []byte) error { _, _, err := TransactionList(b); return err },
		func(b []byte) error { _, _, err := BlockProof(b); return err },
		func(b []byte) error { _, err := BlockHeader(b); return err },
	}
}

func FuzzAnswers(f *testing.F) {
	for _, b := range samples(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range readers() {
			_ = read(b) // must return; what is accepted is checked by its proof
		}
	})
}
