package machine

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/contracts/receipt"
	"cocoon/hostd/console"
	"cocoon/hostd/spec"
	"cocoon/hostd/vouchers"
	"cocoon/internal/toncell"
)

func signed(t testing.TB, seq uint64) []byte {
	t.Helper()
	v, err := receipt.Voucher{GlobalID: -3, Job: toncell.Address{Hash: [32]byte{7}}, Seq: seq, Amount: 1, ReceiptCount: seq}.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := v.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func voucherLine(t testing.TB, doc []byte) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"type": "voucher", "voucher": json.RawMessage(doc)})
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

func listener(dir string) *Machine {
	return &Machine{o: Options{Dir: dir, Vouchers: filepath.Join(dir, VouchersDir), Spec: &spec.Spec{Name: "vm"},
		Clock: time.Now, Logger: slog.New(slog.DiscardHandler)}}
}

// feed gives a machine what its guest writes on the status port.
func feed(t testing.TB, m *Machine, in []byte) *bytes.Buffer {
	t.Helper()
	var log bytes.Buffer
	if err := console.Lines(bytes.NewReader(in), func(l *console.Line) { m.line(l, &log) }, m.badLine); err != nil {
		t.Fatal(err)
	}
	return &log
}

func TestTheGuestsVouchersAreKeptInAnyOrder(t *testing.T) {
	m := listener(t.TempDir())
	var in []byte
	for _, seq := range []uint64{2, 1, 2, 3, 1} {
		in = append(in, voucherLine(t, signed(t, seq))...)
	}
	log := feed(t, m, in)
	kept, damaged, err := (vouchers.Book{Dir: m.o.Vouchers}).Read()
	if err != nil || len(damaged) != 0 || len(kept) != 1 || kept[0].Voucher.Voucher.Seq != 3 {
		t.Errorf("Read() = %v, %v, %v", kept, damaged, err)
	}
	if log.Len() != 0 || m.state.BadLines != 0 {
		t.Errorf("%d bytes in the status log, %d bad lines", log.Len(), m.state.BadLines)
	}
}

func TestWhatIsNoVoucherIsCountedAndNotKept(t *testing.T) {
	for name, doc := range map[string]string{
		"nothing": `null`, "text": `"x"`, "no signature": `{"voucher":{}}`,
		"number 0":   string(signed(t, 0)),
		"a key more": `{"x":1,` + string(signed(t, 1)[1:]),
	} {
		m := listener(t.TempDir())
		feed(t, m, voucherLine(t, []byte(doc)))
		if _, err := os.Stat(m.o.Vouchers); !os.IsNotExist(err) || m.state.BadLines != 1 {
			t.Errorf("%s: kept (%v), %d bad lines", name, err, m.state.BadLines)
		}
	}
}

// FuzzVoucherLine has a guest write anything. Whatever is on disk after it is
// a voucher under its job's name, or nothing.
func FuzzVoucherLine(f *testing.F) {
	f.Add(voucherLine(f, signed(f, 1)))
	f.Add(append(voucherLine(f, signed(f, 3)), voucherLine(f, signed(f, 2))...))
	f.Add([]byte(`{"type":"voucher","voucher":{"voucher":{"job":"0:00"}}}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, in []byte) {
		m := listener(dir)
		if err := os.RemoveAll(m.o.Vouchers); err != nil {
			t.Fatal(err)
		}
		if err := console.Lines(bytes.NewReader(in), func(l *console.Line) {
			if l.Type == "voucher" {
				m.line(l, &bytes.Buffer{})
			}
		}, func(error) {}); err != nil {
			t.Fatal(err)
		}
		book := vouchers.Book{Dir: m.o.Vouchers}
		kept, damaged, err := book.Read()
		if err != nil || len(damaged) != 0 {
			t.Fatalf("Read() = %v, %v", damaged, err)
		}
		for _, k := range kept {
			if k.Path != book.Path(k.Voucher.Voucher.Job) {
				t.Errorf("%s holds a voucher of job %s", k.Path, k.Voucher.Voucher.Job)
			}
		}
		all, err := os.ReadDir(dir)
		if err != nil || len(all) > 1 {
			t.Errorf("the guest made %v, %v", all, err)
		}
	})
}
