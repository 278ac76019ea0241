package vouchers

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

func voucher(t testing.TB, job toncell.Address, seq uint64) *receipt.SignedVoucher {
	t.Helper()
	seed := sha256.Sum256([]byte("client"))
	v, err := receipt.Voucher{GlobalID: -3, Job: job, Seq: seq, Amount: 1, ReceiptCount: seq}.Sign(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func addr(name string) toncell.Address { return toncell.Address{Hash: sha256.Sum256([]byte(name))} }

func TestOnlyANewerVoucherIsKept(t *testing.T) {
	b := Book{filepath.Join(t.TempDir(), "made")}
	for _, tc := range []struct {
		seq  uint64
		want bool
	}{{2, true}, {1, false}, {2, false}, {3, true}} {
		if got, err := b.Keep(voucher(t, addr("a"), tc.seq)); got != tc.want || err != nil {
			t.Errorf("voucher %d kept: %v, %v", tc.seq, got, err)
		}
	}
	if _, err := b.Keep(voucher(t, toncell.Address{Workchain: -1, Hash: addr("a").Hash}, 1)); err != nil {
		t.Fatal(err)
	}
	kept, damaged, err := b.Read()
	if err != nil || len(damaged) != 0 || len(kept) != 2 {
		t.Errorf("Read() = %v, %v, %v", kept, damaged, err)
	}
}

// What a crash in the middle of a write leaves hides nothing, and what was
// damaged otherwise holds no money that a new voucher would lose.
func TestADamagedVoucherIsToldAndReplaced(t *testing.T) {
	b := Book{t.TempDir()}
	if _, err := b.Keep(voucher(t, addr("b"), 5)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{b.Path(addr("a")), b.Path(addr("b")) + ".new"} {
		if err := os.WriteFile(name, []byte(`{"voucher":`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kept, damaged, err := b.Read()
	if err != nil || len(kept) != 1 || len(damaged) != 1 || !fault.Has(damaged[0], "voucher.malformed") {
		t.Fatalf("Read() = %v, %v, %v", kept, damaged, err)
	}
	for name, seq := range map[string]uint64{"a": 1, "b": 6} {
		if got, err := b.Keep(voucher(t, addr(name), seq)); !got || err != nil {
			t.Errorf("Keep() = %v, %v", got, err)
		}
	}
	if kept, damaged, err = b.Read(); err != nil || len(kept) != 2 || len(damaged) != 0 {
		t.Errorf("Read() = %v, %v, %v", kept, damaged, err)
	}
}

func TestTheNewestOfManyAtOnceWins(t *testing.T) {
	b := Book{t.TempDir()}
	var wg sync.WaitGroup
	for seq := range uint64(16) {
		v := voucher(t, addr("a"), seq+1)
		wg.Go(func() {
			if _, err := b.Keep(v); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if kept, _, err := b.Read(); err != nil || len(kept) != 1 || kept[0].Voucher.Voucher.Seq != 16 {
		t.Errorf("Read() = %v, %v", kept, err)
	}
}

func TestAFullDirectoryTakesNoNewJobs(t *testing.T) {
	b := Book{t.TempDir()}
	if _, err := b.Keep(voucher(t, addr("a"), 1)); err != nil {
		t.Fatal(err)
	}
	for i := range MaxJobs - 1 {
		if err := os.WriteFile(filepath.Join(b.Dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Keep(voucher(t, addr("b"), 1)); !fault.Has(err, CodeFull) {
		t.Errorf("Keep() = %v", err)
	}
	if got, err := b.Keep(voucher(t, addr("a"), 2)); !got || err != nil {
		t.Errorf("a known job: %v, %v", got, err)
	}
}

// A guest fills its own directory with vouchers of its own making.
func TestOneGuestsVouchersHideNoOthers(t *testing.T) {
	root := t.TempDir()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := Book{Dir: filepath.Join(root, "honest")}.Keep(voucher(t, addr("a"), 1))
	ok(err)
	doc, err := voucher(t, addr("b"), 1).Marshal()
	ok(err)
	hostile := filepath.Join(root, "hostile")
	ok(os.Mkdir(hostile, 0o700))
	for i := range MaxJobs {
		ok(os.WriteFile(filepath.Join(hostile, fmt.Sprintf("%064x.json", i)), doc, 0o600))
	}
	kept, damaged, err := Book{Dir: root}.Read()
	if err != nil || len(damaged) != 0 || len(kept) != MaxJobs+1 {
		t.Errorf("with a full directory: %d kept, %d damaged, %v", len(kept), len(damaged), err)
	}
	ok(os.WriteFile(filepath.Join(hostile, "more.json"), doc, 0o600))
	kept, damaged, err = Book{Dir: root}.Read()
	if err != nil || len(kept) != 1 || kept[0].Voucher.Voucher.Job != addr("a") || len(damaged) != 1 || !fault.Has(damaged[0], CodeFull) {
		t.Errorf("with more than a full one: %d kept, damaged %v, %v", len(kept), damaged, err)
	}
}

func TestADirectoryThatCannotBeWrittenIsAFault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (Book{filepath.Join(path, "x")}).Keep(voucher(t, addr("a"), 1)); !fault.Has(err, CodeUnwritable) {
		t.Errorf("Keep() = %v", err)
	}
}
