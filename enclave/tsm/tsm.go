// Package tsm asks the kernel's configfs-tsm for attestation reports (Linux,
// Documentation/ABI/testing/configfs-tsm-report). In go 64 bytes, out comes
// what the TEE signed over them: a TDX quote or an SNP report, and where there
// is one the auxiliary blob, the host's certificates.
//
// The kernel waits for the quote itself, about a second on stock TDX. What is
// left to do here is to ask again where another user of the interface or a
// signal came between, and to tell a host without a quoting service from a
// kernel without the interface.
package tsm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/report"
	"golang.org/x/sys/unix"
)

// Names of the kernel's providers (attribute "provider").
const (
	ProviderTDX = "tdx_guest"
	ProviderSNP = "sev_guest"
)

// ErrAbsent is returned where the kernel has no such interface, no provider for
// it, or none for this user: who is not root may have the device alone.
var ErrAbsent = errors.New("the kernel offers no configfs-tsm reports")

// ErrService is returned where the kernel asked and the host's quoting service
// gave nothing: an error, no answer in time, or an empty quote.
var ErrService = errors.New("the host's quoting service gave no quote")

// MaxBlob bounds what is taken, in bytes: the kernel's own limit is 32 KiB for
// a report, and 16 KiB for certificates.
const MaxBlob = 128 << 10

// The schedule of repetitions. A generation that moved on is settled as soon
// as the other writer is done, so the first pauses are short.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
	attempts   = 12 // about 5 s of pauses in all
)

// maxLeft is how many requests may be under way in the kernel that nobody waits
// for any more: a host that answers nothing is not asked ever more.
const maxLeft = 4

// Blob is an answer.
type Blob struct {
	Out []byte // quote or report
	Aux []byte // certificate table of an SNP host, empty where it gave none
}

// Reporter asks for reports. Its methods may be called at the same time; each
// request has a directory of its own.
type Reporter struct {
	Client   configfsi.Client
	Provider string // that must answer
	Aux      bool   // the provider has an auxiliary blob

	left atomic.Int32 // requests that nobody waits for any more
}

// Report returns a report over data. It repeats what failed for another
// user's sake until ctx ends. The kernel cannot be called back: what it was asked
// goes on where ctx ends first.
func (r *Reporter) Report(ctx context.Context, data [64]byte) (*Blob, error) {
	pause := firstPause
	for n := 1; ; n++ {
		b, err := r.once(ctx, data)
		if err == nil || !transient(err) || n == attempts {
			return b, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// once makes one request, and waits for it until ctx ends.
func (r *Reporter) once(ctx context.Context, data [64]byte) (*Blob, error) {
	if n := r.left.Load(); n >= maxLeft {
		return nil, fmt.Errorf("asking configfs-tsm: %w: %d earlier requests have no answer", ErrService, n)
	}
	type answer struct {
		b   *Blob
		err error
	}
	done := make(chan answer, 1)
	go func() {
		b, err := r.ask(data)
		done <- answer{b, err}
	}()
	select {
	case a := <-done:
		return a.b, a.err
	case <-ctx.Done():
		r.left.Add(1)
		go func() {
			<-done
			r.left.Add(-1)
		}()
		return nil, fmt.Errorf("asking configfs-tsm: %w", ctx.Err())
	}
}

// ask makes one request.
func (r *Reporter) ask(data [64]byte) (*Blob, error) {
	w := &watch{Client: r.Client}
	resp, err := report.Get(w, &report.Request{InBlob: data[:], GetAuxBlob: r.Aux})
	switch {
	case err == nil:
	case w.at == atMkdir && (errors.Is(w.err, fs.ErrNotExist) || errors.Is(w.err, fs.ErrPermission) || errors.Is(w.err, unix.EROFS) || errors.Is(w.err, unix.ENXIO)):
		return nil, fmt.Errorf("asking configfs-tsm: %w: %w", ErrAbsent, w.err)
	case errors.Is(w.err, unix.EIO) || errors.Is(w.err, unix.ETIMEDOUT) || errors.Is(w.err, unix.ENODEV):
		return nil, fmt.Errorf("asking configfs-tsm: %w: %w", ErrService, w.err)
	default:
		return nil, fmt.Errorf("asking configfs-tsm: %w", errors.Join(err, w.err))
	}
	if p := strings.TrimSpace(resp.Provider); p != r.Provider {
		return nil, fmt.Errorf("asking configfs-tsm: provider is %.32q, want %s", p, r.Provider)
	}
	// tdx_guest hands on what the host left in the buffer: nothing, where no
	// service answered (drivers/virt/coco/tdx-guest).
	if len(resp.OutBlob) == 0 {
		return nil, fmt.Errorf("asking configfs-tsm: %w: the quote is empty", ErrService)
	}
	if len(resp.OutBlob) > MaxBlob || len(resp.AuxBlob) > MaxBlob {
		return nil, fmt.Errorf("asking configfs-tsm: %d and %d bytes, at most %d", len(resp.OutBlob), len(resp.AuxBlob), MaxBlob)
	}
	return &Blob{Out: resp.OutBlob, Aux: resp.AuxBlob}, nil
}

// transient reports whether the same request may pass a moment later: another
// writer moved the generation on (EWOULDBLOCK where the kernel saw it, a
// generation that is not ours where we did), or a signal came.
func transient(err error) bool {
	return report.GetGenerationErr(err) != nil || errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINTR)
}

const (
	atMkdir = "mkdir"
	atFile  = "file"
)

// watch keeps the first error of the file system: the library's own errors
// have its text alone.
type watch struct {
	configfsi.Client
	at  string
	err error
}

func (w *watch) keep(at string, err error) error {
	if err != nil && w.err == nil {
		w.at, w.err = at, err
	}
	return err
}

// MkdirTemp implements configfsi.Client.
func (w *watch) MkdirTemp(dir, pattern string) (string, error) {
	p, err := w.Client.MkdirTemp(dir, pattern)
	return p, w.keep(atMkdir, err)
}

// ReadFile implements configfsi.Client.
func (w *watch) ReadFile(name string) ([]byte, error) {
	b, err := w.Client.ReadFile(name)
	return b, w.keep(atFile, err)
}

// WriteFile implements configfsi.Client.
func (w *watch) WriteFile(name string, b []byte) error {
	return w.keep(atFile, w.Client.WriteFile(name, b))
}

// Linux is the running kernel's configfs, for whoever has not looked whether
// it is there.
type Linux struct{}

// MkdirTemp makes a directory.
func (Linux) MkdirTemp(dir, pattern string) (string, error) { return os.MkdirTemp(dir, pattern) }

// ReadFile reads an attribute.
func (Linux) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

// ReadDir lists a directory.
func (Linux) ReadDir(name string) ([]os.DirEntry, error) { return os.ReadDir(name) }

// WriteFile writes an attribute in one call, as configfs wants it.
func (Linux) WriteFile(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// RemoveAll removes an entry: its attributes go with it.
func (Linux) RemoveAll(name string) error { return os.Remove(name) }
