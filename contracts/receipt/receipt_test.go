package receipt

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cocoon/contracts/coin"
	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
)

func TestBillIsExactAndRoundsUpOnce(t *testing.T) {
	for _, tc := range []struct {
		name  string
		t     Tokens
		p     Price
		want  coin.Nano
		fails bool
	}{
		{"nothing", Tokens{}, testPrice, 0, false},
		{"each kind at its price", Tokens{10, 4, 8, 3}, testPrice, 6 + 1 + 15 + 6, false}, // 6 + 0.4 + 15 + 6 = 27.4
		{"one token at a millionth", Tokens{Prompt: 1}, Price{Prompt: 1}, 1, false},
		{"a million at a millionth", Tokens{Prompt: 1_000_000}, Price{Prompt: 1}, 1, false},
		{"more cached than prompt", Tokens{Prompt: 1, Cached: 2}, testPrice, 0, true},
		{"more reasoning than completion", Tokens{Completion: 1, Reasoning: 2}, testPrice, 0, true},
		{"counts without end", Tokens{Prompt: math.MaxUint64}, testPrice, 0, true},
		{"prices without end", Tokens{Prompt: 1}, Price{Prompt: math.MaxUint64}, 0, true},
		{"the largest of all", Tokens{1 << 32, 0, 1 << 32, 0}, Price{1 << 50, 0, 1 << 50, 0}, 9671406556917033398, false},
	} {
		got, err := tc.p.Bill(tc.t)
		if (err != nil) != tc.fails || got != tc.want {
			t.Errorf("%s: %d, %v; want %d", tc.name, got, err, tc.want)
		}
	}
}

func TestReceiptRoundTripsAndVerifies(t *testing.T) {
	s, _ := deliver(t, book(t, bookOptions(t, t.TempDir())), 5)
	doc, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
	if !got.Verify(public("enclave")) || got.Verify(public("client")) || got.Verify(nil) {
		t.Error("the signature is not the enclave's alone")
	}
}

// Every byte of a signed receipt counts: flipped, the document does not parse
// or its signature does not hold.
func TestReceiptTamperMatrix(t *testing.T) {
	s, _ := deliver(t, book(t, bookOptions(t, t.TempDir())), 5)
	doc, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i := range doc {
		for _, flip := range []byte{1, 2, 0x20, 0x80} {
			bad := append([]byte(nil), doc...)
			bad[i] ^= flip
			if got, err := Parse(bad); err == nil && got.Verify(public("enclave")) {
				t.Fatalf("byte %d flipped by %02x was accepted: %s", i, flip, bad)
			}
		}
	}
}

func TestMalformedReceiptsAreRefused(t *testing.T) {
	s, _ := deliver(t, book(t, bookOptions(t, t.TempDir())), 5)
	doc, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) []byte {
		out := strings.Replace(string(doc), old, new, 1)
		if out == string(doc) {
			t.Fatalf("no %s in %s", old, doc)
		}
		return []byte(out)
	}
	for name, bad := range map[string][]byte{
		"empty":                 nil,
		"another type":          edit(Type, "cocoon-receipt-v1"),
		"seq zero":              edit(`"seq":1`, `"seq":0`),
		"an amount as a number": edit(`"cumulative":"15"`, `"cumulative":15`),
		"an amount with zeros":  edit(`"cumulative":"15"`, `"cumulative":"015"`),
		"upper-case hex":        edit(`"signature":"`, `"signature":"A`),
		"another time zone":     edit("12:00:00Z", "13:00:00+01:00"),
		"fractions of a second": edit("12:00:00Z", "12:00:00.5Z"),
		"an unknown key":        edit(`"seq":1`, `"sea":1,"seq":1`),
		"a key twice":           edit(`"seq":1`, `"seq":1,"seq":1`),
		"white space":           edit(`"seq":1`, `"seq": 1`),
		"trailing data":         append(append([]byte(nil), doc...), '{'),
		"too long":              edit(`"type":"`, `"type":"`+strings.Repeat("x", MaxSize)),
		"a friendly address":    edit(testJob.String(), testJob.Addr().String()),
	} {
		_, err := Parse(bad)
		t.Log(name)
		want(t, err, "receipt.malformed")
	}
}

func TestVoucherTamperMatrix(t *testing.T) {
	v := Voucher{GlobalID: globalID, Job: testJob, Seq: 3, Amount: 77, ReceiptCount: 2, ReceiptsRoot: sum("r"), Verdict: sum("v")}
	s, err := v.Sign(key("client"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseVoucher(doc)
	if err != nil || *got != *s || !got.Verify(public("client")) || got.Verify(public("enclave")) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range doc {
		bad := append([]byte(nil), doc...)
		bad[i] ^= 1
		if got, err := ParseVoucher(bad); err == nil && got.Verify(public("client")) {
			t.Fatalf("byte %d flipped was accepted: %s", i, bad)
		}
	}
	for _, bad := range []string{"", "{}", `{"voucher":null,"signature":""}`} {
		_, err := ParseVoucher([]byte(bad))
		want(t, err, "voucher.malformed")
	}
}

func TestMerkleTreeIsRFC6962s(t *testing.T) {
	// Roots of the test leaves of certificate-transparency-go and RFC 6962
	// implementations: "", "00", "10", "2021", "3031", "40414243", ...
	leaves := []Hash{LeafHash(nil), LeafHash([]byte{0}), LeafHash([]byte{0x10}), LeafHash([]byte{0x20, 0x21})}
	roots := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
	}
	for n, root := range roots {
		if got := Root(leaves[:n]).String(); got != root {
			t.Errorf("root over %d leaves is %s, want %s", n, got, root)
		}
	}
}

func TestEveryLeafIsProvenAndNoOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 70).Draw(t, "n")
		leaves := make([]Hash, n)
		for i := range leaves {
			leaves[i] = LeafHash([]byte{byte(i)})
		}
		i := uint64(rapid.IntRange(0, n-1).Draw(t, "i"))
		path, err := Prove(leaves, i)
		if err != nil {
			t.Fatal(err)
		}
		root := Root(leaves)
		if !Included(leaves[i], i, uint64(n), path, root) {
			t.Fatalf("leaf %d of %d is not proven", i, n)
		}
		if Included(LeafHash([]byte("other")), i, uint64(n), path, root) ||
			Included(leaves[i], i+1, uint64(n), path, root) || Included(leaves[i], uint64(n), uint64(n), path, root) {
			t.Fatalf("something else is proven at %d of %d", i, n)
		}
		if n > 1 && Included(leaves[i], i, uint64(n), path[1:], root) {
			t.Fatal("a shortened path is accepted")
		}
	})
}

func FuzzParse(f *testing.F) {
	s, _ := deliver(f, book(f, bookOptions(f, f.TempDir())), 5)
	doc, err := s.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Parse(b)
		if err != nil {
			return
		}
		if again, err := got.Marshal(); err != nil || string(again) != string(b) {
			t.Fatalf("%s became %s, %v", b, again, err)
		}
	})
}

func FuzzParseVoucher(f *testing.F) {
	s, err := Voucher{GlobalID: globalID, Job: testJob, Seq: 1, Amount: 1}.Sign(key("client"))
	if err != nil {
		f.Fatal(err)
	}
	doc, err := s.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseVoucher(b)
		if err != nil {
			return
		}
		if again, err := got.Marshal(); err != nil || string(again) != string(b) {
			t.Fatalf("%s became %s, %v", b, again, err)
		}
		if _, err := got.Voucher.Cell(); err != nil {
			t.Fatal(err)
		}
	})
}

// A receipt's leaf is over the JCS of its inner document alone, and its
// signature over a cell that commits to it.
func TestSignatureCoversTheStatementCell(t *testing.T) {
	s, _ := deliver(t, book(t, bookOptions(t, t.TempDir())), 5)
	doc, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var parts struct{ Receipt json.RawMessage }
	if err := json.Unmarshal(doc, &parts); err != nil {
		t.Fatal(err)
	}
	canon, err := jcs.Canonical(parts.Receipt)
	if err != nil || string(canon) != string(parts.Receipt) {
		t.Fatalf("%s, %v", canon, err)
	}
	leaf, err := s.Leaf()
	if err != nil || leaf != LeafHash(canon) {
		t.Errorf("leaf %s, %v", leaf, err)
	}
	// The hand-written hash is that of the cell library.
	c, err := toncell.NewBuilder().Uint(tagStatement, 32).Uint(0, 8).Bits256(s.Receipt.Job.Hash).Uint(s.Receipt.Seq, 64).
		Bits256(sha256.Sum256(canon)).Cell()
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(public("enclave"), c.Hash(), s.Signature[:]) {
		t.Error("the signature is not over the statement's cell")
	}
}

func TestOnlyAnotherReceiptOfTheSameNumberContradicts(t *testing.T) {
	s, _ := deliver(t, book(t, bookOptions(t, t.TempDir())), 5)
	other := *s
	other.Receipt.Tokens.Completion++
	if !s.Contradicts(&other) || s.Contradicts(s) {
		t.Error("a receipt contradicts itself, or not another one")
	}
	other.Receipt.Seq++
	if s.Contradicts(&other) {
		t.Error("another number contradicts")
	}
}
