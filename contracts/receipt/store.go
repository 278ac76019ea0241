package receipt

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// maxLine bounds a record in the file.
const maxLine = MaxSize + 64

// Log is a file of receipts and vouchers, one record a line, each on disk
// before Append returns. A record that a crash cut short is dropped when the
// file is opened again; damage anywhere else is an error. Only one process
// holds a file.
type Log struct {
	f logFile
}

// logFile is what a Log asks of its file.
type logFile interface {
	io.ReadWriteSeeker
	Truncate(size int64) error
	Sync() error
	Close() error
}

// CodeFull is the code of a log that takes no more for now.
const CodeFull = "receipt.log_full"

// room is what Room wants to be free, in bytes: several records.
const room = 16 << 10

// record is one line: a receipt or a voucher.
type record struct {
	Receipt json.RawMessage `json:"receipt,omitempty"`
	Voucher json.RawMessage `json:"voucher,omitempty"`
}

// OpenLog opens or makes the file at path and calls the functions with each
// record in order.
func OpenLog(path string, onReceipt func(*Signed) error, onVoucher func(*SignedVoucher) error) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the receipt log: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fault.New(fault.ExitNotReady, "receipt.log_in_use", "stop the other process that serves this job",
			"locking the receipt log %s: %w", path, err), f.Close())
	}
	end, err := replay(f, onReceipt, onVoucher)
	if err == nil {
		err = truncate(f, end)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Log{f: f}, nil
}

// replay reads the whole records and returns where the last one ends.
func replay(f io.Reader, onReceipt func(*Signed) error, onVoucher func(*SignedVoucher) error) (int64, error) {
	r := bufio.NewReaderSize(f, maxLine+1)
	var end int64
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return end, nil // whatever is left was cut short
		case errors.Is(err, bufio.ErrBufferFull):
			return 0, corrupt(n, errors.New("line too long"))
		case err != nil:
			return 0, fmt.Errorf("reading the receipt log: %w", err)
		}
		if err := apply(line, onReceipt, onVoucher); err != nil {
			return 0, corrupt(n, err)
		}
		end += int64(len(line))
	}
}

func apply(line []byte, onReceipt func(*Signed) error, onVoucher func(*SignedVoucher) error) error {
	if len(line) < 10 || line[8] != ' ' {
		return errors.New("no checksum")
	}
	doc := line[9 : len(line)-1]
	if want := checksum(doc); !bytes.Equal(line[:8], want) {
		return fmt.Errorf("checksum %s, want %s", line[:8], want)
	}
	var rec record
	if err := json.Unmarshal(doc, &rec); err != nil {
		return fmt.Errorf("reading record: %w", err)
	}
	switch {
	case rec.Receipt != nil && rec.Voucher == nil:
		s, err := Parse(rec.Receipt)
		if err != nil {
			return err
		}
		return onReceipt(s)
	case rec.Voucher != nil && rec.Receipt == nil:
		s, err := ParseVoucher(rec.Voucher)
		if err != nil {
			return err
		}
		return onVoucher(s)
	}
	return errors.New("neither receipt nor voucher")
}

func corrupt(line int, err error) error {
	return fault.New(fault.ExitParse, "receipt.log_corrupt", "restore the file from a copy; the last voucher in it is money",
		"reading line %d of the receipt log: %w", line, err)
}

func checksum(doc []byte) []byte {
	return fmt.Appendf(nil, "%08x", crc32.Checksum(doc, crc32.MakeTable(crc32.Castagnoli)))
}

func truncate(f logFile, end int64) error {
	if err := f.Truncate(end); err != nil {
		return fmt.Errorf("dropping a record that was cut short: %w", err)
	}
	if _, err := f.Seek(end, io.SeekStart); err != nil {
		return fmt.Errorf("seeking in the receipt log: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing the receipt log: %w", err)
	}
	return nil
}

// syncDir makes a new file's name durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening the receipt log's directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// AppendReceipt writes a receipt to disk.
func (l *Log) AppendReceipt(s *Signed) error {
	doc, err := s.Marshal()
	if err != nil {
		return err
	}
	return l.appendReceipt(doc)
}

// appendReceipt is AppendReceipt for a receipt that is in its canonical form.
func (l *Log) appendReceipt(doc []byte) error {
	return l.appendDocument(append(append([]byte(`{"receipt":`), doc...), '}'))
}

// AppendVoucher writes a voucher to disk.
func (l *Log) AppendVoucher(s *SignedVoucher) error {
	doc, err := s.Marshal()
	if err != nil {
		return err
	}
	return l.append(record{Voucher: doc})
}

func (l *Log) append(rec record) error {
	doc, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	return l.appendDocument(doc)
}

func (l *Log) appendDocument(doc []byte) error {
	line := append(append(checksum(doc), ' '), doc...)
	start, err := l.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("seeking in the receipt log: %w", err)
	}
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		return l.undo(start, err)
	}
	if err := l.f.Sync(); err != nil {
		// What of it is on disk cannot be known any more.
		return errors.Join(fmt.Errorf("appending to the receipt log: %w", err), truncate(l.f, start))
	}
	return nil
}

// undo puts the log's end back after a write that failed, so that the next
// record does not follow half of one. If that works, and there was only no
// room, the log is as it was, and the fault says so.
func (l *Log) undo(end int64, err error) error {
	terr := truncate(l.f, end)
	if terr == nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
		return fault.New(fault.ExitNotReady, CodeFull, "make room where the receipts are kept", "appending to the receipt log: %w", err)
	}
	return errors.Join(fmt.Errorf("appending to the receipt log: %w", err), terr)
}

// Room returns nil if the log can take several more records, by trying.
func (l *Log) Room() error {
	end, err := l.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("seeking in the receipt log: %w", err)
	}
	if _, err := l.f.Write(make([]byte, room)); err != nil {
		return l.undo(end, err)
	}
	return truncate(l.f, end)
}

// Close closes the file.
func (l *Log) Close() error { return l.f.Close() }

// ReadLeaves returns the Merkle leaves of the receipts in a log, which it does
// not change or lock.
func ReadLeaves(path string) ([]Hash, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the receipt log: %w", err)
	}
	defer f.Close()
	var leaves []Hash
	_, err = replay(f, func(s *Signed) error {
		leaf, err := s.Leaf()
		leaves = append(leaves, leaf)
		return err
	}, func(*SignedVoucher) error { return nil })
	return leaves, err
}
