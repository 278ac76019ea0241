// Package vouchers keeps the newest voucher of each job on the host's disk,
// where it outlives the worker that it was given to. In come voucher documents
// (contracts/receipt) from guests or from files; out go those that are kept, to
// be redeemed by whoever wants the job's payout to be paid.
//
// A guest may say anything: a voucher is kept by its form alone, and each
// guest has a directory of its own, so that none can displace another's. That
// the job's client signed it is for the reader to check, against proven state
// of the chain.
package vouchers

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/contracts/receipt"
	"cocoon/internal/durable"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// MaxJobs bounds the vouchers in one directory. A worker serves 1024 jobs a
// boot.
const MaxJobs = 10_000

// Codes of faults.
const (
	CodeFull       = "vouchers.full"
	CodeUnwritable = "vouchers.unwritable"
)

const suffix = ".json"

// Book is a directory of vouchers, one file a job.
type Book struct{ Dir string }

// Path is where a job's voucher is kept.
func (b Book) Path(addr toncell.Address) string {
	name := hex.EncodeToString(addr.Hash[:])
	if addr.Workchain != 0 {
		name = fmt.Sprintf("%d-%s", addr.Workchain, name)
	}
	return filepath.Join(b.Dir, name+suffix)
}

// Keep puts a voucher on disk, if it is newer than the one that is kept of its
// job, and says whether it was. When it returns, a power cut leaves the old
// one or the new one.
func (b Book) Keep(v *receipt.SignedVoucher) (bool, error) {
	kept, err := b.keep(v)
	if err != nil && len(fault.All(err)) == 0 {
		err = fault.New(fault.ExitInternal, CodeUnwritable, "make room, and check the rights of "+b.Dir, "keeping a voucher: %w", err)
	}
	return kept, err
}

func (b Book) keep(v *receipt.SignedVoucher) (bool, error) {
	doc, err := v.Marshal()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return false, err
	}
	dir, err := os.Open(b.Dir)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	// Of two that keep at once, the newer voucher must win.
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return false, fmt.Errorf("locking %s: %w", b.Dir, err)
	}
	path := b.Path(v.Voucher.Job)
	old, err := read(path)
	switch {
	case err == nil && old.Voucher.Seq >= v.Voucher.Seq:
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		names, err := dir.Readdirnames(-1)
		if err != nil {
			return false, err
		}
		if len(names) >= MaxJobs {
			return false, fault.New(fault.ExitNotReady, CodeFull, "move vouchers of closed jobs elsewhere", "keeping a voucher: %d are in %s", len(names), b.Dir)
		}
	case err != nil && fault.ExitCode(err) != fault.ExitParse:
		return false, err // one that cannot be read may be the newer one
	}
	if err := durable.Write(path, doc, 0o600); err != nil {
		return false, err
	}
	return true, nil
}

// Kept is one voucher on disk.
type Kept struct {
	Path    string
	Voucher *receipt.SignedVoucher
}

// Read returns the vouchers in the directory, and those in directories in it:
// hostd has one for each VM. Files that are not vouchers are told apart by
// damaged; they hide no other.
func (b Book) Read() (kept []Kept, damaged []error, err error) {
	entries, err := os.ReadDir(b.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading vouchers: %w", err)
	}
	paths, err := files(b.Dir, entries)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(b.Dir, e.Name())
		inner, err := os.ReadDir(dir)
		if err != nil {
			return nil, nil, fmt.Errorf("reading vouchers: %w", err)
		}
		more, err := files(dir, inner)
		if err != nil {
			damaged = append(damaged, err) // one guest's cannot hide another's
			continue
		}
		paths = append(paths, more...)
	}
	for _, path := range paths {
		v, err := read(path)
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		kept = append(kept, Kept{path, v})
	}
	return kept, damaged, nil
}

func files(dir string, entries []fs.DirEntry) ([]string, error) {
	var out []string
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasSuffix(e.Name(), suffix) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	if len(out) > MaxJobs {
		return nil, fault.New(fault.ExitParse, CodeFull, "move vouchers of closed jobs elsewhere", "reading vouchers: more than %d in %s", MaxJobs, dir)
	}
	return out, nil
}

func read(path string) (*receipt.SignedVoucher, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("reading a voucher: %w", err)
	}
	if !fi.Mode().IsRegular() || fi.Size() > receipt.MaxVoucher+1 {
		return nil, fault.New(fault.ExitParse, "voucher.malformed", "remove it", "reading the voucher %s: no file of at most %d bytes", path, receipt.MaxVoucher)
	}
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a voucher: %w", err)
	}
	v, err := receipt.ParseVoucher(bytes.TrimSpace(doc))
	if err != nil {
		return nil, fmt.Errorf("reading the voucher %s: %w", path, err)
	}
	return v, nil
}
