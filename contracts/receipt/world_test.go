package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/contracts/coin"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

func sum(s string) Hash { return sha256.Sum256([]byte(s)) }

func key(name string) ed25519.PrivateKey {
	seed := sum("receipt test " + name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

var (
	testJob   = toncell.Address{Hash: sum("job")}
	testPrice = Price{Prompt: 1_000_000, Cached: 100_000, Completion: 3_000_000, Reasoning: 2_000_000}
	testTime  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

const globalID = -1009

type zero struct{}

func (zero) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// ramDir is a directory in RAM where there is one: a test that writes thousands
// of records waits for a disk most of its time, and tests no disk.
func ramDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "receipt-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func bookOptions(t testing.TB, dir string) BookOptions {
	t.Helper()
	return BookOptions{
		Job: testJob, GlobalID: globalID, ClientKey: public("client"), Key: key("enclave"), ModelRoot: sum("model"),
		Manifest: sum("manifest"), Verdict: sum("verdict"), Price: testPrice, Deposit: 1000, Credit: 100,
		Path: filepath.Join(dir, "book.log"), Clock: func() time.Time { return testTime }, Rand: zero{},
	}
}

func payerOptions(t testing.TB, dir string) PayerOptions {
	t.Helper()
	return PayerOptions{
		Job: testJob, GlobalID: globalID, Key: key("client"), ReceiptKey: public("enclave"), ModelRoot: sum("model"),
		Manifest: sum("manifest"), Verdict: sum("verdict"), PriceCap: 3_000_000, Deposit: 1000, Path: filepath.Join(dir, "payer.log"),
	}
}

func book(t testing.TB, o BookOptions) *Book {
	t.Helper()
	b, err := OpenBook(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func payer(t testing.TB, o PayerOptions) *Payer {
	t.Helper()
	p, err := OpenPayer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// deliver issues a receipt for n completion tokens: 3 nanoton each.
func deliver(t testing.TB, b *Book, n uint64) (*Signed, Expect) {
	t.Helper()
	d := Delivery{Request: sum("request"), Response: sum("response"), Tokens: Tokens{Completion: n}}
	a, err := b.Open(coin.Nano(3 * n))
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Issue(d)
	if err != nil {
		t.Fatal(err)
	}
	if doc, err := s.Marshal(); err != nil || !bytes.Equal(doc, a.Document()) {
		t.Errorf("the receipt is %s, its document %s, %v", doc, a.Document(), err)
	}
	return s, Expect{Request: d.Request, Response: &d.Response, Most: coin.Nano(3 * n)}
}

func pay(t testing.TB, p *Payer, s *Signed, e Expect) *SignedVoucher {
	t.Helper()
	v, err := p.Accept(s, e)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func want(t testing.TB, err error, code string) {
	t.Helper()
	if !fault.Has(err, code) {
		t.Fatalf("got %v, want %s", err, code)
	}
}
