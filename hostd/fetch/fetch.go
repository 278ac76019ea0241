// Package fetch brings a file over HTTP that is known by its hash. In come a
// URL, a SHA-256 and a path; out comes the whole file under the path, or a
// fault and no file. What was begun is kept beside the path and gone on with
// (RFC 9110, sections 13.1.5 If-Range and 14 Range), after whatever ended it.
// The server is not trusted: the hash decides, and bounds say how much is read.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// Limits.
const (
	// MaxSize bounds a file in bytes: the largest models have some TB.
	MaxSize = 4 << 40
	// attempts is how often a transfer that makes no progress is begun.
	attempts = 5
	// stall is how long a server may be silent.
	stall = time.Minute
	// reportEvery bounds how often progress is told.
	reportEvery = 200 * time.Millisecond
	maxNote     = 16 << 10
	bufferSize  = 1 << 20
)

// Suffixes of what is kept beside the path until the file is whole.
const (
	partSuffix = ".part"
	noteSuffix = ".part.json"
)

// Phases of a transfer.
const (
	Checking    = "checking"    // what is there already
	Downloading = "downloading" // bytes arrive
	Waiting     = "waiting"     // before another attempt
	Done        = "done"
)

// Progress is how far a transfer is.
type Progress struct {
	Name  string `json:"name"` // the file's
	Phase string `json:"phase"`
	Bytes int64  `json:"bytes"` // that are there
	Total int64  `json:"total"` // 0: not known
	// Resumed is how many bytes were there from an earlier time.
	Resumed int64  `json:"resumed,omitempty"`
	Error   string `json:"error,omitempty"` // why it waits
}

// Options of a transfer.
type Options struct {
	URL    string
	SHA256 string // hex
	Size   int64  // 0: not known beforehand
	Path   string // of the file
	// Report is told of progress, a few times a second at most, and of every
	// change of phase; nil: nobody is.
	Report func(Progress)
	HTTP   *http.Client // nil: the default, with a proxy from the environment
	// Pause is before another attempt; 0: a second, then twice as long each time.
	Pause time.Duration
	// Stall is how long a server may be silent; 0: a minute.
	Stall time.Duration
}

// note says what a part is the beginning of.
type note struct {
	URL    string `json:"url"`
	SHA256 string `json:"sha256"`
	ETag   string `json:"etag"` // a strong one, or empty
	Date   string `json:"last_modified"`
	Total  int64  `json:"total"` // 0: not known
}

// transfer is a file that is being brought.
type transfer struct {
	o       Options
	note    note
	part    *os.File
	have    int64 // bytes in part, all of them in sum
	resumed int64
	sum     hash.Hash
	told    time.Time
}

// File brings the file. One that is there already with this hash is left as it
// is. When ctx ends, what has arrived is kept for the next time.
func File(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	t := &transfer{o: o, sum: sha256.New()}
	if ok, err := t.present(); ok || err != nil {
		return err
	}
	if err := t.open(); err != nil {
		return err
	}
	defer t.part.Close()
	for {
		if err := t.bring(ctx); err != nil {
			return err
		}
		err := t.finish()
		if err == nil {
			t.tell(Done, true, "")
			return nil
		}
		if !fault.Has(err, "fetch.hash") || t.resumed == 0 {
			return err
		}
		// What an earlier time left may be at fault, such as after a crash of the
		// machine: once more, from the beginning.
		if rerr := t.restart(); rerr != nil {
			return errors.Join(err, rerr)
		}
	}
}

func (o *Options) check() error {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fault.New(fault.ExitParse, "fetch.url", "give the file's address as https://HOST/PATH", "reading the address %.200q: not one of HTTP", o.URL)
	}
	if b, err := hex.DecodeString(o.SHA256); err != nil || len(b) != sha256.Size || o.SHA256 != strings.ToLower(o.SHA256) {
		return fault.New(fault.ExitParse, "fetch.hash.parse", "give the file's SHA-256 as 64 lower-case hex digits", "reading the hash %.80q", o.SHA256)
	}
	if o.Size < 0 || o.Size > MaxSize {
		return tooLarge(o.Size)
	}
	return nil
}

func tooLarge(n int64) error {
	return fault.New(fault.ExitParse, "fetch.too_large", "see whether the address is the right one", "bringing a file of %d bytes: at most %d", n, int64(MaxSize))
}

// present says whether the file is there already.
func (t *transfer) present() (bool, error) {
	f, err := os.Open(t.o.Path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, disk("looking for the file", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := t.copyHash(h, f)
	if err != nil {
		return false, disk("reading the file", err)
	}
	if hex.EncodeToString(h.Sum(nil)) != t.o.SHA256 {
		return false, nil // an older version, which is replaced once the new one is whole
	}
	t.have = n
	t.tell(Done, true, "")
	return true, nil
}

// copyHash hashes what r has and tells how far it is.
func (t *transfer) copyHash(h hash.Hash, r io.Reader) (int64, error) {
	buf, n := make([]byte, bufferSize), int64(0)
	for {
		m, err := r.Read(buf)
		h.Write(buf[:m])
		n += int64(m)
		t.have = n
		t.tell(Checking, false, "")
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// open opens what an earlier time left, if it is of the same file, or begins.
func (t *transfer) open() error {
	if err := os.MkdirAll(filepath.Dir(t.o.Path), 0o755); err != nil {
		return disk("making the directory", err)
	}
	f, err := os.OpenFile(t.o.Path+partSuffix, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return disk("opening the part", err)
	}
	t.part = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return fault.New(fault.ExitNotReady, "fetch.busy", "wait for the other one", "bringing %s: another process brings it already", filepath.Base(t.o.Path))
	}
	b, err := os.ReadFile(t.o.Path + noteSuffix)
	var n note
	if err != nil || jcs.Decode(b, maxNote, &n) != nil || n.URL != t.o.URL || n.SHA256 != t.o.SHA256 || n.Total < 0 || n.ETag == "" && n.Date == "" {
		return t.restart()
	}
	t.note = n
	t.resumed, err = t.copyHash(t.sum, f)
	if err != nil {
		return disk("reading the part", err)
	}
	t.have = t.resumed
	return nil
}

// restart forgets what is there.
func (t *transfer) restart() error {
	t.have, t.resumed, t.note = 0, 0, note{}
	t.sum.Reset()
	err := t.part.Truncate(0)
	if err == nil {
		_, err = t.part.Seek(0, io.SeekStart)
	}
	if err != nil {
		return disk("beginning anew", err)
	}
	if err := os.Remove(t.o.Path + noteSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return disk("beginning anew", err)
	}
	return nil
}

// bring reads until everything is there, over as many connections as it takes.
func (t *transfer) bring(ctx context.Context) error {
	first := t.o.Pause
	if first == 0 {
		first = time.Second
	}
	pause := first
	for failed := 0; ; {
		before := t.have
		err := t.connection(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fault.New(fault.ExitNetwork, "fetch.interrupted", "run it again: what has arrived is kept", "bringing %s: %d bytes are there: %w", filepath.Base(t.o.Path), t.have, ctx.Err())
		}
		var again *retry
		if !errors.As(err, &again) {
			return err
		}
		if t.have > before {
			failed, pause = 0, first
		}
		if failed++; failed >= attempts {
			return fault.New(fault.ExitNetwork, "fetch.network", "run it again when the network is back: what has arrived is kept", "bringing %s: %d bytes are there: %w", filepath.Base(t.o.Path), t.have, again.err)
		}
		t.tell(Waiting, true, again.err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// retry is a failure after which another attempt may succeed.
type retry struct{ err error }

// Error implements error.
func (r *retry) Error() string { return r.err.Error() }

// Unwrap returns the cause.
func (r *retry) Unwrap() error { return r.err }

// connection asks once for what is missing and keeps what comes.
func (t *transfer) connection(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := t.o.Stall
	if silence == 0 {
		silence = stall
	}
	quiet := time.AfterFunc(silence, cancel)
	defer quiet.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.o.URL, nil)
	if err != nil {
		return fmt.Errorf("asking for the file: %w", err)
	}
	// Whole bytes, as they are hashed.
	req.Header.Set("Accept-Encoding", "identity")
	if t.have > 0 {
		if t.note.Total > 0 && t.have >= t.note.Total {
			return nil // only the last step was missing
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", t.have))
		req.Header.Set("If-Range", or(t.note.ETag, t.note.Date))
	}
	client := t.o.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return &retry{err}
	}
	defer resp.Body.Close()
	if err := t.begin(resp); err != nil {
		return err
	}
	return t.keep(resp.Body, func() { quiet.Reset(silence) })
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// begin judges an answer's status: the rest of the file, or another from its
// beginning.
func (t *transfer) begin(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusPartialContent && t.have > 0:
		var first, last, total int64
		if n, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &total); err != nil || n != 3 || first != t.have || last+1 != total || t.note.Total > 0 && total != t.note.Total {
			// Not what was asked for: from the beginning.
			return errors.Join(&retry{fmt.Errorf("asking for the rest: the server sent range %.100q", resp.Header.Get("Content-Range"))}, t.restart())
		}
		return t.room(total)
	case resp.StatusCode == http.StatusOK:
		if t.have > 0 {
			if err := t.restart(); err != nil {
				return err
			}
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && t.have > 0:
		return errors.Join(&retry{errors.New("asking for the rest: the server has less than is here")}, t.restart())
	case resp.StatusCode/100 == 5 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout:
		return &retry{fmt.Errorf("asking for the file: HTTP status %d", resp.StatusCode)}
	default:
		return fault.New(fault.ExitNetwork, "fetch.status", "see whether the address is the right one", "asking for %s: HTTP status %d", t.o.URL, resp.StatusCode)
	}
	total := max(resp.ContentLength, 0)
	if t.o.Size > 0 && total > 0 && total != t.o.Size {
		return fault.Mismatch(fault.ExitRefused, "fetch.size", "size of "+t.o.URL, fmt.Sprint(t.o.Size), fmt.Sprint(total), "see whether the address is the right one")
	}
	t.note = note{URL: t.o.URL, SHA256: t.o.SHA256, Date: resp.Header.Get("Last-Modified"), Total: total}
	// A weak one does not promise the same bytes (RFC 9110, section 8.8.1).
	if e := resp.Header.Get("ETag"); !strings.HasPrefix(e, "W/") {
		t.note.ETag = e
	}
	if err := t.room(total); err != nil {
		return err
	}
	b, err := json.Marshal(t.note)
	if err == nil {
		err = os.WriteFile(t.o.Path+noteSuffix, b, 0o644)
	}
	if err != nil {
		return disk("noting what is brought", err)
	}
	return nil
}

// limit is how many bytes the file may have.
func (t *transfer) limit() int64 {
	switch {
	case t.o.Size > 0:
		return t.o.Size
	case t.note.Total > 0:
		return t.note.Total
	}
	return MaxSize
}

// room refuses what the disk cannot hold, before it is full.
func (t *transfer) room(total int64) error {
	if total > MaxSize {
		return tooLarge(total)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(t.part.Fd()), &st); err != nil {
		return disk("looking for space", err)
	}
	if free := int64(min(st.Bavail*uint64(st.Bsize), 1<<62)); total-t.have > free {
		return &fault.Fault{Code: "fetch.disk.full", Exit: fault.ExitNotReady, Msg: "looking for space in " + filepath.Dir(t.o.Path), Expected: fmt.Sprintf("%d MiB free", (total-t.have)>>20+1), Actual: fmt.Sprintf("%d MiB", free>>20),
			Remedy: "make room and run it again: what has arrived is kept"}
	}
	return nil
}

// keep writes what comes.
func (t *transfer) keep(body io.Reader, alive func()) error {
	buf := make([]byte, bufferSize)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			alive()
			if t.have+int64(n) > t.limit() {
				return errors.Join(fault.New(fault.ExitRefused, "fetch.size", "see whether the address is the right one", "bringing %s: more than %d bytes came", t.o.URL, t.limit()), t.remove())
			}
			if _, werr := t.part.Write(buf[:n]); werr != nil {
				// How much of it is there is found out by reading it the next time.
				return disk("writing the part", werr)
			}
			t.sum.Write(buf[:n])
			t.have += int64(n)
			t.tell(Downloading, false, "")
		}
		switch {
		case errors.Is(err, io.EOF):
			if want := t.note.Total; want > 0 && t.have < want {
				return &retry{io.ErrUnexpectedEOF}
			}
			return nil
		case err != nil:
			return &retry{err}
		}
	}
}

// finish gives the file its name if its hash is right, and removes it if not.
func (t *transfer) finish() error {
	if got := hex.EncodeToString(t.sum.Sum(nil)); got != t.o.SHA256 {
		err := fault.Mismatch(fault.ExitRefused, "fetch.hash", "SHA-256 of "+t.o.URL, t.o.SHA256, got, "the file was removed; take it from somewhere else, or correct the hash")
		if t.resumed > 0 {
			return err // it is begun anew
		}
		return errors.Join(err, t.remove())
	}
	if err := t.part.Sync(); err != nil {
		return disk("writing the file", err)
	}
	if err := os.Rename(t.o.Path+partSuffix, t.o.Path); err != nil {
		return disk("naming the file", err)
	}
	if err := os.Remove(t.o.Path + noteSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return disk("cleaning up", err)
	}
	d, err := os.Open(filepath.Dir(t.o.Path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return disk("naming the file", err)
	}
	return nil
}

// remove removes what was brought and is refused.
func (t *transfer) remove() error {
	var errs []error
	for _, suffix := range []string{partSuffix, noteSuffix} {
		if err := os.Remove(t.o.Path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func disk(what string, err error) error {
	code, remedy := "fetch.disk", "see whether the directory can be written to"
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		code, remedy = "fetch.disk.full", "make room and run it again: what has arrived is kept"
	}
	return fault.New(fault.ExitNotReady, code, remedy, "%w", fmt.Errorf("%s: %w", what, err))
}

// tell reports progress; unless it must, not more often than reportEvery.
func (t *transfer) tell(phase string, must bool, why string) {
	now := time.Now()
	if t.o.Report == nil || !must && now.Sub(t.told) < reportEvery {
		return
	}
	t.told = now
	total := t.o.Size
	if total == 0 {
		total = t.note.Total
	}
	t.o.Report(Progress{Name: filepath.Base(t.o.Path), Phase: phase, Bytes: t.have, Total: total, Resumed: t.resumed, Error: why})
}
