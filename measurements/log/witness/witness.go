// Package witness cosigns checkpoints of transparency logs (C2SP tlog-witness
// and tlog-cosignature): a checkpoint and the proof that it has every entry of
// the last one that was cosigned come in, a timed signature goes out. Of each
// log a witness cosigns one history: whoever sees its signature knows that
// nobody is shown another.
//
// The latest checkpoint of a log is on disk, synced, before its cosignature
// leaves. A witness whose state is damaged does not start, and one that lost it
// would begin anew: who copies it elsewhere makes two of it.
package witness

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// Limits.
const (
	MaxLogs    = 1024
	maxHashes  = 63 // tlog-witness: of a consistency proof
	MaxRequest = log.MaxCheckpoint + 64 + maxHashes*64
)

// Errors of Add, by kind; tlog-witness gives each a status.
var (
	ErrForm       = errors.New("not a request to add a checkpoint")
	ErrUnknownLog = errors.New("the log is none that this witness knows")
	ErrSignature  = errors.New("the checkpoint is not signed by its log's key")
	ErrProof      = errors.New("the proof does not show that the log has every entry of before")
)

// ConflictError says that a request does not start from the last checkpoint
// that was cosigned, or shows another of the same size.
type ConflictError struct{ Size uint64 } // of the last one

// Error returns it in words.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("the last checkpoint that was cosigned has %d entries, and it is none of this request's", e.Size)
}

// Options of Open.
type Options struct {
	Dir  string // of the state; made where it does not exist
	Name string // of the witness, a URL without a scheme
	Key  ed25519.PrivateKey
	Logs []log.Key // whose checkpoints are cosigned
}

// Witness is safe for concurrent use.
type Witness struct {
	dir    string
	signer *fnote.Signer
	key    string
	lock   *os.File
	logs   map[string]*witnessed
}

// witnessed is a log with the last checkpoint that was cosigned.
type witnessed struct {
	key log.Key

	mu     sync.Mutex
	last   log.Checkpoint
	broken error // writing its state failed: nothing is cosigned until a restart reads it again
}

// Open reads the state. Only one process has it open.
func Open(o Options) (w *Witness, err error) {
	if len(o.Logs) == 0 || len(o.Logs) > MaxLogs {
		return nil, fmt.Errorf("opening witness: %d logs, want 1 to %d", len(o.Logs), MaxLogs)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening witness: %w", err)
	}
	w = &Witness{dir: o.Dir, logs: map[string]*witnessed{}}
	if w.signer, w.key, err = cosigner(o.Name, o.Key); err != nil {
		return nil, err
	}
	if w.lock, err = os.OpenFile(filepath.Join(o.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("opening witness: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
			w = nil
		}
	}()
	if err := unix.Flock(int(w.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return w, fmt.Errorf("opening witness: another process has %s open: %w", o.Dir, err)
	}
	for _, k := range o.Logs {
		if w.logs[k.Origin] != nil {
			return w, fmt.Errorf("opening witness: log %s is named twice", k.Origin)
		}
		l := &witnessed{key: k, last: log.Checkpoint{Origin: k.Origin, Root: digest.Sum256(nil)}}
		raw, err := os.ReadFile(w.path(k.Origin))
		if err == nil {
			var c *log.Checkpoint
			if c, err = log.OpenCheckpoint(raw, k); err == nil {
				l.last = *c
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return w, fmt.Errorf("reading the last checkpoint of %s: %w", k.Origin, err)
		}
		w.logs[k.Origin] = l
	}
	return w, nil
}

// cosigner returns the signer of a name, and its verifier key (signed-note, type
// 0x04).
func cosigner(name string, key ed25519.PrivateKey) (*fnote.Signer, string, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, "", errors.New("opening witness: an Ed25519 key is needed")
	}
	k, err := log.NewKey(name, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, "", err
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(k.String(), name+"+"), "+")
	s, err := fnote.NewSignerForCosignatureV1(fmt.Sprintf("PRIVATE+KEY+%s+%s+%s", name, id, base64.StdEncoding.EncodeToString(append([]byte{1}, key.Seed()...))))
	if err != nil {
		return nil, "", fmt.Errorf("making cosigner: %w", err)
	}
	v, err := fnote.VKeyToCosignatureV1(k.String())
	if err != nil {
		return nil, "", fmt.Errorf("making cosigner: %w", err)
	}
	return s, v, nil
}

// Close lets another process open the state.
func (w *Witness) Close() error { return w.lock.Close() }

// Key returns the witness's verifier key, as policies name it.
func (w *Witness) Key() string { return w.key }

// path is the file of a log's last checkpoint.
func (w *Witness) path(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return filepath.Join(w.dir, hex.EncodeToString(sum[:])+".checkpoint")
}

// request is what tlog-witness's add-checkpoint takes.
type request struct {
	old        uint64
	proof      []digest.SHA256
	checkpoint []byte
}

// parse reads a request: "old", a size, lines of hashes, an empty line, and the
// checkpoint.
func parse(body []byte) (*request, error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	text, old := strings.CutPrefix(lines[0], "old ")
	size, err := strconv.ParseUint(text, 10, 63)
	if len(body) > MaxRequest || !ok || !old || err != nil || strconv.FormatUint(size, 10) != text || len(lines) > 1+maxHashes {
		return nil, fmt.Errorf("reading request of %d bytes: %w", len(body), ErrForm)
	}
	r := &request{old: size, checkpoint: checkpoint}
	for _, l := range lines[1:] {
		b, err := base64.StdEncoding.Strict().DecodeString(l)
		if err != nil || len(b) != len(digest.SHA256{}) {
			return nil, fmt.Errorf("reading request: a hash: %w", ErrForm)
		}
		r.proof = append(r.proof, digest.SHA256(b))
	}
	return r, nil
}

// Add cosigns the checkpoint of a request (tlog-witness, add-checkpoint): it
// returns the cosignature as a line of a signed note. The last checkpoint is
// replaced on disk before that. One that is asked for again gets another
// signature, of its own time.
func (w *Witness) Add(body []byte) ([]byte, error) {
	r, err := parse(body)
	if err != nil {
		return nil, err
	}
	origin, _, _ := strings.Cut(string(r.checkpoint), "\n")
	l := w.logs[origin]
	if l == nil {
		return nil, fmt.Errorf("adding a checkpoint: %w", ErrUnknownLog)
	}
	c, err := log.OpenCheckpoint(r.checkpoint, l.key)
	switch {
	case errors.Is(err, log.ErrSignature):
		return nil, fmt.Errorf("adding a checkpoint: %w: %w", ErrSignature, err)
	case err != nil:
		return nil, fmt.Errorf("adding a checkpoint: %w: %w", ErrForm, err)
	case r.old > c.Size:
		return nil, fmt.Errorf("adding a checkpoint of %d entries to %d: %w", c.Size, r.old, ErrForm)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return nil, l.broken
	}
	// The one place that decides what is cosigned: nothing but what follows the
	// last one (tlog-witness, add-checkpoint).
	if r.old != l.last.Size || c.Size == l.last.Size && c.Root != l.last.Root {
		return nil, &ConflictError{l.last.Size}
	}
	if err := c.CheckConsistency(&l.last, r.proof); err != nil {
		return nil, fmt.Errorf("adding a checkpoint: %w: %w", ErrProof, err)
	}
	if c.Size > l.last.Size || l.last.Raw == nil {
		if err := replace(w.path(origin), c.Raw); err != nil {
			l.broken = fmt.Errorf("keeping the last checkpoint of %s: %w", origin, err)
			return nil, l.broken
		}
		l.last = *c
	}
	return w.cosign(c)
}

// cosign returns the signature line over a checkpoint (tlog-cosignature,
// cosignature/v1).
func (w *Witness) cosign(c *log.Checkpoint) ([]byte, error) {
	text, _, _ := bytes.Cut(c.Raw, []byte("\n\n"))
	n, err := note.Sign(&note.Note{Text: string(text) + "\n"}, w.signer)
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	_, line, ok := bytes.Cut(n, []byte("\n\n"))
	if !ok || len(line) < 8 {
		return nil, errors.New("cosigning: the note has no signature")
	}
	return line, nil
}

// replace puts a file in the place of another in one step that survives a crash.
func replace(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
