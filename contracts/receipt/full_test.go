package receipt

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// fullDisk is a file on a disk with this much room left: a write that does not
// fit is done as far as it does.
type fullDisk struct {
	*os.File
	left    int
	syncErr error
}

func (f *fullDisk) Write(p []byte) (int, error) {
	if len(p) <= f.left {
		f.left -= len(p)
		return f.File.Write(p)
	}
	n, err := f.File.Write(p[:f.left])
	f.left = 0
	return n, errors.Join(err, &os.PathError{Op: "write", Path: f.Name(), Err: unix.ENOSPC})
}

func (f *fullDisk) Sync() error { return f.syncErr }

// onDisk puts the book's log on a disk with that much room.
func onDisk(b *Book, room int) *fullDisk {
	d := &fullDisk{File: b.log.f.(*os.File), left: room}
	b.log.f = d
	return d
}

// TestAFullDiskLosesOneReceiptAndNoMore: what did not fit is not issued, and
// nothing is served after it until there is room again; then the book goes on
// where it was, and reads back whole.
func TestAFullDiskLosesOneReceiptAndNoMore(t *testing.T) {
	o := bookOptions(t, t.TempDir())
	b := book(t, o)
	p := payer(t, payerOptions(t, t.TempDir()))
	first, want := deliver(t, b, 1)
	voucher, err := p.Accept(first, want)
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []int{0, 1, 500} {
		disk := onDisk(b, room)
		a, err := b.Open(3)
		if err != nil {
			t.Fatalf("room for %d bytes: %v", room, err)
		}
		other, err := b.Open(3)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []*Account{a, other} {
			if s, err := a.Issue(Delivery{Tokens: Tokens{Completion: 1}}); s != nil || !fault.Has(err, CodeFull) {
				t.Errorf("room for %d bytes: issued %v, %v", room, s, err)
			}
		}
		if _, err := b.Open(3); !fault.Has(err, CodeFull) || fault.ExitCode(err) != fault.ExitNotReady {
			t.Errorf("room for %d bytes: a request was admitted: %v", room, err)
		}
		if err := b.Accept(voucher); !fault.Has(err, CodeFull) {
			t.Errorf("room for %d bytes: a voucher was acknowledged: %v", room, err)
		}
		b.log.f = disk.File // somebody made room
		again, err := b.Open(3)
		if err != nil {
			t.Fatalf("there is room again: %v", err)
		}
		again.Cancel()
	}
	second, want := deliver(t, b, 2)
	if second.Receipt.Seq != 2 || second.Receipt.Cumulative != 9 {
		t.Errorf("the next receipt is %+v", second.Receipt)
	}
	if err := b.Accept(voucher); err != nil {
		t.Error(err)
	}
	if v, err := p.Accept(second, want); err != nil || v.Voucher.Amount != 9 {
		t.Errorf("the client gets %+v, %v", v, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again := book(t, o)
	if owed, promised := again.Owed(); owed != 9 || promised != 3 {
		t.Errorf("read back: owed %s, promised %s", owed, promised)
	}
}

// TestADiskThatFailsIsNotTrustedAgain: after a sync that failed nobody knows
// what is on the disk.
func TestADiskThatFailsIsNotTrustedAgain(t *testing.T) {
	b := book(t, bookOptions(t, t.TempDir()))
	disk := onDisk(b, 1<<20)
	a, err := b.Open(3)
	if err != nil {
		t.Fatal(err)
	}
	disk.syncErr = unix.EIO
	if _, err := a.Issue(Delivery{Tokens: Tokens{Completion: 1}}); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v", err)
	}
	disk.syncErr = nil
	if _, err := b.Open(3); !errors.Is(err, unix.EIO) || fault.Has(err, CodeFull) {
		t.Errorf("got %v", err)
	}
}
