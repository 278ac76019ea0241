package proof

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/xssnick/tonutils-go/adnl"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
)

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// candidate writes a candidate for a block: an ordinary one with or without a
// parent, or an empty one.
func candidate(form string, id *ton.BlockIDExt) []byte {
	block := binary.LittleEndian.AppendUint32(nil, uint32(id.Workchain))
	block = binary.LittleEndian.AppendUint64(block, uint64(id.Shard))
	block = binary.LittleEndian.AppendUint32(block, id.SeqNo)
	block = append(append(block, id.RootHash...), id.FileHash...)
	parent := append(binary.LittleEndian.AppendUint32(nil, 6), fill(9, 32)...)
	switch form {
	case "empty":
		return append(append(tlID(nil, schemaEmpty), block...), parent...)
	case "first":
		return tlID(append(append(tlID(nil, schemaOrdinary), block...), fill(8, 32)...), schemaNoParent)
	}
	b := append(append(tlID(nil, schemaOrdinary), block...), fill(8, 32)...)
	return append(tlID(tlID(b, schemaParent), schemaCandidateID), parent...)
}

// signedLink is a link to a block that own validators of the given weights
// signed, the first of them up to signers.
func signedLink(t *testing.T, form string, weights []uint64, signers int) (*Link, []*tlb.ValidatorAddr) {
	t.Helper()
	l := &Link{To: ton.BlockIDExt{Workchain: -1, Shard: -1 << 63, SeqNo: 7, RootHash: fill(1, 32), FileHash: fill(2, 32)}}
	if form != "ordinary" {
		l.Simplex = &Simplex{Session: [32]byte(fill(3, 32)), Slot: 9, Candidate: candidate(strings.TrimPrefix(form, "simplex "), &l.To)}
	}
	l.Signatures.CatchainSeqno = 4
	set := ton.ValidatorSetHashable{CCSeqno: 4}
	var keys []ed25519.PrivateKey
	var vs []*tlb.ValidatorAddr
	for i, w := range weights {
		keys = append(keys, ed25519.NewKeyFromSeed(fill(byte(0x11*(i+1)), 32)))
		pub := keys[i].Public().(ed25519.PublicKey)
		vs = append(vs, &tlb.ValidatorAddr{PublicKey: tlb.SigPubKeyED25519{Key: pub}, Weight: w, ADNLAddr: fill(5, 32)})
		set.Validators = append(set.Validators, ton.ValidatorItemHashable{Key: pub, Weight: w, Addr: fill(5, 32)})
	}
	b, err := tl.Serialize(set, true)
	if err != nil {
		t.Fatal(err)
	}
	l.Signatures.ValidatorSetHash = int32(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	msg, err := l.signedMessage()
	if err != nil {
		t.Fatal(err)
	}
	for i := range signers {
		node, err := tl.Hash(adnl.PublicKeyED25519{Key: vs[i].PublicKey.Key})
		if err != nil {
			t.Fatal(err)
		}
		l.Signatures.Signatures = append(l.Signatures.Signatures, ton.Signature{NodeIDShort: node, Signature: ed25519.Sign(keys[i], msg)})
	}
	return l, vs
}

// Of these the first two hold three quarters, and exactly two thirds are not
// enough.
var someWeights = []uint64{40, 35, 25}

func TestEachFormOfCandidateCounts(t *testing.T) {
	for _, form := range []string{"ordinary", "simplex with a parent", "simplex first", "simplex empty"} {
		t.Run(form, func(t *testing.T) {
			l, vs := signedLink(t, form, someWeights, 2)
			if err := l.checkSignatures(vs); err != nil {
				t.Errorf("three quarters of the weight: %v", err)
			}
			l, vs = signedLink(t, form, []uint64{1, 1, 1}, 2)
			if err := l.checkSignatures(vs); err == nil {
				t.Error("two thirds of the weight are enough")
			}
			// Weights whose sum leaves 64 bits must not wrap around.
			l, vs = signedLink(t, form, []uint64{1 << 63, 1 << 63, 2}, 1)
			if err := l.checkSignatures(vs); err == nil {
				t.Error("half of a weight beyond 64 bits is enough")
			}
			l, vs = signedLink(t, form, someWeights, 2)
			vs[0].PublicKey.Key = vs[0].PublicKey.Key[:31]
			if err := l.checkSignatures(vs); err == nil {
				t.Error("a short key passed")
			}
		})
	}
}

func TestSimplexSignaturesBindBlockSessionAndSlot(t *testing.T) {
	flipped := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 1
		return b
	}
	for name, change := range map[string]func(*Link){
		"another slot":                    func(l *Link) { l.Simplex.Slot++ },
		"another session":                 func(l *Link) { l.Simplex.Session[3] ^= 1 },
		"another root of the block":       func(l *Link) { l.To.RootHash = flipped(l.To.RootHash, 0) },
		"another file of the block":       func(l *Link) { l.To.FileHash = flipped(l.To.FileHash, 0) },
		"another collated file":           func(l *Link) { l.Simplex.Candidate = flipped(l.Simplex.Candidate, 84) },
		"another parent":                  func(l *Link) { l.Simplex.Candidate = flipped(l.Simplex.Candidate, len(l.Simplex.Candidate)-1) },
		"a candidate for another block":   func(l *Link) { l.Simplex.Candidate = flipped(l.Simplex.Candidate, 4+16) },
		"a candidate of another form":     func(l *Link) { l.Simplex.Candidate = flipped(l.Simplex.Candidate, 0) },
		"a candidate cut short":           func(l *Link) { l.Simplex.Candidate = l.Simplex.Candidate[:len(l.Simplex.Candidate)-4] },
		"a candidate with more behind it": func(l *Link) { l.Simplex.Candidate = append(l.Simplex.Candidate, 0, 0, 0, 0) },
		"no candidate":                    func(l *Link) { l.Simplex.Candidate = nil },
		"called an ordinary set":          func(l *Link) { l.Simplex = nil },
		"another session's validators":    func(l *Link) { l.Signatures.CatchainSeqno++ },
		"another validator set":           func(l *Link) { l.Signatures.ValidatorSetHash++ },
		"one flipped signature":           func(l *Link) { l.Signatures.Signatures[1].Signature[7] ^= 1 },
		"one signature twice":             func(l *Link) { l.Signatures.Signatures[1] = l.Signatures.Signatures[0] },
		"half of the signatures":          func(l *Link) { l.Signatures.Signatures = l.Signatures.Signatures[:1] },
		"no signatures":                   func(l *Link) { l.Signatures.Signatures = nil },
	} {
		t.Run(name, func(t *testing.T) {
			l, vs := signedLink(t, "simplex with a parent", someWeights, 2)
			if err := l.checkSignatures(vs); err != nil {
				t.Fatalf("the unchanged link: %v", err)
			}
			change(l)
			if err := l.checkSignatures(vs); err == nil {
				t.Error("it was accepted")
			}
		})
	}
}

func FuzzCandidateBlock(f *testing.F) {
	id := ton.BlockIDExt{Workchain: -1, Shard: -1 << 63, SeqNo: 7, RootHash: fill(1, 32), FileHash: fill(2, 32)}
	for _, form := range []string{"empty", "first", "with a parent"} {
		f.Add(candidate(form, &id))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := candidateBlock(b)
		if err == nil && (len(got.RootHash) != 32 || len(got.FileHash) != 32) {
			t.Fatalf("%+v", got)
		}
	})
}
